"""The process that delivers events: ``python -m worker.main webhooks``. Any number of them may run, on any machine."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

import structlog
import uvloop

from shared.errors import StoreUnsafe
from shared.logs import start_part
from shared.settings import Settings
from worker.webhooks.sender import Sender

log = structlog.get_logger()


async def _serve(settings: Settings) -> None:
    sender = Sender(settings)
    checking = asyncio.create_task(sender.check.until_safe())

    def leave() -> None:
        sender.leave()
        checking.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leave)
    try:
        with suppress(asyncio.CancelledError):
            await checking
        log.info("worker.ready")
        await sender.serve()
    finally:
        await sender.close()


def run() -> int:
    """Deliver events until SIGTERM or Ctrl-C; gives the exit code."""
    settings = start_part("webhooks")
    try:
        uvloop.run(_serve(settings))
    except StoreUnsafe as error:
        log.error("store.unsafe", error=error.message)  # noqa: TRY400  # the message says it all
        return 1
    except ValueError as error:  # the secret is none; the message says what to do
        log.error("worker.failed", error=str(error))  # noqa: TRY400  # the traceback would bury it
        return 1
    except Exception:
        log.exception("worker.crashed")
        return 1
    return 0
