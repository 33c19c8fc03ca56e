"""``sightline jobs``: what the service has been asked for, and what became of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Annotated

import typer

from sightline.client import Client, Job, ServiceError
from sightline.gateway_url import Json, Url, address
from sightline.screen import bad, note, print_json, print_text

jobs_app = typer.Typer(no_args_is_help=True, help="List, read, wait for, cancel and retry jobs.")
Id = Annotated[str, typer.Argument(metavar="ID", help="As `sightline jobs list` has it.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="As `sightline jobs list` has them.")]
SomeIds = Annotated[
    list[str] | None, typer.Argument(metavar="[ID…]", help="As `sightline jobs list` has them; or --group, --status.")
]
Status = Annotated[
    str | None, typer.Option(help="Only queued, running, succeeded, failed or cancelled ones; several by commas.")
]
Group = Annotated[str | None, typer.Option(help="Only those with this `group`.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before many jobs.")]
TEXT_CHARS = 80


@contextmanager
def _client(url: str | None) -> Iterator[Client]:
    with Client(address(url)) as client:
        yield client


@jobs_app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="How many, newest first; 0 is all.")] = 20,
    status: Status = None,
    group: Group = None,
    words: Annotated[str | None, typer.Option("--words", help="Only those with these words in prompt or metadata.")] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """List jobs, newest first."""
    wanted, n = _given(status=status, group=group, q=words), 0
    with _client(url) as client:
        for n, job in enumerate(islice(client.jobs(**wanted), limit or None), 1):  # noqa: B007  # it is looked at behind
            if as_json:
                print_json(dict(job))
            else:
                print_text(_line(job))
    if not n and not as_json:
        note("no such jobs" if wanted else "no jobs yet")


@jobs_app.command()
def get(job_id: Id, url: Url = None) -> None:
    """Print all that is known of a job, as JSON."""
    with _client(url) as client:
        print_json(dict(client.job(job_id)), indent=1)


@jobs_app.command()
def wait(
    job_ids: Ids,
    timeout: Annotated[float | None, typer.Option(help="Seconds; left out: as long as it takes.")] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Wait for jobs and print their texts, in the order given; 1 where one failed."""
    all_good = True
    until_s = None if timeout is None else time.monotonic() + timeout
    with _client(url) as client:
        for job_id in job_ids:
            job = client.wait(job_id, timeout_s=None if until_s is None else max(0.0, until_s - time.monotonic()))
            all_good &= job.status == "succeeded"
            if as_json:
                print_json(dict(job))
            elif job.status == "succeeded":
                print_text(job.text or "")
            else:
                bad(f"{job.id}: {job.error or job.status}")
    raise typer.Exit(0 if all_good else 1)


@jobs_app.command()
def cancel(job_ids: SomeIds = None, group: Group = None, status: Status = None, yes: Yes = False, url: Url = None) -> None:
    """Cancel jobs: queued ones at once, running ones within about a second."""
    if not job_ids:
        _many("cancel", _given(group=group, status=status), url, yes=yes)
    all_good = True
    with _client(url) as client:
        for job_id in job_ids or ():
            try:
                print(f"{job_id} {Job(client, {'id': job_id, 'status': 'running'}).cancel().status}", flush=True)
            except ServiceError as error:
                if error.is_lost:
                    raise
                all_good = False
                bad(f"{job_id}: {error}")
    raise typer.Exit(0 if all_good else 1)


@jobs_app.command()
def retry(job_ids: SomeIds = None, group: Group = None, status: Status = None, yes: Yes = False, url: Url = None) -> None:
    """Try jobs anew that have ended, and print the new ids; of a group those that failed, unless --status names others."""
    if not job_ids:
        _many("retry", _given(group=group, status=status), url, yes=yes)
    with _client(url) as client:
        for job_id in job_ids or ():
            print(client.job(job_id).retry().id, flush=True)


@jobs_app.command()
def events(
    job_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Left out: the states of all jobs.")] = None,
    url: Url = None,
) -> None:
    """Print events as they happen, a JSON object a line: of a job up to its end, or of all until Ctrl-C."""
    path = f"/v1/jobs/{job_id}/events" if job_id else "/v1/events"
    with _client(url) as client, suppress(KeyboardInterrupt):
        for event in client.events(path):
            print_json({"id": event.id, "type": event.type, "data": event.data})


def _given(**filters: str | None) -> dict[str, str]:
    return {name: value for name, value in filters.items() if value}


def _many(verb: str, wanted: dict[str, str], url: str | None, *, yes: bool) -> None:
    """Count what matches, ask, and do it in as many calls as it takes."""
    if not wanted:
        raise typer.BadParameter("name some ids, or --group or --status")
    with _client(url) as client:
        body = {"filter": wanted}
        matched = client.request("POST", f"/v1/jobs/{verb}", json={**body, "dry_run": True})["matched"]
        if matched and not yes:
            typer.confirm(f"{verb} {matched} jobs?", abort=True, err=True)
        done, step = 0, matched
        while step and done < matched:
            step = client.request("POST", f"/v1/jobs/{verb}", json=body)["done"]
            done += step
        print(f"{done} of {matched}", flush=True)


def _line(job: Job) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["created_at"]))
    said = " ".join(job.text.split()) or str(job.error or job.get("stage") or "")
    name = (job.get("metadata") or {}).get("path")
    parts = [job.id, f"{job.status:9}", at, *([json.dumps(name, ensure_ascii=False)] if name else []), said[:TEXT_CHARS]]
    return "  ".join(part for part in parts if part)
