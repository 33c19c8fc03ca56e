"""``sightline describe``: its options, and how a run begins and ends."""

from __future__ import annotations

import asyncio
import json
import shlex
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.client import AsyncClient, ServiceError
from sightline.describe.file_index import FileIndex
from sightline.describe.lists import is_address
from sightline.describe.outputs import Outputs, open_rows
from sightline.describe.progress import Display, Tally
from sightline.describe.question import Preset, Question, default_prompt
from sightline.describe.run import Order, Run
from sightline.describe.sidecars import Sidecars, Where
from sightline.describe.sources import Sources, as_typed
from sightline.gateway_url import Url, address
from sightline.screen import Failure, counted, note

#: A service that was met and is away is waited for: a restart takes seconds.
RETRY_S = 20.0
INTERRUPTED = 130
HINT = "Ctrl-C finishes what is in flight; the same command goes on."

Given = Annotated[
    list[str] | None, typer.Argument(metavar="SOURCE…", help="Files, folders, 'globs', addresses, -, table.csv:column.")
]
Out = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Rows: .jsonl, .csv, .parquet, metadata.jsonl.")
]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="What to ask; left out: in the language of the locale.")]


def describe(  # noqa: PLR0913, PLR0917  # each is a wish of its own
    sources: Given = None,
    output: Out = None,
    prompt: Prompt = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Enter the folders in a folder.")] = False,
    include: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Take these names.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Leave these names out.")] = None,
    from_file: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="A path or address a line, or NUL between; - is stdin.")
    ] = None,
    sidecar: Annotated[str | None, typer.Option(metavar="txt|caption", help="A text beside each file.")] = None,
    existing: Annotated[Where, typer.Option(help="What becomes of a text beside a file.")] = Where.SKIP,
    preset: Annotated[Preset | None, typer.Option("--for", help="What the texts are for.")] = None,
    system: Annotated[str | None, typer.Option(help="A text that goes before the prompt.")] = None,
    model: Annotated[str | None, typer.Option(help="The model that is to answer.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of each text.")] = None,
    schema: Annotated[Path | None, typer.Option(metavar="FILE", help="A JSON schema; its properties become columns.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Take preambles and Markdown off.")] = False,
    prefix: Annotated[str, typer.Option(help="Stands before each text.")] = "",
    suffix: Annotated[str, typer.Option(help="Stands after each text.")] = "",
    trigger: Annotated[str, typer.Option(metavar="WORD", help="Each text begins with it, unless it has it.")] = "",
    together: Annotated[bool, typer.Option("--together", help="Show all of them in one job.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text of one while it is generated.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Describe anew what failed.")] = False,
    retry_flagged: Annotated[bool, typer.Option("--retry-flagged", help="Describe anew what is flagged.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and look; send nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on with what appears or changes.")] = False,
    window: Annotated[int | None, typer.Option(min=1, help="Jobs in flight; left out: what keeps the workers busy.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Rows as JSON on stdout, progress as JSON on stderr.")] = False,
    url: Url = None,
) -> None:
    """Describe pictures and videos: a few on the terminal, or folders into a file, which the same command goes on with."""
    if not sources and not from_file:
        raise Failure("what is to be described? Name files, a folder, an address, or - for a list on standard input")
    if sidecar is not None and (sidecar := sidecar.lstrip(".")) not in {"txt", "caption"}:
        raise Failure("--sidecar takes txt or caption")
    given = [as_typed(source) if is_address(source) else source for source in sources or []]
    found = Sources(given, from_file or [], recursive, include or [], exclude or [], output, sidecar)
    question = Question(
        as_typed(prompt) if prompt is not None else default_prompt(preset),
        *(system, model, max_tokens, _schema(schema), preset, plain, prefix, suffix, trigger),
    )
    alone, dresses = "--stream" if stream else "--together", plain or prefix or suffix or trigger
    _refuse(
        (
            (stream or together) and (output or sidecar or watch),
            f"{alone} prints one text; leave out -o, --sidecar and --watch",
        ),
        (existing is not Where.SKIP and not sidecar, f"--existing {existing} is for texts beside files; add --sidecar"),
        (
            existing is not Where.SKIP and not output,
            f"--existing {existing} needs -o FILE.jsonl: it remembers what was written",
        ),
        ((retry_failed or retry_flagged) and not output, "--retry-… goes by the rows of an earlier run; name its file with -o"),
        (
            watch and "-" in [*given, *found.lists],
            "--watch looks through folders again and again; standard input can be read once",
        ),
        (
            schema and dresses,
            "--schema gives JSON, which --plain, --prefix, --suffix and --trigger would break; leave them out",
        ),
    )
    where = address(url)
    if dry_run:
        from sightline.describe.dry_run import look

        raise typer.Exit(look(found, where, as_json=as_json))
    if stream or together:
        from sightline.describe.one import describe_one, named

        places = named(found, several=together)
        raise typer.Exit(asyncio.run(describe_one(where, places, question, stream=stream, as_json=as_json)))
    order = Order(question, retry_failed, retry_flagged, watch, window)
    display = Display(Tally(), as_json=as_json)
    index = FileIndex()
    rows = open_rows(output, question.columns, found.root) if output else None
    outputs = Outputs(display, index, rows=rows, path=output, as_json=as_json)
    if sidecar:
        outputs.sidecars = Sidecars(sidecar, existing, index)
    try:
        outputs.learn(question.fingerprint, found.root, retries=retry_failed or retry_flagged)
        raise typer.Exit(asyncio.run(_run(where, order, found, outputs, display)))
    except sqlite3.Error as error:  # of the index of the files, which is on the disk
        raise Failure(f"temporary files cannot be written: {error}; TMPDIR=FOLDER names another place for them") from error


async def _run(where: str, order: Order, sources: Sources, outputs: Outputs, display: Display) -> int:
    """Run, and give the exit code."""
    tally, resumes = display.tally, outputs.path is not None or outputs.sidecars is not None
    async with AsyncClient(where, retry_s=RETRY_S) as client:
        run = Run(client, order, sources, outputs, display)
        try:
            with display:
                await run.run()
        except (KeyboardInterrupt, ServiceError, Failure) as error:
            if left := run.in_flight:
                more = "; the same command takes them up" if resumes else "; GET /v1/jobs lists them"
                display.note(f"{left} jobs that were sent go on in the service{more}")
            _tell_where_it_stands(display, resumes=resumes)
            with suppress(Failure):  # what ended the run is told
                outputs.close(is_broken_off=True, may_go_on=run.may_go_on(error))
            raise
        outputs.close()
    if run.is_stopped and not run.is_complete:
        _tell_where_it_stands(display, resumes=resumes)
        return INTERRUPTED
    for sentence in _remarks(sources, outputs, tally):
        display.note(sentence)
    if display.is_json:
        display.say("end")
    elif tally.total != 1 or outputs.path:
        note(tally.sentence())
    return 1 if tally.failed or sources.unreadable else 0


def _tell_where_it_stands(display: Display, *, resumes: bool) -> None:
    tally = display.tally
    if not tally.ended and not tally.before:
        return
    display.note(f"{tally.sentence()}, of {tally.total:,} found")
    display.note(f"to go on: {_command()}" if resumes else "with -o FILE.jsonl the same command would go on from here")


def _remarks(sources: Sources, outputs: Outputs, tally: Tally) -> list[str]:
    notes = [f"cannot look into {folder}: {reason}" for folder, reason in sources.unreadable]
    if not tally.total:
        others = f"; {counted(sources.left_out, 'other file')} left alone" if sources.left_out else ""
        notes.append(f"no picture or video was found there{others}")
    if sources.not_entered and not sources.recursive:
        notes.append(f"{counted(sources.not_entered, 'folder')} not entered; -r enters them")
    if outputs.sidecars and outputs.sidecars.shared:
        notes.append("files whose names differ in the suffix only have it in their text's name: cat.png.txt")
    return notes


def _command() -> str:
    words = [word.encode(errors="replace").decode() for word in sys.argv[1:]]
    return shlex.join(["sightline", *words])


def _refuse(*rules: tuple[object, str]) -> None:
    """Say which options make no sense together, before anything is sent."""
    for applies, sentence in rules:
        if applies:
            raise Failure(sentence)


def _schema(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is no JSON: {error}"
        raise Failure(f"cannot read the schema {path}: {reason}") from error
    if (
        not isinstance(found, dict)
        or "object" not in found.get("type", "object")
        or type(found.get("properties", {})) is not dict
    ):
        raise Failure(f'the schema {path} is not that of an object; one is {{"type": "object", "properties": {{…}}}}')
    return found
