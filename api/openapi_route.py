"""Serving the contract, ``/openapi.json``: made when it is first asked for, in a thread, since it takes half a second."""

from __future__ import annotations

import json
from functools import cache

from fastapi import FastAPI, Request, Response

from api.page.routes import Asset


def add_description(app: FastAPI) -> None:
    """Serve what ``app.openapi()`` gives, packed for those who take that, and not again to those who have it."""

    @cache
    def made() -> Asset:
        return Asset.of("openapi.json", json.dumps(app.openapi(), ensure_ascii=False).encode())

    def description(request: Request) -> Response:  # no coroutine, so it runs in a thread
        return made().answer(request)

    app.add_route("/openapi.json", description, include_in_schema=False)
