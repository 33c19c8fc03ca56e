"""Reads the ``SIGHTLINE_*`` variables and says, in words for people, which are wrong and which are no settings at all."""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from types import UnionType
from typing import Any

from pydantic import ValidationError

from shared.settings import DEMO_MODEL, Settings

PREFIX = "SIGHTLINE_"
#: Variables that are no settings of a part: of the command line, of compose.yaml.
OTHERS = frozenset(
    f"{PREFIX}{name}" for name in ("URL", "API_KEY", "HUB", "PUBLISH", "SHM_SIZE", "MEM_LIMIT", "WORKER_MEM_LIMIT")
)
#: Settings whose values may hold a secret.
SECRET = frozenset({"redis_url", "webhook_secret"})
_TAKES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Path: "the path of a folder",
    IPv4Network: "networks such as 10.0.0.0/8, with commas between them",
}
_BOUNDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
_TLS_FILES = ("REDIS_TLS_CA", "REDIS_TLS_CERT", "REDIS_TLS_KEY")
_LONGEST = 60  #: characters of a value that are shown


class SettingsInvalid(ValueError):
    """A variable holds what its setting cannot be; the message says which, and what is wanted."""


def read_settings() -> tuple[Settings, list[str]]:
    """Read the settings from the environment.

    Returns:
        The settings, and a sentence for each variable that is wrong, in whose place the default stands.
    """
    wrong: dict[str, str] = {}
    defaults: dict[str, Any] = {}
    while True:
        try:
            return Settings(**defaults), list(wrong.values())
        except ValidationError as error:
            for name in {str(fault["loc"][0]) for fault in error.errors(include_input=False)}:
                if name in wrong:
                    raise  # the default itself
                wrong[name] = _sentence(name)
                defaults[name] = Settings.model_fields[name].get_default(call_default_factory=True, validated_data={})


def settings_of(environment: Mapping[str, str]) -> Settings:
    """Read the settings that a process with this environment will have; its variables are right."""
    names = ((variable, variable.upper().removeprefix(PREFIX).lower()) for variable in environment)
    given: dict[str, Any] = {
        name: environment[variable]
        for variable, name in names
        if name in Settings.model_fields and variable.upper().startswith(PREFIX)
    }
    return Settings(**given)


def absolute_paths(environment: Mapping[str, str]) -> dict[str, str]:
    """Give an environment for a process that runs in another folder: what was relative to this one is no more."""
    found = dict(environment)
    for name in ("MODEL", "MODELS_DIR", "BLOBS_URL", "GPU_LOCKS_DIR", "STATE_DIR", *_TLS_FILES):
        value = found.get(f"{PREFIX}{name}", "")
        path = Path(value).expanduser()
        if value and "://" not in value and (path.is_dir() if name == "MODEL" else True) and value != DEMO_MODEL:
            found[f"{PREFIX}{name}"] = str(path.absolute())
    return found


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Give a sentence for each ``SIGHTLINE_*`` variable that no part reads, with the nearest name of one that is."""
    known = {name.upper() for name in Settings.model_fields}
    said = []
    for variable in sorted(environment):
        prefix, name = variable.upper()[: len(PREFIX)], variable.upper()[len(PREFIX) :]
        if prefix == PREFIX and name not in known and variable.upper() not in OTHERS:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            said.append(f"{variable} is no setting and does nothing" + (f"; is {PREFIX}{near[0]} meant?" if near else ""))
    return said


def _sentence(name: str) -> str:
    variable = f"{PREFIX}{name.upper()}"
    given = next((value for key, value in os.environ.items() if key.upper() == variable), "")
    shown = repr(given if len(given) <= _LONGEST else f"{given[:_LONGEST]}…")
    return f"{variable} cannot be {'this' if name in SECRET else shown}: it takes {takes(name)}"


def takes(name: str) -> str:
    """Say what a setting takes."""
    field = Settings.model_fields[name]
    if field.description:
        return field.description
    kinds, rules = _parts(field.annotation)
    bounds = {
        bound: at for rule in [*field.metadata, *rules] for bound in _BOUNDS if (at := getattr(rule, bound, None)) is not None
    }
    number = kinds[0] in {int, float}
    said = [f"{_BOUNDS[bound]} {at}" for bound, at in bounds.items()] or (["of at least 0"] if number else [])
    return " ".join([_TAKES.get(kinds[0], "a text"), " and ".join(said)]).strip()


def _parts(annotation: Any) -> tuple[list[Any], list[Any]]:
    """Take an annotation apart: the kinds of value in it, without None, and their rules."""
    if typing.get_origin(annotation) is None:
        return ([annotation] if annotation not in {type(None), Ellipsis} else []), []
    if isinstance(annotation, UnionType) or typing.get_origin(annotation) in {typing.Union, tuple}:
        found = [_parts(part) for part in typing.get_args(annotation)]
        return [kind for kinds, _ in found for kind in kinds], [rule for _, rules in found for rule in rules]
    kind, *rules = typing.get_args(annotation)  # Annotated
    return [kind], [inner for rule in rules for inner in getattr(rule, "metadata", [rule])]
