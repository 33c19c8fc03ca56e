"""Which models answer: those of the workers, and the gateway's own, which is taken where a job names none."""

from __future__ import annotations

import time

from shared.errors import ModelNotReady, ModelUnknown
from shared.store.workers import WorkerRegistry

#: Heartbeats come once a second; whoever names a model need not have them read for each request.
FRESH_S = 1.0


class Models:
    """What the workers' heartbeats say of their models."""

    def __init__(self, workers: WorkerRegistry, default: str) -> None:
        """Know nothing yet.

        Args:
            workers: where they tell of themselves.
            default: the gateway's own; its jobs are taken, and wait, also while no worker of it is there.
        """
        self._workers, self.default = workers, default
        self._is_ready: dict[str, bool] = {}
        self._read_s = float("-inf")

    async def ready(self) -> list[str]:
        """Name the models that a ready worker answers as; where none is, the one that jobs will wait for."""
        return [name for name, is_ready in (await self._look()).items() if is_ready] or [self.default]

    async def check(self, name: str | None) -> None:
        """Let a job through whose model somebody will answer as.

        Raises:
            ModelUnknown: nobody does.
            ModelNotReady: its workers are there, and not ready.
        """
        if name in {None, self.default}:
            return
        known = await self._look()
        if known.get(str(name)):
            return
        there = ", ".join(await self.ready())
        if name in known:
            msg = f"no worker of {name} is ready now; ready: {there}"
            raise ModelNotReady(msg, param="model", retry_after_s=5)
        msg = f"this service serves {there}, not {str(name)[:100]}"
        raise ModelUnknown(msg, param="model")

    async def _look(self) -> dict[str, bool]:
        """Give each worker's model, and whether one of its workers is ready."""
        if time.monotonic() - self._read_s > FRESH_S:
            is_ready: dict[str, bool] = {}
            for worker in await self._workers.workers():
                name = worker.get("model", self.default)
                is_ready[name] = is_ready.get(name, False) or worker["phase"] == "ready"
            self._is_ready, self._read_s = dict(sorted(is_ready.items())), time.monotonic()
        return self._is_ready
