"""The engines: vLLM, and transformers where vLLM cannot run."""

from __future__ import annotations

import importlib
import importlib.util

import structlog

from shared.settings import Settings
from worker.engines.base import Engine, EngineUnavailable
from worker.engines.remote import RemoteEngine

log = structlog.get_logger()

_ENGINES = {"vllm": "worker.engines.vllm:VllmEngine", "transformers": "worker.engines.transformers:TransformersEngine"}


def create_engine(settings: Settings) -> Engine:
    """Make the engine that the settings name; ``auto`` takes vLLM where it is installed, and says so in the log.

    Engines whose class has a method ``fronts`` run in so many processes of their own, the others in the worker's.

    Raises:
        EngineUnavailable: no such engine, or its package is not installed.
    """
    name = settings.engine
    if name == "auto":
        name = "vllm" if importlib.util.find_spec("vllm") else "transformers"
        log.info("engine.chosen", engine=name, asked="auto")
    place = _ENGINES.get(name, name)
    module_name, _, class_name = place.partition(":")
    if not class_name:
        msg = f"SIGHTLINE_ENGINE={name!r} is no engine; take auto, vllm, transformers or module:Class"
        raise EngineUnavailable(msg)
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
        fronts = kind.fronts(settings) if hasattr(kind, "fronts") else 0
        engine: Engine = RemoteEngine(settings, name, place, fronts) if fronts else kind(settings)
    except ImportError as error:
        msg = f"the engine {name} cannot be loaded: {error}. `sightline doctor` shows what is missing"
        raise EngineUnavailable(msg) from error
    return engine
