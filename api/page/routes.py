"""Serving the page: at ``/`` to browsers, the API's documentation at ``/docs``, files under ``/page/``.

All of it is read once, when the gateway starts. Both pages name their files under ``/page/<release>/``, which browsers keep: a
second visit asks for the page alone. They name the modules that theirs import, too, so that a browser asks for all at once.
"""

from __future__ import annotations

import gzip
import json
import mimetypes
import posixpath
import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from api.about import about
from shared.errors import NotFound
from shared.settings import Settings

#: Only files of this origin run, and only this origin is asked; pictures may also be those that the reader just chose.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-cache",  # kept, and asked for again by its tag: a new release is seen at once
}
KEPT = "public, max-age=31536000, immutable"
RELEASE = re.compile(r"r[0-9a-f]{12}")
IMPORT = re.compile(r"(?:import|\bfrom)\s*[\"'](\.[^\"']+)[\"']")
#: What is served; type shims and hashes are for those who work on the page.
TYPES = {".html", ".css", ".js", ".svg", ".jpg", ".LICENSE"}


@dataclass(frozen=True)
class Asset:
    """A file of the page, ready to be sent."""

    body: bytes
    media_type: str
    packed: bytes | None  #: None where packing saves nothing
    tag: str

    @classmethod
    def of(cls, name: str, body: bytes) -> Asset:
        """Make one of a file's name and bytes."""
        guessed = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "text/plain"
        media_type = f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed
        packed = gzip.compress(body, 9, mtime=0)
        return cls(body, media_type, packed if len(packed) < len(body) else None, f'"{sha256(body).hexdigest()[:32]}"')

    def answer(self, request: Request, *, keep: bool = False) -> Response:
        """Answer with it, or with 304 where the browser has it. keep: what its address names never changes."""
        headers = HEADERS | {"etag": self.tag, "vary": "accept, accept-encoding"} | ({"cache-control": KEPT} if keep else {})
        if self.tag in request.headers.get("if-none-match", "").replace("W/", "").split(", "):
            return Response(status_code=304, headers=headers)
        if self.packed and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, headers=headers | {"content-encoding": "gzip"}, media_type=self.media_type)
        return Response(self.body, headers=headers, media_type=self.media_type)


def make_page(settings: Settings, version: str) -> APIRouter:
    """Make the page's routes; they ask for no key, and show nothing that needs one.

    Args:
        settings: which page, and what a reader's files may be; the page refuses the others before it sends them.
        version: what API clients are told at ``/``.
    """
    router, assets = APIRouter(include_in_schema=False), dict(_assets())
    facts: dict[str, object] = {
        "read_only": settings.page == "read-only",
        "keys": settings.keys_required,
        "max_upload_bytes": settings.max_upload_bytes,
        "limit_images": settings.limit_images,
        "limit_videos": settings.limit_videos,
    }
    release = "r" + sha256("".join(asset.tag for _, asset in sorted(assets.items())).encode()).hexdigest()[:12]
    front, docs = (
        Asset.of(name, _with_files(assets.pop(name).body.decode(), assets, release, facts).encode())
        for name in ("index.html", "docs.html")
    )
    told = about(settings, version)

    async def root(request: Request) -> Response:
        """Give the page to a browser; everybody else is told what this is."""
        if "text/html" in request.headers.get("accept", ""):
            return front.answer(request)
        return JSONResponse(told, headers={"vary": "accept"})

    async def documentation(request: Request) -> Response:
        """Give the page that shows ``/openapi.json``."""
        return docs.answer(request)

    async def asset(path: str, request: Request) -> Response:
        """Give one of the page's files, also by another release's name: a gateway beside this one may have served its page."""
        named, _, rest = path.partition("/")
        name = rest if RELEASE.fullmatch(named) else path
        if name not in assets:
            raise NotFound("the page has no such file")
        return assets[name].answer(request, keep=named == release)

    router.add_api_route("/", root)
    router.add_api_route("/docs", documentation)
    router.add_api_route("/page/{path:path}", asset)
    return router


def _with_files(page: str, assets: dict[str, Asset], release: str, facts: dict[str, object]) -> str:
    """Write into a page where its files are, the modules that they import, and what the settings say."""
    scripts = re.findall(r'"page/([^"]+\.js)"', page)
    preloads = (f'<link rel="modulepreload" href="page/{name}">\n' for name in _imports(scripts, assets))
    page = page.replace("</head>", "".join(preloads) + "</head>").replace('="page/', f'="page/{release}/')
    return page.replace("{facts}", escape(json.dumps(facts)))


def _imports(scripts: list[str], assets: dict[str, Asset]) -> list[str]:
    """Name the modules that scripts import, and theirs; those that are imported later, by a call, are not among them."""
    found = list(scripts)
    for name in found:  # which grows meanwhile
        paths = (posixpath.normpath(posixpath.join(posixpath.dirname(name), target)) for target in _targets(assets[name].body))
        found += [path for path in dict.fromkeys(paths) if path not in found]
    return found[len(scripts) :]


@cache
def _targets(script: bytes) -> list[str]:
    """Name what a script imports as it is written there; looking through all of them takes a hundredth of a second."""
    return IMPORT.findall(script.decode())


@cache
def _assets() -> dict[str, Asset]:
    """Read the page's files, once: packing all of them takes a tenth of a second."""
    return _read(files("api.page") / "static")


def _read(folder: Traversable, prefix: str = "") -> dict[str, Asset]:
    """Read a folder's files, by their paths in it."""
    found: dict[str, Asset] = {}
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            found |= _read(entry, f"{name}/")
        elif any(name.endswith(ending) for ending in TYPES):
            found[name] = Asset.of(name, entry.read_bytes())
    return found
