"""The process that runs batches: ``python -m api.batches.main``. Any number of them may run, on any machine."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress

import structlog

from api.batches.runner import BatchRunner
from api.services import make_services
from shared.aio import cancel_all
from shared.errors import StoreUnsafe
from shared.logs import start_part
from shared.settings import Settings
from shared.store.connection import connect
from shared.tracing import tracer

log = structlog.get_logger()


async def run(settings: Settings) -> None:
    """Run batches until SIGTERM or Ctrl-C, then hand them back.

    Raises:
        StoreUnsafe: Redis could lose jobs.
    """
    async with connect(settings) as redis:
        services = make_services(settings, redis, "batches")
        runner = BatchRunner(services)
        checking = asyncio.create_task(services.check.until_safe())

        def leave() -> None:
            runner.leave()
            checking.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, leave)
        with suppress(asyncio.CancelledError):
            await checking
        present = asyncio.create_task(services.presence.keep())
        try:
            await runner.serve()
        finally:
            await cancel_all({present})
        await services.presence.leave()


def main() -> int:
    """Run batches; gives the exit code."""
    settings = start_part("batches")
    try:
        asyncio.run(run(settings))
    except StoreUnsafe as error:
        log.error("store.unsafe", error=error.message)  # noqa: TRY400  # the message says it all
        return 1
    except Exception:
        log.exception("batches.crashed")
        return 1
    finally:
        tracer().end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
