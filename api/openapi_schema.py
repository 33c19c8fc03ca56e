"""The contract that ``/openapi.json`` shows: what FastAPI knows of the routes, made fit for readers and generators of clients.

Every schema has a name of its own without what is private in it, every operation a short one, errors are one schema, bodies
have examples, and where a key is asked for it is said.
"""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.examples import EXAMPLES

#: Names that FastAPI makes of a form.
_RENAMED = {"Body_upload_file_v1_files_post": "FileUpload"}
_PROBLEM = "application/problem+json"
_METHODS = frozenset({"get", "post", "delete", "patch", "put"})


def contract(app: FastAPI, written: dict[str, Any], *, keys_required: bool) -> dict[str, Any]:
    """Give the contract.

    Args:
        app: whose routes have the functions after which operations are named.
        written: FastAPI's own.
        keys_required: whether this gateway asks for keys; others take them and look away.
    """
    names = _names(list(written["components"]["schemas"]))
    text = json.dumps(written)
    for old, new in names.items():
        text = text.replace(f'"#/components/schemas/{old}"', f'"#/components/schemas/{new}"')
    document: dict[str, Any] = json.loads(text)
    schemas = {names[name]: schema | {"title": names[name]} for name, schema in document["components"]["schemas"].items()}
    document["components"] |= {"schemas": dict(sorted(schemas.items())), "securitySchemes": {"apiKey": _KEY}}
    document["info"] |= {"description": ABOUT, "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"}}
    document["tags"] = [{"name": name, "description": about} for name, about in _TAGS.items()]
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    functions = {(route.path_format, method.lower()): route.name for route in routes for method in route.methods}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in _METHODS:
                operation["operationId"] = functions.get((path, method), operation["operationId"])
                _one_error(operation, schemas)
                if path.startswith("/v1/"):
                    operation["security"] = [{"apiKey": []}] if keys_required else [{}, {"apiKey": []}]
    schemas["FileUpload"]["properties"]["file"]["format"] = "binary"  # what generators look for, beside OpenAPI 3.1's word
    for name, examples in EXAMPLES.items():
        schemas[name]["examples"] = examples
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document


_KEY = {"type": "http", "scheme": "bearer", "description": "an API key, as `sightline keys create NAME` makes it"}
ABOUT = (
    "Describes pictures and videos, asynchronously: submit a job, get the text by polling, by a stream or by webhook. "
    "`/v1/chat/completions`, `/v1/responses`, `/v1/batches` and `/v1/files` are OpenAI's. "
    "Answers to a key with limits have headers "
    "`x-ratelimit-limit-*`, `-remaining-*` and `-reset-*`, for `requests` (a minute), `jobs-day` and `vision-tokens-day`."
)
_TAGS = {
    "jobs": "What is to be described, one at a time or many, by their filter or their group.",
    "events": "What happens to jobs, as server-sent events.",
    "files": "Pictures and videos that jobs name by their ids, and the inputs and outputs of batches.",
    "webhooks": "Addresses that hear of the ends of jobs, and what was delivered to them.",
    "openai": "OpenAI's chats, responses and models.",
    "batches": "OpenAI's batches: a file of chats in, files of answers out.",
    "keys": "API keys, for those that may administer them.",
    "usage": "What a key used, by day and model.",
    "health": "How the service is, for people, load balancers and autoscalers.",
}


def _names(given: list[str]) -> dict[str, str]:
    """Give each schema a name of its own."""
    names = dict[str, str]()
    for name in sorted(given, key=lambda name: name.startswith("_")):
        new = _RENAMED.get(name) or re.sub(r"^.*__|^_+", "", name)
        while new in names.values():
            new = f"{new}Part"
        names[name] = new
    return names


def _one_error(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    for answer in operation["responses"].values():
        if content := answer.get("content", {}).get(_PROBLEM):
            schemas.setdefault("Problem", content["schema"] | {"title": "Problem"})
            content["schema"] = {"$ref": "#/components/schemas/Problem"}
