"""What a worker's process counts for Prometheus; see :mod:`shared.process_metrics`."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from shared.process_metrics import SECONDS

ATTEMPTS = Counter("sightline_attempts", "Attempts at jobs that ended in this process, by how.", ["outcome"])
STAGE_SECONDS = Histogram(
    "sightline_job_stage_seconds", "What jobs that got an output spent in each stage.", ["stage"], buckets=SECONDS
)
FETCHED_BYTES = Counter("sightline_media_fetched_bytes", "What others' hosts sent of pictures and videos.")
DECODER_DEATHS = Counter("sightline_decoder_deaths", "Decoders that ended with a file in hand, by why.", ["why"])
for why in ("timeout", "killed", "crashed"):
    DECODER_DEATHS.labels(why)  # 0 is a figure, too: without it a board shows nothing until the first one
