"""Reads from Redis how long scripts took in the server: each call, told apart by the script, and of a control beside them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Any, Self, cast

from redis import Redis

#: The control: what any script waits for that has nothing to do. Beside it work that is always the same and about as long as a
#: claim's: what its quantiles differ by is the machine, which a control is too short to meet.
CONTROL, SPIN = "return 1", "local n = 0 for i = 1, 100000 do n = n + i end return n"
SPIN_EACH = 16  #: controls
CONTROL_EVERY_S, READ_EVERY_S = 0.004, 0.25
#: Shorter calls are not logged, nor the commands in scripts that are; a control that is not counts as one that took so long.
LOGGED_US = 20
SLOWLOG = {"slowlog-log-slower-than": LOGGED_US, "slowlog-max-len": 50_000}


class Gauge:
    """Runs the control, and reads the log of calls, in threads of its own; use it in a ``with`` block."""

    def __init__(self, port: int, scripts: dict[str, str]) -> None:
        """Measure nothing yet.

        Args:
            port: of the server.
            scripts: function or SHA1 of each that is told apart, and its name.
        """
        self._redis = Redis(port=port)
        self._control, self._spin = (str(self._redis.script_load(script)) for script in (CONTROL, SPIN))
        known = scripts | {self._control: "control", self._spin: "spin"}
        self._names = {sha.encode(): name for sha, name in known.items()}
        self._took: defaultdict[str, list[int]] = defaultdict(list)
        self._n_controls = 0
        self._ends = threading.Event()
        self._reading = threading.Lock()
        self._threads = [threading.Thread(target=each) for each in (self._run_control, self._read_all)]
        for name, value in SLOWLOG.items():
            self._redis.config_set(name, value)

    def __enter__(self) -> Self:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ends.set()
        for thread in self._threads:
            thread.join()
        self._redis.close()

    def measure_anew(self) -> None:
        """Forget what was seen so far."""
        self._read()
        with self._reading:
            self._took.clear()
            self._n_controls = 0

    def figures(self) -> dict[str, dict[str, float]]:
        """Give for each script how often it ran for longer than what is logged, and the ms that it took."""
        self._read()
        with self._reading:
            took = {
                **self._took,
                "control": self._took["control"] + [LOGGED_US] * (self._n_controls - len(self._took["control"])),
            }
            return {name: _figures(sorted(us)) for name, us in sorted(took.items())}

    def _run_control(self) -> None:
        with self._redis.client() as client:
            while not self._ends.wait(CONTROL_EVERY_S):
                client.evalsha(self._control, 0)
                self._n_controls += 1
                if self._n_controls % SPIN_EACH == 0:
                    client.evalsha(self._spin, 0)

    def _read_all(self) -> None:
        while not self._ends.wait(READ_EVERY_S):
            self._read()

    def _read(self) -> None:
        with self._reading, self._redis.pipeline(transaction=True) as pipe:
            pipe.execute_command("SLOWLOG", "GET", -1)
            pipe.execute_command("SLOWLOG", "RESET")
            entries = cast("list[Any]", pipe.execute()[0])
            for _, _, took_us, words, *_ in entries:
                if words[0] in {b"FCALL", b"EVALSHA"}:
                    self._took[self._names.get(words[1], "others")].append(took_us)


def _figures(took_us: list[int]) -> dict[str, float]:
    """Give quantiles, ms."""

    def at(share: float) -> float:
        return round(took_us[min(len(took_us) - 1, int(share * len(took_us)))] / 1000, 3)

    return {"n": len(took_us), "p50": at(0.5), "p99": at(0.99), "p99_9": at(0.999), "max": at(1)}


class Cpu:
    """Counts the CPU seconds of the server's process, without children that rewrite its log."""

    def __init__(self, redis: Redis) -> None:
        """Count from now on."""
        self._redis, self._began = redis, time.monotonic()
        self._cpu_s = self._now()

    def _now(self) -> float:
        info = cast("dict[str, Any]", self._redis.info("cpu"))
        return float(info["used_cpu_sys"] + info["used_cpu_user"])

    def share(self) -> float:
        """Say which share of a core it was."""
        return round((self._now() - self._cpu_s) / (time.monotonic() - self._began), 3)
