"""The command line: data on stdout, progress and notes on stderr; 0 done, 1 failed, 2 used wrongly, 130 interrupted."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.logs import set_up_logs
from shared.settings import DEMO_MODEL, Settings, load_settings
from shared.signing import make_secret
from sightline.client import Client, ServiceError
from sightline.keys import keys_app

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Describe pictures and videos with Qwen-VL.")
models = typer.Typer(no_args_is_help=True, help="Fetch models.")
app.add_typer(models, name="models")
app.add_typer(keys_app, name="keys")

notes = Console(stderr=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
INTERRUPTED = 130  #: exit code after Ctrl-C, as shells have it
DEFAULT_PROMPT = "Describe this in detail."


@app.command()
def demo(as_json: Json = False, seed: Annotated[int | None, typer.Option(help="Draw these pictures again.")] = None) -> None:
    """Run the main job on this machine: no GPU, no Redis, no weights needed."""
    from sightline.demo import run_demo
    from sightline.stack import StackFailed

    _interrupt_on_signals()
    try:
        raise typer.Exit(run_demo(as_json=as_json, seed=seed))
    except (StackFailed, ServiceError, TimeoutError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def up(port: Annotated[int, typer.Option(help="The gateway's port; 0 takes a free one.")] = 8000) -> None:
    """Run all parts on this machine until Ctrl-C; prints one line when a job can be served."""
    from sightline.demo import LIMITS
    from sightline.stack import Stack, StackFailed

    settings = load_settings()
    if settings.model == DEMO_MODEL:
        notes.print(LIMITS, style="dim", highlight=False)
    stack = Stack(_state_folder(settings), port=port)
    _interrupt_on_signals()
    try:
        with stack:
            stack.wait_ready(lambda news: notes.print(f"… {news}", highlight=False))
            print(f"ready {stack.url}", flush=True)
            while True:
                stack.check()
                time.sleep(0.5)
    except StackFailed as error:
        _fail(str(error))
    except KeyboardInterrupt:
        notes.print("stopped", highlight=False)


@app.command()
def worker(
    gpus: Annotated[
        str | None, typer.Option(metavar="all|LIST", help="A worker for each GPU: all, or indices and UUIDs such as 0,2.")
    ] = None,
) -> None:
    """Run workers on this machine until Ctrl-C: one, or one for each GPU; whoever dies is started again."""
    from sightline.crew import CrewFailed, make_crew

    settings = load_settings()
    set_up_logs("crew", as_json=settings.log_json)
    _interrupt_on_signals()
    try:
        with make_crew(gpus, settings) as crew:
            crew.run()
    except CrewFailed as error:
        _fail(str(error))
    except KeyboardInterrupt:
        notes.print("stopped", highlight=False)


@app.command()
def describe(
    media: Annotated[list[str], typer.Argument(metavar="FILE|URL…", help="Pictures and videos; files are uploaded.")],
    prompt: Annotated[str, typer.Option(help="What to ask, in any language.")] = DEFAULT_PROMPT,
    as_json: Json = False,
    url: Annotated[str | None, typer.Option(help="The gateway.", envvar="SIGHTLINE_URL")] = None,
) -> None:
    """Describe pictures and videos, one job each, all at once."""
    settings = load_settings()
    failed = False
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Client(url or f"http://127.0.0.1:{settings.port}") as client, Progress(*columns, console=notes) as bars:
        sent, done = bars.add_task("sent", total=len(media)), bars.add_task("described", total=len(media))
        jobs: list[tuple[str, dict[str, Any]]] = []
        for name in media:
            jobs.append((name, _submit(client, name, prompt)))
            bars.advance(sent)
        for name, accepted in jobs:
            job = client.wait(accepted["id"]) if "id" in accepted else accepted
            bars.advance(done)
            failed |= job["status"] != "succeeded"
            _show(bars.console, name, job, as_json=as_json)
    raise typer.Exit(1 if failed else 0)


@models.command()
def pull(
    name: Annotated[str, typer.Argument(help="For example Qwen/Qwen2.5-VL-3B-Instruct.")],
    source: Annotated[str, typer.Option("--from", help="modelscope or huggingface.")] = "modelscope",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Fetch a model's weights; a stopped download goes on where it was."""
    from sightline.models import PullError
    from sightline.models import pull as fetch

    try:
        path = fetch(name, source=source, revision=revision, models_dir=load_settings().models_dir)  # type: ignore[arg-type]
    except PullError as error:
        _fail(str(error))
    print(path)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check what this machine has and lacks; each ✗ comes with its fix."""
    from sightline.doctor import check, report

    raise typer.Exit(report(check(load_settings()), as_json=as_json))


@app.command()
def secret() -> None:
    """Make a secret for signing webhooks: the value of SIGHTLINE_WEBHOOK_SECRET."""
    print(make_secret())


@app.command()
def listen(
    port: Annotated[int, typer.Option(help="Where to listen, on this machine only.")] = 9000,
    secret: Annotated[str | None, typer.Option(help="Left out: SIGHTLINE_WEBHOOK_SECRET.")] = None,
    as_json: Json = False,
) -> None:
    """Receive webhooks: verify each delivery and print it, until Ctrl-C."""
    from sightline.receiver import Received, Receiver

    def show(delivery: Received | None) -> None:
        if delivery is None:
            notes.print("[red]✗[/] a delivery that is not signed with this secret, or too old", highlight=False)
        elif as_json:
            print(json.dumps({"id": delivery.id, "type": delivery.type, "data": delivery.job}, ensure_ascii=False), flush=True)
        else:
            job = delivery.job
            said = (job.get("output") or {}).get("text") or (job.get("error") or {}).get("message") or ""
            print(f"{delivery.type} {job['id']} {said}".rstrip(), flush=True)

    ours = load_settings().webhook_secret
    given = secret or (ours.get_secret_value() if ours else "")
    if not given:
        _fail("with which secret? Give --secret, or set SIGHTLINE_WEBHOOK_SECRET; `sightline secret` makes one")
    _interrupt_on_signals()
    try:
        with Receiver(given, port=port, on_delivery=show) as receiver:
            notes.print(f"listening at {receiver.url}", highlight=False)
            while True:
                time.sleep(0.5)
    except OSError as error:
        _fail(f"cannot listen on port {port}: {error.strerror}")
    except ValueError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        notes.print("stopped", highlight=False)


def _submit(client: Client, name: str, prompt: str) -> dict[str, Any]:
    """Submit one picture or video; what is refused comes back in the form of a failed job."""
    try:
        if name.startswith(("http://", "https://", "data:")):
            is_video = name.split("?", maxsplit=1)[0].lower().endswith((".mp4", ".mov", ".mkv", ".webm"))
            reference = name
        else:
            upload = client.upload(Path(name))
            reference, is_video = upload["id"], upload["media_type"].startswith("video/")
        return client.submit({"prompt": prompt, **({"video": reference} if is_video else {"images": [reference]})})
    except (ServiceError, OSError) as error:
        if isinstance(error, ServiceError) and error.code == "unreachable":
            _fail(str(error))
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        return {"status": "failed", "error": {"message": reason, "code": getattr(error, "code", "file")}, "output": None}


def _show(console: Console, name: str, job: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"media": name, **job}, ensure_ascii=False), flush=True)
    elif job["status"] == "succeeded":
        print(f"{name}: {job['output']['text']}", flush=True)
    else:
        error = job["error"] or {}
        console.print(f"[red]✗[/] {name}: {error.get('message')} ({error.get('code')})", highlight=False)


def _state_folder(settings: Settings) -> Path:
    return settings.models_dir.parent / "up"


def _interrupt_on_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str) -> None:
    notes.print(f"[red]✗[/] {message}", highlight=False)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
