"""What both clients do, written once: each verb is a flow that yields what is to be sent and how long to pause.

A flow touches neither network nor clock but the monotonic one; :mod:`sightline.client.sync` and :mod:`.aio` run it.
"""

from __future__ import annotations

import io
import math
import os
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar
from uuid import uuid4

import httpx

from sightline.client.errors import PAUSE_S, ServiceError, body_of, unreachable
from sightline.client.files import SteadyFile, file_name
from sightline.client.records import FINAL, File

T = TypeVar("T")
#: A picture or video: an address, a data-URL, an upload's id or record, a path, bytes, or an open file.
Media: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | File
#: Media that are shown together, in one job.
Several: TypeAlias = list[Media] | tuple[Media, ...]
KEY = "idempotency-key"  #: makes a repetition of a submission harmless
#: How long one request waits for a job's end before it asks again; proxies cut what is silent for a minute.
WAIT_S = 20
LONGEST_PAUSE_S = 5.0
#: Of videos, by which one at an address is told from a picture: those that the service takes.
VIDEO_SUFFIXES = tuple(
    ".mp4 .m4v .3gp .mov .qt .mkv .webm .avi .flv .ts .mts .m2ts .mpg .mpeg .vob .wmv .asf .ogv".split()  # noqa: SIM905  # in a line
)
REFERENCES = ("http://", "https://", "data:", "file-")


@dataclass(frozen=True)
class Ask:
    """Send a request; the flow is given the answer, or has the transport's error thrown into it."""

    method: str
    path: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Pause:
    """Do nothing for so long."""

    seconds: float


Flow: TypeAlias = Generator[Ask | Pause, httpx.Response | None, T]


class Core:
    """The address of a service, and the flows of all verbs."""

    def __init__(self, base_url: str, *, api_key: str | None = None, retry_s: float = 30.0) -> None:
        """Take the address as people write it, see :class:`sightline.client.Client`."""
        base = base_url if "://" in base_url else f"http://{base_url}"
        self.url: str = base.rstrip("/").removesuffix("/v1").rstrip("/")
        key = api_key or os.environ.get("SIGHTLINE_API_KEY")
        self.headers: dict[str, str] = {"authorization": f"Bearer {key}"} if key else {}
        self.retry_s = retry_s
        self.met = False  #: whether anything ever answered
        self.away_s: float = math.inf  #: since when nothing answers, by the monotonic clock

    def make(self, client: Callable[..., T], **options: Any) -> T:
        """Make the httpx client.

        Raises:
            ServiceError: the address is none.
        """
        try:
            return client(base_url=self.url, headers=self.headers, trust_env=False, **options)
        except httpx.InvalidURL as error:
            msg = f"{self.url} is no address of a service; write it as http://host:8000"
            raise ServiceError(msg, "unreachable") from error

    def ask(self, method: str, path: str, **options: Any) -> Flow[dict[str, Any]]:
        """Make a request, again for ``retry_s`` where that may help and is harmless."""
        patience = Patience(self)
        harmless = method != "POST" or "files" in options or KEY in options.get("headers", {}) or path.endswith("/cancel")
        while True:
            try:
                for _, file in options.get("files", {}).values():
                    file.seek(0)
                answer = yield Ask(method, path, options)
                patience.renew()
                assert answer is not None  # noqa: S101  # what an Ask is answered with
                return body_of(answer, self.url)
            except (httpx.TransportError, ServiceError) as lost:
                yield Pause(patience.pause_s(lost, harmless=harmless))

    def upload(self, file: Media, *, name: str | None = None) -> Flow[dict[str, Any]]:
        """Store a file."""
        with _opened(file) as (handle, own_name):
            return (yield from self.ask("POST", "/v1/files", files={"file": (name or own_name, handle)}))

    def submit(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Flow[dict[str, Any]]:
        """Submit a job under a key, its own or a new one."""
        return (yield from self.ask("POST", "/v1/jobs", json=dict(body), headers={KEY: idempotency_key or uuid4().hex}))

    def request_of(self, media: Media | Several, prompt: str, **more: Any) -> Flow[dict[str, Any]]:
        """Upload what is no reference, and write the request for a job."""
        images, videos = list[str](), list[str]()
        several = list(media) if isinstance(media, list | tuple) else [media]
        for one in several:
            file = one if isinstance(one, File) else None
            if file is None and not (isinstance(one, str) and one.startswith(REFERENCES)):
                file = File((yield from self.upload(one)))
            if file is None and isinstance(one, str) and one.startswith("file-"):
                file = File((yield from self.ask("GET", f"/v1/files/{one}")))
            reference = file.id if file else str(one)
            (videos if (file.is_video if file else is_video(reference)) else images).append(reference)
        return body_with(prompt, images, videos, **more)

    def wait(
        self, job_id: str, *, timeout_s: float | None = None, on_change: Callable[[dict[str, Any]], None] | None = None
    ) -> Flow[dict[str, Any]]:
        """Wait for a job's end."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = WAIT_S if until_s is None else max(0.0, min(WAIT_S, until_s - time.monotonic()))
            step_s = min(left_s, 1.0) if on_change else left_s
            job = yield from self.ask("GET", f"/v1/jobs/{job_id}", params={"wait": round(step_s, 3)})
            if on_change:
                on_change(job)
            if job["status"] in FINAL:
                return job
            if until_s is not None and time.monotonic() >= until_s:
                msg = f"{job_id} is still {job['status']} after {timeout_s:.0f} s"
                raise TimeoutError(msg)

    def cancel(self, job_id: str) -> Flow[dict[str, Any]]:
        """Cancel a job; one that has ended is given as it ended."""
        try:
            return (yield from self.ask("POST", f"/v1/jobs/{job_id}/cancel"))
        except ServiceError as error:
            if error.code != "already_final":
                raise
            return (yield from self.ask("GET", f"/v1/jobs/{job_id}"))

    def retry(self, job_id: str) -> Flow[dict[str, Any]]:
        """Have a job's request tried anew, as another job."""
        return (yield from self.ask("POST", f"/v1/jobs/{job_id}/retry", headers={KEY: uuid4().hex}))


class Patience:
    """Says whether a failure is to be waited out, and for how long.

    Who asks while nothing answers waits no longer than who asked first: the service's absence is one.
    """

    def __init__(self, core: Core) -> None:
        """Begin with all of it."""
        self._core, self._tries, self._failing_s = core, 0, math.inf

    def renew(self) -> None:
        """Begin anew: the service answered."""
        self._core.met, self._core.away_s = True, math.inf

    def succeed(self) -> None:
        """Begin anew: it answered with what was wanted."""
        self.renew()
        self._tries, self._failing_s = 0, math.inf

    def pause_s(self, lost: httpx.TransportError | ServiceError, *, harmless: bool = True) -> float:
        """Give the seconds until the next try.

        Raises:
            ServiceError: another try would do harm or not help, or there were enough.
        """
        now_s, core = time.monotonic(), self._core
        error = lost if isinstance(lost, ServiceError) else unreachable(core.url, lost)
        self._failing_s = min(self._failing_s, now_s)
        if lost is not error:
            core.away_s = min(core.away_s, now_s)
            self._failing_s = min(self._failing_s, core.away_s)
        left_s = core.retry_s - (now_s - self._failing_s)
        is_wrong_address = lost is not error and not core.met  # which is raised at once
        if is_wrong_address or not (harmless and error.passes and left_s > 0):
            raise error from lost
        self._tries += 1
        return min(left_s, error.retry_after_s if error.retry_after_s is not None else pause_s(self._tries - 1))


def body_with(
    prompt: str, images: Sequence[str], videos: Sequence[str], files: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    """Write the request for a job.

    Args:
        prompt: what to ask.
        images: references to pictures.
        videos: and to videos.
        files: and to what the service is to look at, whether it moves.
        more: other fields, and ``system``, whose text goes before the prompt.
    """
    system = more.pop("system", None)
    fields = {name: value for name, value in more.items() if value is not None}
    if not system and not files and len(videos) <= 1:
        media: dict[str, Any] = {"images": list(images)} if images else {}
        return {"prompt": prompt, **media, **({"video": videos[0]} if videos else {}), **fields}
    content: list[dict[str, str]] = [{"type": "image", "image": image} for image in images]
    content += [{"type": "video", "video": video} for video in videos]
    content += [*({"type": "file", "file": file} for file in files), {"type": "text", "text": prompt}]
    first = [{"role": "system", "content": system}] if system else []
    return {"messages": [*first, {"role": "user", "content": content}], **fields}


def is_video(reference: str) -> bool:
    """Guess from an address or a data-URL whether it is a video."""
    if reference.startswith("data:"):
        return reference.startswith("data:video/")
    return reference.partition("?")[0].lower().endswith(VIDEO_SUFFIXES)


def pause_s(tries: int) -> float:
    """Say how long to wait after so many tries: longer each time, and not in step with others."""
    return min(LONGEST_PAUSE_S, PAUSE_S * 2.0**tries) * random.uniform(0.75, 1.25)  # noqa: S311  # no secret


@contextmanager
def _opened(file: Media) -> Iterator[tuple[BinaryIO, str]]:
    """Open what can be sent again from its start; what can not is read whole."""
    if isinstance(file, bytes):
        yield io.BytesIO(file), "file"
    elif isinstance(file, str | os.PathLike):
        with SteadyFile(file) as opened:
            yield opened, file_name(Path(file))
    elif isinstance(file, File):
        raise TypeError("this file is uploaded already")
    else:
        name = getattr(file, "name", "file")
        yield file if file.seekable() else io.BytesIO(file.read()), file_name(Path(name)) if isinstance(name, str) else "file"
