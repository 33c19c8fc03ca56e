"""One job on the terminal: several files in one question, or a text that is printed while it is generated."""

from __future__ import annotations

import json
from uuid import uuid4

from sightline.client import AsyncClient
from sightline.client.ends import Ends
from sightline.describe.asking import Asker
from sightline.describe.progress import Display, Tally
from sightline.describe.question import Question
from sightline.describe.row import Row
from sightline.describe.sources import Sources, facts_of
from sightline.screen import Failure, print_json, print_text


async def describe_one(url: str, places: list[tuple[str, bytes]], question: Question, *, stream: bool, as_json: bool) -> int:
    """Ask about all of these in one job, and give the exit code.

    Raises:
        Failure: one of them is refused.
        ServiceError: all are.
    """
    async with AsyncClient(url) as client, Ends(client) as ends:
        asker = Asker(client, ends, question, series=uuid4().hex)
        row = Row(" + ".join(path for path, _ in places), request=question.fingerprint)
        row = await (_streamed(client, asker, row, places) if stream and not as_json else asker.ask_together(row, places))
        if as_json:
            print_json(json.loads(row.as_json()))
        elif row.is_good and not stream:
            print_text(row.text or "")
        await asker.settle()
    if not row.is_good:
        Display(Tally(), as_json=False).failure(row)
    return 0 if row.is_good else 1


async def _streamed(client: AsyncClient, asker: Asker, row: Row, places: list[tuple[str, bytes]]) -> Row:
    """Print the text while it is generated; one that begins again begins on a line of its own."""
    body, uploads = await asker.body_of(row, places)
    job = await client.submit(body)
    async for event in job.events():
        if event.type == "job.reset":
            print(flush=True)
        elif event.type == "job.delta":
            print_text(event.data["text"], end="")
    print(flush=True)
    asker.clear(uploads)
    return asker.fill(row, await job.wait())


def named(sources: Sources, *, several: bool) -> list[tuple[str, bytes]]:
    """Find what is to be shown: how a row names it, and where it is.

    Raises:
        Failure: it is nothing, or cannot be read, or is more than one where that is not wanted.
    """
    places = [(path, place) for path, place, _ in sources.all()]
    if not places:
        raise Failure("no picture or video was found there")
    if len(places) > 1 and not several:
        raise Failure(f"--stream prints the text of one, and {len(places):,} are named; --together shows them in one job")
    for path, place in places:
        try:
            if place:
                facts_of(place)
        except OSError as error:
            raise Failure(f"{path}: {error.strerror or error}") from error
    return places
