"""What thousands of silent readers cost everybody else: a client's submits beside streams and long polls of jobs that wait.

``python -m bench.streams [STREAMS] [POLLS]`` starts a gateway and a Valkey without workers, times submits at 20 a second alone
and beside the readers, who are held by processes of their own, and prints one JSON line. Readers and gateway share the machine.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import uvloop

from bench.load import Connection, get, post
from sightline.client import Client, ServiceError
from sightline.stack import Stack

STREAMS, POLLS = 10_000, 5_000
JOBS = 200  #: that the readers wait for
SUBMITS, PER_S = 600, 20
HELD = 2_500  #: readers that one process holds
AT_ONCE = 50
SUBMIT = post("/v1/jobs", {"prompt": "What?", "images": ["https://example.com/a.png"]})


async def submits(port: int) -> list[float]:
    """Submit at a steady rate, whatever the answers take; gives the milliseconds of each, in order of length."""
    took = list[float]()

    async def one(n: int) -> None:
        await asyncio.sleep(n / PER_S)
        async with Connection(port) as connection:
            began = time.perf_counter()
            await connection.ask(SUBMIT)
            took.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*map(one, range(SUBMITS)))
    return sorted(took)


def percentiles(took: list[float]) -> dict[str, float]:
    """Give what people ask for."""
    return {
        "p50_ms": round(took[len(took) // 2], 1),
        "p99_ms": round(took[len(took) * 99 // 100], 1),
        "max_ms": round(took[-1], 1),
    }


async def hold(port: int, kind: str, n: int, ids: list[str]) -> None:
    """Be ``n`` readers until the input ends; a long poll that is answered is asked again."""
    path = "/v1/jobs/{}/events" if kind == "streams" else "/v1/jobs/{}?wait={}"
    polling = set[asyncio.Task[None]]()

    async def one(k: int) -> None:
        job_id = ids[k % len(ids)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writer.write(get(path.format(job_id, 30 + k % 31)))  # spread out, as clients are who come one after another
        if kind == "streams":
            await reader.readuntil(b"data:")
        polling.add(asyncio.create_task(stay(reader, writer, job_id)))

    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, job_id: str) -> None:
        while await reader.read(4096) if kind == "streams" else await answered(reader):
            if kind == "polls":
                writer.write(get(path.format(job_id, 60)))
        print("a reader was sent away", file=sys.stderr)  # to whoever runs it

    for first in range(0, n, AT_ONCE):
        await asyncio.gather(*(one(k) for k in range(first, min(n, first + AT_ONCE))))
    sys.stdout.write("held\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    for task in polling:
        task.cancel()


async def answered(reader: asyncio.StreamReader) -> bytes:
    """Read one answer to its end: who asks again before it would have two requests on the way."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    return await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))


def holders(port: int, kind: str, n: int, ids: list[str]) -> list[subprocess.Popen[str]]:
    """Start processes that hold readers; returns when all of them are there."""
    started = []
    for first in range(0, n, HELD):
        asked = json.dumps([port, kind, min(HELD, n - first), ids])
        command = [sys.executable, "-m", "bench.streams", "hold", asked]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))  # noqa: S603
        assert started[-1].stdout is not None  # noqa: S101  # it is a pipe
        started[-1].stdout.readline()
    return started


def measure(stack: Stack, streams: int, polls: int) -> dict[str, Any]:
    """Take all figures on a stack that runs."""
    with Client(stack.url) as client:
        body = {"prompt": "What?", "images": ["https://example.com/a.png"]}
        ids = [str(client.submit(body)["id"]) for _ in range(JOBS)]
    uvloop.run(submits(stack.port))  # warm
    alone = percentiles(uvloop.run(submits(stack.port)))
    before_bytes = memory_bytes(stack)
    held = holders(stack.port, "streams", streams, ids)
    per_stream = (memory_bytes(stack) - before_bytes) / max(1, streams)
    held += holders(stack.port, "polls", polls, ids)
    time.sleep(10)
    full_bytes = memory_bytes(stack)
    beside = percentiles(uvloop.run(submits(stack.port)))
    for holder in held:
        holder.communicate()
    time.sleep(40)  # the gateway looks every five seconds
    left_bytes = memory_bytes(stack)
    after = percentiles(uvloop.run(submits(stack.port)))
    return {
        "streams": streams,
        "polls": polls,
        "alone": alone,
        "beside": beside,
        "after": after,
        "kb_a_stream": round(per_stream / 1000, 1),
        "memory_mb": {
            "before": round(before_bytes / 1e6),
            "with them": round(full_bytes / 1e6),
            "after they left": round(left_bytes / 1e6),
        },
    }


def memory_bytes(stack: Stack) -> int:
    """Say how much memory the gateway has."""
    status = Path(f"/proc/{stack.processes['gateway'].pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def main() -> None:
    """Start the service, measure, stop it."""
    if sys.argv[1:2] == ["hold"]:
        uvloop.run(hold(*json.loads(sys.argv[2])))
        return
    streams, polls = (int(given) for given in sys.argv[1:3]) if sys.argv[2:] else (STREAMS, POLLS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), workers=0) as stack:
        with Client(stack.url) as client:
            while not answers(client):
                time.sleep(0.1)
        sys.stdout.write(json.dumps(measure(stack, streams, polls)) + "\n")


def answers(client: Client) -> bool:
    """Ask whether the gateway is up."""
    try:
        return cast("bool", client.request("GET", "/livez")["status"] == "ok")
    except ServiceError:
        return False


if __name__ == "__main__":
    main()
