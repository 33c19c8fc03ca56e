"""How full other task queues keep an engine of S slots x T seconds, beside ``bench.queue`` on the same machine.

``.venv/bin/python -m bench.queues --install`` first, once: each queue gets an environment of its own in ``.venv-queues``,
since arq and the others want different versions of redis-py. Each then runs one worker process, as its own documentation
advises, on a Valkey of its own: the backlog is there before the worker starts. Their task does nothing but hold a slot;
Sightline's, which ``bench.queue`` measures, fetches and decodes a picture besides. One JSON line for each comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import venv
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from redis import Redis
from redis.exceptions import RedisError

from bench.queue import STEADY
from shared.settings import ROOT
from sightline.stack import free_port

VENVS = ROOT / ".venv-queues"


@dataclass(frozen=True)
class Rival:
    """A task queue: what to install, and how its worker is started."""

    packages: tuple[str, ...]
    worker: tuple[str, ...]  #: a module of its environment, and arguments; {in_flight} is filled in


RIVALS = {
    "celery": Rival(
        ("celery[redis]>=5.7", "hiredis"),
        ("celery", "-A", "bench.queues.celery_app", "worker", "-P", "threads", "-c", "{in_flight}", "-l", "WARNING"),
    ),
    "taskiq": Rival(
        ("taskiq>=0.13", "taskiq-redis>=1.2", "hiredis"),
        ("taskiq", "worker", "bench.queues.taskiq_app:broker", "--workers", "1", "--max-async-tasks", "{in_flight}"),
    ),
    "dramatiq": Rival(
        ("dramatiq[redis]>=2.2", "hiredis"),
        ("dramatiq", "bench.queues.dramatiq_app", "--processes", "1", "--threads", "{in_flight}"),
    ),
    "arq": Rival(("arq>=0.28",), ("arq", "bench.queues.arq_app.WorkerSettings")),
}


def install() -> None:
    """Make an environment for each queue."""
    for name, rival in RIVALS.items():
        venv.create(VENVS / name, with_pip=True)
        subprocess.run([_python(name), "-m", "pip", "install", "--quiet", *rival.packages], check=True)  # noqa: S603


def _python(name: str) -> str:
    return str(VENVS / name / "bin/python")


def versions(name: str) -> str:
    """Say what is installed of a queue's packages."""
    code = "import importlib.metadata as m, sys; print(*(f'{p} {m.version(p)}' for p in sys.argv[1:]), sep=', ')"
    packages = [package.partition("[")[0].partition(">")[0] for package in RIVALS[name].packages]
    return subprocess.run([_python(name), "-c", code, *packages], check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603


def measure(name: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Run one queue's worker over a backlog; gives what to report."""
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
    ends = folder / "ends"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BENCH_SLOTS": str(arguments.slots),
        "BENCH_SECONDS": str(arguments.seconds),
        "BENCH_IN_FLIGHT": str(arguments.in_flight),
        "BENCH_JOBS": str(arguments.jobs),
        "BENCH_REDIS_URL": f"redis://127.0.0.1:{port}/0",
        "BENCH_ENDS": str(ends),
    }
    command = [argument.format(in_flight=arguments.in_flight) for argument in RIVALS[name].worker]
    with subprocess.Popen([sys.executable, "-m", "sightline.embedded", str(port), str(folder)]) as redis:  # noqa: S603
        try:
            _wait_for_redis(environment["BENCH_REDIS_URL"])
            fill = [_python(name), "-m", f"bench.queues.{name}_app"]
            subprocess.run(fill, env=environment, cwd=ROOT, check=True)  # noqa: S603
            with (folder / "log").open("wb") as log:
                worker = subprocess.Popen(  # noqa: S603
                    [_python(name), "-m", *command], env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
                )
            try:
                cpu_s = _wait_for_ends(ends, worker, arguments.jobs)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        finally:
            redis.terminate()
    times = sorted(map(float, ends.read_text().split()))
    first, last = (int(share * (len(times) - 1)) for share in STEADY)
    per_s = (last - first) / (times[last] - times[first])
    return {
        "queue": versions(name),
        "per_s": round(per_s, 1),
        "share_of_ideal": round(per_s * arguments.seconds / arguments.slots, 3),
        "worker_cpu_ms": round(cpu_s / len(times) * 1000, 2),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _wait_for_redis(url: str) -> None:
    with Redis.from_url(url) as redis:
        for _ in range(100):
            try:
                redis.ping()
            except RedisError:
                time.sleep(0.1)
            else:
                return


def _wait_for_ends(ends: Path, worker: subprocess.Popen[bytes], count: int) -> float:
    """Wait until all jobs have ended; gives the CPU seconds of the worker and its children."""
    while not ends.exists() or ends.read_bytes().count(b"\n") < count:
        if worker.poll() is not None:
            msg = f"the worker ended with exit code {worker.returncode}; see {ends.parent / 'log'}"
            raise SystemExit(msg)
        time.sleep(0.5)
    parent = psutil.Process(worker.pid)
    times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
    return sum(float(used.user + used.system) for used in times)


def main() -> None:
    """Measure the queues one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="make the environments, and stop")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--in-flight", type=int, default=160, help="what a worker holds at a time, as Sightline's would")
    parser.add_argument("--seconds", type=float, default=1.0, help="what a job takes in its slot")
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--only", choices=list(RIVALS), action="append", help="this one; may be given again")
    arguments = parser.parse_args()
    if arguments.install:
        install()
        return
    for name in arguments.only or RIVALS:
        print(json.dumps(measure(name, arguments)), flush=True)


if __name__ == "__main__":
    main()
