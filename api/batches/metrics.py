"""What a batch runner tells Prometheus; see :mod:`shared.process_metrics`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

RUNNING = Gauge("sightline_batches_running", "Batches that this process runs.")
LINES = Counter("sightline_batch_lines", "Lines of batches that ended here, by the file that holds their result.", ["result"])
