"""``sightline describe``: a job for each picture or video, and what came of it, in the order of the arguments."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sightline.client import Client, ServiceError
from sightline.screen import bad, note, notes, print_json

VIDEOS = (".mp4", ".mov", ".mkv", ".webm")
NOTICE_S = 1.5
#: Codes of the client's own, after which nothing more can be asked.
_LOST = {"unreachable", "not_sightline"}


def describe_all(client: Client, media: Sequence[str], prompt: str, *, as_json: bool) -> bool:
    """Submit them all, then print what came of each.

    Returns:
        Whether all were described.

    Raises:
        ServiceError: the service is not there, or no longer.
    """
    prompt = os.fsencode(prompt).decode(errors="replace")  # as it was typed, whatever Python's locale made of it
    failed, taken, ended = 0, 0, 0
    with _bars(len(media)) as (bars, sent, done):
        try:
            jobs = []
            for name in media:
                jobs.append((name, _submit(client, name, prompt)))
                taken += "id" in jobs[-1][1]
                bars.advance(sent)
            _warn_of_no_worker(client)
            for name, accepted in jobs:
                job: Mapping[str, Any] = client.wait(accepted["id"]) if "id" in accepted else accepted
                ended += "id" in accepted
                failed += job["status"] != "succeeded"
                bars.advance(done)
                with _off_screen(bars):
                    _show(name, job, as_json=as_json)
        except (KeyboardInterrupt, ServiceError):
            if taken > ended:
                note(f"{taken - ended} jobs that were sent go on in the service; GET /v1/jobs lists them")
            raise
    if len(media) > 1:
        note(f"{len(media) - failed} described" + (f", {failed} failed" if failed else ""))
    return not failed


@contextmanager
def _bars(total: int) -> Iterator[tuple[Progress, Any, Any]]:
    """Show two bars on standard error; standard output stays the caller's, and nothing of them is left behind."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, console=notes, transient=True, redirect_stdout=False, redirect_stderr=False)
    with bars if notes.is_terminal else nullcontext():  # elsewhere it would leave an empty line
        yield bars, bars.add_task("sent", total=total), bars.add_task("answered", total=total)


@contextmanager
def _off_screen(bars: Progress) -> Iterator[None]:
    """Take the bars away while a line goes to the same terminal, so that neither cuts the other."""
    shared = sys.stdout.isatty() and notes.is_terminal
    if shared:
        bars.stop()
    yield
    if shared:
        bars.start()


def _submit(client: Client, name: str, prompt: str) -> Mapping[str, Any]:
    """Submit one picture or video; what is refused comes back in the form of a failed job."""
    try:
        if name.startswith(("http://", "https://", "data:")):
            is_video = name.split("?", maxsplit=1)[0].lower().endswith(VIDEOS) or name.startswith("data:video/")
            reference = name
        else:
            upload = client.upload(Path(name))
            reference, is_video = upload["id"], upload["media_type"].startswith("video/")
        return client.submit({"prompt": prompt, **({"video": reference} if is_video else {"images": [reference]})})
    except (ServiceError, OSError) as error:
        if isinstance(error, ServiceError) and error.code in _LOST:
            raise
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        return {"status": "failed", "error": {"message": reason, "code": getattr(error, "code", "file")}, "output": None}


def _warn_of_no_worker(client: Client) -> None:
    for pause_s in (NOTICE_S, 0):  # asked twice: a worker that has just become ready says so within a second
        try:
            client.request("GET", "/readyz")
        except ServiceError as error:
            if error.code != "not_ready":
                return
            said = str(error)
            time.sleep(pause_s)
        else:
            return
    note(f"{said}; the jobs wait until one is")


def _show(name: str, job: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({"media": name, **job})
    elif job["status"] == "succeeded":
        print(f"{name}: {job['output']['text']}", flush=True)
    else:
        error = job["error"] or {}
        bad(f"{name}: {error.get('message') or job['status']} ({error.get('code') or job['status']})")
