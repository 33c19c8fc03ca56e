"""The command line: data on stdout, progress and notes on stderr; 0 done, 1 failed, 2 used wrongly, 130 interrupted."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shared.logs import set_up_logs
from shared.settings import DEMO_MODEL, Settings, load_settings
from shared.signing import make_secret
from shared.variables import SettingsInvalid, read_settings, unknown_variables
from sightline.client import ServiceError
from sightline.describe.command import INTERRUPTED, describe
from sightline.keys import keys_app
from sightline.screen import Failure, Waiting, bad, note, notes, print_json, set_up_streams


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
        except KeyboardInterrupt:
            note("interrupted")
            raise typer.Exit(INTERRUPTED) from None


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Describe pictures and videos with Qwen-VL.",
)
models = typer.Typer(no_args_is_help=True, help="Fetch models.")
app.add_typer(models, name="models")
app.add_typer(keys_app, name="keys")


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
) -> None:
    """Run all parts on this machine until Ctrl-C; prints one line when a job can be served."""
    from sightline.demo import LIMITS
    from sightline.keys import first_key
    from sightline.stack import Stack

    settings = _settings()
    own = {"SIGHTLINE_PAGE": "read-only"} if read_only else {}
    stack = Stack(state or settings.state_dir, port=settings.port if port is None else port, settings=own)
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
    gpus: Annotated[
        str | None, typer.Option(metavar="all|LIST", help="A worker for each GPU: all, or indices and UUIDs such as 0,2.")
    ] = None,
) -> None:
    """Run workers on this machine until Ctrl-C: one, or one for each GPU; whoever dies is started again."""
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
def listen(
    port: Annotated[int, typer.Option(help="Where to listen, on this machine only.")] = 9000,
    secret: Annotated[str | None, typer.Option(help="Left out: SIGHTLINE_WEBHOOK_SECRET.")] = None,
    as_json: Json = False,
) -> None:
    """Receive webhooks: verify each delivery and print it, until Ctrl-C."""
    from sightline.receiver import Received, Receiver

    def show(delivery: Received | None) -> None:
        if delivery is None:
            bad("a delivery that is not signed with this secret, or too old")
        elif as_json:
            print_json({"id": delivery.id, "type": delivery.type, "data": delivery.job})
        else:
            job = delivery.job
            said = (job.get("output") or {}).get("text") or (job.get("error") or {}).get("message") or ""
            print(f"{delivery.type} {job['id']} {said}".rstrip(), flush=True)

    ours = _settings().webhook_secret
    given = secret or (ours.get_secret_value() if ours else "")
    if not given:
        raise Failure("with which secret? Give --secret, or set SIGHTLINE_WEBHOOK_SECRET; `sightline secret` makes one")
    _interrupt_on_signals()
    try:
        with Receiver(given, port=port, on_delivery=show) as receiver:
            note(f"listening at {receiver.url}")
            while True:
                time.sleep(0.5)
    except OSError as error:
        msg = f"cannot listen on port {port}: {error.strerror}"
        raise Failure(msg) from error
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
