"""One shape for every log line: a static event name, then ids. No prompts, no media, no secrets."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog

from shared import tracing
from shared.process_metrics import open_metrics
from shared.settings import Settings
from shared.variables import read_settings, unknown_variables


class LossyStderr:
    """The place of log lines: a disk without room for one costs that line, not the request or the job that wrote it."""

    def write(self, text: str) -> None:
        """Write a line, or lose it."""
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Hand it on, or lose it."""
        with suppress(OSError):
            sys.stderr.flush()


def set_up_logs(part: str, *, as_json: bool | None = None) -> None:
    """Send structlog and the standard library's loggers to stderr in one form.

    Args:
        part: what is running: gateway, worker, webhooks.
        as_json: JSON lines or readable ones; left out: JSON unless stderr is a terminal.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        tracing.name_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    encode = json.JSONEncoder(ensure_ascii=False, default=repr).encode  # made once: json.dumps makes one for every line
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(lambda event, **_: encode(event)) if as_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[*shared, renderer],
        # past logging, which takes four times as long
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", LossyStderr())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(part=part)


def start_part(part: str) -> Settings:
    """Read a part's settings, set its logs up and begin its traces; the first lines tell what is wrong with its variables.

    Args:
        part: as for :func:`set_up_logs`.

    Raises:
        SystemExit: a variable holds what its setting cannot be.
    """
    settings, wrong = read_settings()
    set_up_logs(part, as_json=settings.log_json)
    if settings.otel and not wrong:
        wrong = tracing.begin(part)
    log = structlog.get_logger()
    for sentence in unknown_variables():
        log.warning("setting.unknown", error=sentence)
    for sentence in wrong:
        log.error("setting.invalid", error=sentence)
    if wrong:
        raise SystemExit(1)
    open_metrics(settings)
    return settings
