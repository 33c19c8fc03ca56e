"""Which gateway a command talks to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sightline.screen import note
from sightline.state import running_up

Url = Annotated[str | None, typer.Option(help="The gateway; left out: that of the running `up`.", envvar="SIGHTLINE_URL")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def address(url: str | None) -> str:
    """Give what was asked for, else the `up` that runs here, else what the settings name."""
    if url:
        return url
    from shared.settings import load_settings
    from shared.variables import unknown_variables

    settings = load_settings()
    for sentence in unknown_variables():
        note(f"! {sentence}")
    up: dict[str, Any] = {} if settings.model_fields_set & {"host", "port"} else running_up(settings.state_dir) or {}
    return str(up.get("url") or settings.own_url)
