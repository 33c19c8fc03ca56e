"""The command line: data on stdout, progress and notes on stderr; 0 done, 1 failed, 2 used wrongly, 130 interrupted."""

from __future__ import annotations

import errno
import io
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shared.settings import DEMO_MODEL, Settings, load_settings
from shared.signing import make_secret, sign
from shared.variables import SettingsInvalid, read_settings, unknown_variables
from sightline import __version__
from sightline.client import Client, ServiceError
from sightline.describe.command import INTERRUPTED, describe
from sightline.gateway_url import Json, Url, address
from sightline.jobs import jobs_app
from sightline.keys import keys_app
from sightline.screen import Failure, Waiting, bad, note, notes, print_json, set_up_streams
from sightline.state import running_up

#: What a disk says that standard output leads to, and that has no place left.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Gpus = Annotated[
    str | None, typer.Option(metavar="all|LIST", help="A worker for each GPU: all, or indices and UUIDs such as 0,2.")
]


class Commands(TyperGroup):
    """All commands, and the one place where what stops them becomes a sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        set_up_streams()
        try:
            return super().invoke(ctx)
        except (Failure, ServiceError, SettingsInvalid, TimeoutError) as error:
            for sentence in str(error).splitlines():
                bad(sentence)
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            sys.stdout = io.StringIO()  # what is still held for it would be tried again at the end
            bad(f"cannot write the output: {error.strerror}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            note("interrupted")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Describe pictures and videos with Qwen-VL.",
)
models = typer.Typer(no_args_is_help=True, help="Fetch, list and remove models.")
app.add_typer(jobs_app, name="jobs")
app.add_typer(models, name="models")
app.add_typer(keys_app, name="keys")


def _version(wanted: bool) -> None:  # noqa: FBT001  # typer's signature
    if wanted:
        print(f"sightline {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Describe pictures and videos with Qwen-VL."""


@app.command()
def demo(as_json: Json = False, seed: Annotated[int | None, typer.Option(help="Draw these pictures again.")] = None) -> None:
    """Run the main job on this machine: no GPU, no Redis, no weights needed."""
    from sightline.demo import run_demo

    _interrupt_on_signals()
    raise typer.Exit(run_demo(as_json=as_json, seed=seed))


@app.command()
def up(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The gateway's port; 0 takes a free one.")] = None,
    state: Annotated[Path | None, typer.Option(metavar="DIR", help="Where data and logs are kept.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="A page without buttons, for a screen on a wall.")] = False,
    gpus: Gpus = None,
) -> None:
    """Run all parts on this machine until Ctrl-C; prints one line when a job can be served."""
    from sightline.demo import LIMITS
    from sightline.keys import first_key
    from sightline.stack import Stack
    from sightline.worker_pool import workers_on

    settings = _settings()
    n_workers, own = workers_on(gpus, settings)
    own |= {"SIGHTLINE_PAGE": "read-only"} if read_only else {}
    own_port = settings.port if port is None else port
    stack = Stack(state or settings.state_dir, port=own_port, settings=own, workers=n_workers)
    if settings.model == DEMO_MODEL:
        note(LIMITS, style="dim")
    _interrupt_on_signals()
    try:
        with Waiting() as tell:
            stack.start(tell)
            stack.wait_ready(tell)
        if stack.effective.keys_required and (key := first_key(stack.effective)):
            more = "sightline keys create NAME" + (f" --state {state}" if state else "")
            note(f"the first API key; it is shown this once, and `{more}` makes more")
            print(f"key {key}", flush=True)
        print(f"ready {stack.url}", flush=True)
        while True:
            for name in stack.check():
                note(f"{name} had ended and was started again; see {stack.log_path(name)}")
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        with Waiting() as tell:
            stack.stop(tell)
    note("stopped")


@app.command()
def worker(
    gpus: Gpus = None,
) -> None:
    """Run workers on this machine until Ctrl-C: one, or one for each GPU; one that dies is started again."""
    from shared.logs import set_up_logs
    from sightline.worker_pool import make_pool

    settings = _settings()
    set_up_logs("pool", as_json=settings.log_json)
    _interrupt_on_signals()
    try:
        with make_pool(gpus, settings, logs=settings.state_dir / "logs" if notes.is_terminal else None) as pool:
            pool.run()
    except KeyboardInterrupt:
        note("stopped")


app.command()(describe)


@models.command()
def pull(
    name: Annotated[str, typer.Argument(help="For example Qwen/Qwen2.5-VL-3B-Instruct.")],
    source: Annotated[str, typer.Option("--from", help="modelscope or huggingface.")] = "modelscope",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Fetch a model's weights; a stopped download goes on where it was."""
    from sightline.models import pull as fetch

    print(fetch(name, source=source, revision=revision, models_dir=_settings().models_dir))  # type: ignore[arg-type]


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """List the weights that are on this machine."""
    from sightline.models import held

    found = list(held(_settings().models_dir))
    if not found and not as_json:
        note("no weights are here yet; for example `sightline models pull Qwen/Qwen2.5-VL-3B-Instruct` fetches some")
    for model in found:
        if as_json:
            print_json(model)
        else:
            whole = "" if model["complete"] else "  (not whole; pull it again)"
            print(f"{model['name']}  {model['gb']:.1f} GB  {model['source']}  {model['revision']}{whole}")


@models.command()
def rm(name: Annotated[str, typer.Argument(help="As `sightline models list` has it.")]) -> None:
    """Remove a model's weights from this machine."""
    from sightline.models import remove

    note(f"removed {remove(name, models_dir=_settings().models_dir)}")


@app.command()
def compare(
    first: Annotated[
        Path, typer.Argument(metavar="A.jsonl", help="Rows of `describe -o`, as with SIGHTLINE_QUANTIZATION left out.")
    ],
    second: Annotated[
        Path, typer.Argument(metavar="B.jsonl", help="Rows of the same files, as with SIGHTLINE_QUANTIZATION=fp8.")
    ],
    as_json: Json = False,
) -> None:
    """Compare what two runs of describe said of the same files: the share of equal answers, and the others side by side."""
    from sightline.compare import compare as look
    from sightline.compare import show

    show(look(first, second), (first.name, second.name), as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check what this machine has and lacks; each ✗ comes with its fix."""
    from sightline.doctor import check, report

    raise typer.Exit(report(check(read_settings()[0]), as_json=as_json))


@app.command()
def secret() -> None:
    """Make a secret for signing webhooks: the value of SIGHTLINE_WEBHOOK_SECRET."""
    print(make_secret())


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every two seconds.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Show gateway, queue, workers and GPUs; 0 where a job would run now."""
    from sightline.status import show

    raise typer.Exit(show(address(url), watch=watch, as_json=as_json))


@app.command()
def listen(  # each is a wish of its own
    forward_to: Annotated[str | None, typer.Option(metavar="URL", help="Post each job's end here, signed.")] = None,
    port: Annotated[int | None, typer.Option(help="Receive deliveries at this port of this machine instead.")] = None,
    secret: Annotated[str | None, typer.Option(help="Left out: that of the running `up`, or of the settings.")] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Hear the ends of all jobs, until Ctrl-C, and pass them on as webhooks; nothing has to be set up or allowed."""
    from sightline.forward import forward
    from sightline.receiver import receive

    settings = _settings()
    own = (running_up(settings.state_dir) or {}).get("webhook_secret")
    ours = settings.webhook_secret
    given = secret or (ours.get_secret_value() if ours else own) or ""
    _interrupt_on_signals()
    try:
        if given:
            sign(given, event_id="", at_s=0, body=b"")  # a bad one is refused at once
        if port is not None:
            if not given:
                raise Failure("with which secret? Give --secret, or set SIGHTLINE_WEBHOOK_SECRET; `sightline secret` makes one")
            receive(given, port=port, as_json=as_json)
        with Client(address(url)) as client:
            client.request("GET", "/livez")
            if forward_to and not given:
                given = make_secret()
                note(f"signed with {given}")
            note(f"listening to {client.url}" + (f", posting to {forward_to}" if forward_to else ""))
            forward(client, to=forward_to, secret=given, as_json=as_json)
    except ValueError as error:
        raise Failure(str(error)) from error
    except KeyboardInterrupt:
        note("stopped")


def _settings() -> Settings:
    """Read the settings, and tell of variables that are none."""
    settings = load_settings()
    for sentence in unknown_variables():
        note(f"! {sentence}")
    return settings


def _interrupt_on_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    app()
