"""Compares what a gateway answers with its description, to the last field: one that is missing, and one that nobody described.

It stands in front of the gateways of :mod:`tests.integration`, so that each answer that any of their tests gets is compared.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import jsonschema_rs
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.main import create_app
from shared.settings import Settings

#: What was answered otherwise than it is described, since this was cleared.
mistakes = list[str]()


class Compared:
    """An ASGI middleware that looks at answers in JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head, body, asked = dict[str, Any](), bytearray(), (scope["method"], scope["path"])

        async def listen(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
            elif is_json(head):
                body.extend(message.get("body", b""))
                if not message.get("more_body") and body:
                    mistakes.extend(compare(*asked, head["status"], media_type(head), bytes(body)))
            await send(message)

        await self._app(scope, receive, listen)


def media_type(head: dict[str, Any]) -> str:
    return dict(head["headers"]).get(b"content-type", b"").partition(b";")[0].decode()


def is_json(head: dict[str, Any]) -> bool:
    return media_type(head).endswith("json")


def compare(method: str, path: str, status: int, kind: str, body: bytes) -> list[str]:
    """Say how an answer differs from its description; nothing where the route has none."""
    operation = find(method, path)
    if operation is None:
        return []
    answers = operation["responses"]
    described = answers.get(str(status)) or answers["default"]
    if kind not in described["content"]:
        return [f"{method} {path}: {status} is described as {[*described['content']]}, and was {kind}"]
    ref = described["content"][kind]["schema"]["$ref"]
    return [
        f"{method} {path}: {status} {error.instance_path}: {error.message}"
        for error in checker(ref).iter_errors(json.loads(body))
    ]


def find(method: str, path: str) -> dict[str, Any] | None:
    """Give the operation that is described for a request; a path without gaps goes before one with them."""
    path = re.sub("//+", "/", path).rstrip("/")
    for template, pattern in patterns():
        if pattern.fullmatch(path):
            return description()["paths"][template].get(method.lower())
    return None


@cache
def description() -> dict[str, Any]:
    """Give the description with no room for fields that it does not name."""
    told: dict[str, Any] = create_app(Settings()).openapi()
    for schema in told["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return told


@cache
def patterns() -> list[tuple[str, re.Pattern[str]]]:
    paths = sorted(description()["paths"], key=lambda path: path.count("{"))
    return [(path, re.compile(re.sub(r"\{name\}", ".+", re.sub(r"\{(?!name)\w+\}", "[^/]+", path)))) for path in paths]


@cache
def checker(ref: str) -> Any:
    return jsonschema_rs.validator_for({"$ref": ref, "components": description()["components"]})
