"""``sightline keys``: makes, lists and revokes the API keys of the Redis that the settings name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from redis.exceptions import RedisError

from shared.database import connect
from shared.keys import ApiKeys
from shared.settings import load_settings

T = TypeVar("T")
keys_app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
Limit = Annotated[int, typer.Option(min=0, help="0 is no limit.")]


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whom it is for.")],
    requests_per_minute: Limit = 0,
    queued: Limit = 0,
    running: Limit = 0,
) -> None:
    """Make a key and print its secret, which is shown this once."""
    limits = {"max_requests": requests_per_minute, "max_queued": queued, "max_running": running}
    key, secret = _with_keys(lambda keys: keys.create(name, **limits))
    typer.echo(f"{key.id} for {name}; keep the secret, it is not shown again", err=True)
    print(secret)


@keys_app.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the keys and their limits; secrets are not kept."""
    for key in _with_keys(lambda keys: keys.list_keys()):
        limits = f"{key.max_requests} requests/min, {key.max_queued} queued, {key.max_running} running"
        print(json.dumps(key.__dict__, ensure_ascii=False) if as_json else f"{key.id}  {key.name}  ({limits}; 0 is no limit)")


@keys_app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="As `sightline keys list` has it.")]) -> None:
    """Make a key invalid at once; its jobs run on."""
    if not _with_keys(lambda keys: keys.revoke(key_id)):
        typer.echo("✗ there is no key by that id; `sightline keys list` shows them", err=True)
        raise typer.Exit(1)


def _with_keys(ask: Callable[[ApiKeys], Awaitable[T]]) -> T:
    async def run() -> T:
        async with connect(load_settings()) as redis:
            return await ask(ApiKeys(redis))

    try:
        return asyncio.run(run())
    except (RedisError, OSError):
        typer.echo("✗ no Redis answers at SIGHTLINE_REDIS_URL; the keys are kept there", err=True)
        raise typer.Exit(1) from None
