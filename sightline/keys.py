"""``sightline keys``: the API keys of a running `up`, or of the Redis in the settings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from shared.settings import Settings, load_settings
from shared.store.address import parse_address
from shared.store.lua import USAGE_DAYS
from sightline.screen import Failure, note, print_json
from sightline.state import reaching_up

if TYPE_CHECKING:
    from shared.store.api_keys import ApiKey, ApiKeys
    from shared.store.usage import Used

T = TypeVar("T")
keys_app = typer.Typer(no_args_is_help=True, help="Make, list, limit and revoke API keys.")
State = Annotated[Path | None, typer.Option(metavar="DIR", help="The state folder of the `up` that is meant.")]
Key = Annotated[str, typer.Argument(metavar="ID", help="As `sightline keys list` has it.")]


def _limit(what: str) -> Any:
    return Annotated[int | None, typer.Option(min=0, show_default=False, help=f"{what}; 0 is no limit.")]


_SHARE = typer.Option(min=0.01, max=100, show_default=False, help="Its share beside other keys, which have 1.")
#: The options of a key's limits: what the store calls each, and what it takes.
LIMITS: dict[str, tuple[str, Any]] = {
    "requests_per_minute": ("max_requests", _limit("Requests a minute")),
    "queued": ("max_queued", _limit("Jobs that wait")),
    "running": ("max_running", _limit("Jobs at a time")),
    "max_jobs_day": ("max_jobs_day", _limit("Jobs created in a day, UTC")),
    "max_vision_tokens_day": ("max_vision_tokens_day", _limit("Vision tokens of jobs that ended in a day, UTC")),
    "weight": ("weight", Annotated[float | None, _SHARE]),
}


def takes_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command those options; what is named of them comes to it as ``limits``."""

    @wraps(command)
    def taking(**given: Any) -> None:
        limits = {stored: given.pop(option) for option, (stored, _) in LIMITS.items()}
        command(**given, limits={stored: value for stored, value in limits.items() if value is not None})

    own = [parameter for name, parameter in signature(command, eval_str=True).parameters.items() if name != "limits"]
    options = [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, (_, kind) in LIMITS.items()]
    taking.__signature__ = Signature([*own, *options])  # type: ignore[attr-defined]  # which typer reads
    return taking


@keys_app.command()
@takes_limits
def create(
    name: Annotated[str, typer.Argument(help="Whom it is for.")],
    *,
    limits: dict[str, Any],
    admin: Annotated[bool, typer.Option("--admin", help="It may make, limit and revoke keys over HTTP.")] = False,
    state: State = None,
) -> None:
    """Make a key and print its secret, which is shown this once."""
    key, secret = _with_keys(state, lambda keys: keys.create(name, admin=admin, **limits))
    note(f"{key.id} for {name}; keep the secret, it is not shown again")
    print(secret)


@keys_app.command()
@takes_limits
def limit(key_id: Key, *, limits: dict[str, Any], state: State = None) -> None:
    """Set limits of a key from now on; those that are not named stay as they are."""
    if not limits:
        raise Failure("name a limit, such as --running 4; `sightline keys limit --help` lists them")
    if not _with_keys(state, lambda keys: keys.limit(key_id, **limits)):
        raise Failure(_NO_KEY)


@keys_app.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, state: State = None) -> None:
    """List the keys and their limits; secrets are not kept."""
    found = _with_keys(state, lambda keys: keys.list_keys())
    if not found and not as_json:
        note("no keys yet; `sightline keys create NAME` makes one")
    for key in found:
        if as_json:
            print_json(key.__dict__)
        else:
            print(f"{key.id}  {key.name}  ({_words_of(key)})")


def _words_of(key: ApiKey) -> str:
    limits = {
        "requests/min": key.max_requests,
        "queued": key.max_queued,
        "running": key.max_running,
        "jobs/day": key.max_jobs_day,
        "vision tokens/day": key.max_vision_tokens_day,
    }
    named = [f"{n:,} {what}" for what, n in limits.items() if n] or ["no limits"]
    own = ["may administer"] if key.admin else []
    return ", ".join([*own, *named, f"weight {key.weight:g}"])


_NO_KEY = "there is no key by that id; `sightline keys list` shows them"


@keys_app.command()
def revoke(key_id: Key, state: State = None) -> None:
    """Make a key invalid at once; its jobs run on."""
    if not _with_keys(state, lambda keys: keys.revoke(key_id)):
        raise Failure(_NO_KEY)


@keys_app.command()
def usage(
    days: Annotated[int, typer.Option(min=1, max=USAGE_DAYS, help="So many, the last one today, UTC.")] = 30,
    state: State = None,
) -> None:
    """Print what each key used, revoked ones too, by day and model, as a CSV table; `local` is who needed none."""

    async def read(keys: ApiKeys) -> list[Used]:
        from shared.store.usage import Usage

        counts = Usage(keys.redis)
        last = await counts.today()
        return await counts.of_all(last - timedelta(days=days - 1), last)

    from shared.store.usage import as_csv

    print(as_csv(_with_keys(state, read)), end="")


def first_key(settings: Settings) -> str | None:
    """Make a key where there is none yet, and give its secret."""
    from shared.store.api_keys import ApiKeys
    from shared.store.connection import connect

    async def make() -> str | None:
        async with connect(settings) as redis:
            keys = ApiKeys(redis)
            return None if await keys.list_keys() else (await keys.create("first"))[1]

    return asyncio.run(make())


def _with_keys(state: Path | None, ask: Callable[[ApiKeys], Awaitable[T]]) -> T:
    """Ask the Redis that the settings name, else that of the `up` that runs on the state folder."""
    from redis.exceptions import RedisError

    from shared.store.api_keys import ApiKeys
    from shared.store.connection import connect
    from shared.store.redis_errors import explain

    settings = load_settings()
    folder = state or settings.state_dir
    settings, is_up = reaching_up(settings, folder, always=bool(state))

    async def run() -> T:
        async with connect(settings) as redis:
            return await ask(ApiKeys(redis))

    try:
        return asyncio.run(run())
    except (RedisError, OSError) as error:
        if "redis_url" in settings.model_fields_set or is_up:
            why = explain(error, settings.redis_prefix)
            msg = f"the keys are kept in the Redis at {parse_address(settings.redis_url)}, and {why}"
        else:
            start = "start it, or name another with SIGHTLINE_REDIS_URL or --state"
            msg = f"no `sightline up` runs on {folder}, and the keys are kept there; {start}"
        raise Failure(msg) from None
