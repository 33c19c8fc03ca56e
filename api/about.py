"""What stands at ``/`` for API clients: what this is, and where to go on."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from api.openapi_schema import ABOUT
from shared.settings import Settings

#: What asks for no key. The documentation is a page, and goes with the others.
_PLACES = {"openapi": "/openapi.json", "docs": "/docs", "health": "/livez", "ready": "/readyz", "version": "/version"}


def about(settings: Settings, version: str) -> dict[str, Any]:
    """Tell it."""
    urls = {name: f"{settings.root_path}{path}" for name, path in _PLACES.items() if settings.page or name != "docs"}
    limits = {name: getattr(settings, name) for name in ("max_upload_bytes", "max_image_bytes")}
    return {"name": "Sightline", "version": version, "description": ABOUT, "urls": urls, "limits": limits}


def make_root(settings: Settings, version: str) -> APIRouter:
    """Make the route of a gateway without a page: everybody is told, browsers too."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def root() -> dict[str, Any]:
        return about(settings, version)

    return router
