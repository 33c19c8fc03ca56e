"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from sightline.client.core import Ask, Core, Flow, Media, Patience, Pause, Several, pause_s
from sightline.client.ends import Ends
from sightline.client.errors import ServiceError, body_of
from sightline.client.many import Room, pour
from sightline.client.records import Described, Event, File, JobFacts
from sightline.client.sse import FAREWELLS, EventReader

T = TypeVar("T")
Item = TypeVar("Item", bound=Media)
#: Paths that are answered at once, and how many of those requests are made at a time: with each, httpx's pool looks at all
#: connections, which with eighty of them took a third of a client's time.
SHORT = ("/v1/jobs", "/v1/files")
ASKING = 16
UPLOADS = 8  #: at a time: enough for a link's width, and few enough for a client's memory


class AsyncClient:
    """Talks to a gateway; the verbs are those of :class:`sightline.client.Client`, and their arguments too.

    >>> async with AsyncClient("http://127.0.0.1:8000") as client:  # doctest: +SKIP
    ...     async for done in client.describe_many(paths, "What is this?"):
    ...         print(done.item, done.text or done.error)
    """

    def __init__(self, base_url: str, *, timeout_s: float = 60.0, api_key: str | None = None, retry_s: float = 30.0) -> None:
        """Open a connection pool, see :class:`sightline.client.Client`."""
        self._core = Core(base_url, api_key=api_key, retry_s=retry_s)
        self.url: str = self._core.url
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._http = self._core.make(httpx.AsyncClient, timeout=timeout_s, limits=limits)
        self._uploading = asyncio.Semaphore(UPLOADS)
        self._asking = asyncio.Semaphore(ASKING)

    async def __aenter__(self) -> Self:
        """Use as a context manager."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Make any request, as httpx takes it, and give the answer's JSON."""
        return await self._run(self._core.ask(method, path, **options))

    async def upload(self, file: Media, *, name: str | None = None) -> File:
        """Store a picture or video."""
        async with self._uploading:
            return File(await self._run(self._core.upload(file, name=name)))

    async def submit(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> AsyncJob:
        """Submit a job and give its handle at once."""
        return AsyncJob(self, await self._run(self._core.submit(body, idempotency_key=idempotency_key)))

    async def send(self, media: Media | Several, prompt: str, **more: Any) -> AsyncJob:
        """Upload what is to be uploaded and submit a job."""
        async with self._uploading:
            body = await self._run(self._core.request_of(media, prompt, **more))
        return await self.submit(body)

    async def describe(self, media: Media | Several, prompt: str, *, timeout_s: float | None = None, **more: Any) -> AsyncJob:
        """Have a picture or video described, or several together, and wait for it."""
        return await (await self.send(media, prompt, **more)).wait(timeout_s=timeout_s)

    async def describe_many(
        self, items: Iterable[Item] | AsyncIterable[Item], prompt: str, *, window: int | None = None, **more: Any
    ) -> AsyncGenerator[Described[Item]]:
        """Have many described, each in a job of its own, and give them as they end."""
        async with Ends(self) as ends:

            async def one(item: Item) -> Described[Item]:
                try:
                    job = await self.send(item, prompt, **more)
                    return Described(item, await ends.wait(job))
                except (ServiceError, OSError) as error:
                    if isinstance(error, ServiceError) and error.is_lost:
                        raise
                    return Described(item, refusal=error)

            async with aclosing(pour(items, one, Room(self, window))) as results:
                async for result in results:
                    yield result

    async def wait(
        self, job_id: str, *, timeout_s: float | None = None, on_change: Callable[[dict[str, Any]], None] | None = None
    ) -> AsyncJob:
        """Wait for a job's end."""
        return AsyncJob(self, await self._run(self._core.wait(job_id, timeout_s=timeout_s, on_change=on_change)))

    async def job(self, job_id: str) -> AsyncJob:
        """Read a job."""
        return AsyncJob(self, await self.request("GET", f"/v1/jobs/{job_id}"))

    async def jobs(self, **filters: Any) -> AsyncIterator[AsyncJob]:
        """Give all jobs, newest first, page by page as they are needed; see :meth:`Client.jobs`."""
        async for fields in self._listed("/v1/jobs", filters):
            yield AsyncJob(self, fields)

    async def files(self, **filters: Any) -> AsyncIterator[File]:
        """Give all files, newest first, page by page as they are needed."""
        async for fields in self._listed("/v1/files", filters):
            yield File(fields)

    async def models(self) -> list[str]:
        """Name the models that ready workers answer as."""
        return [str(model["id"]) for model in (await self.request("GET", "/v1/models"))["data"]]

    async def _listed(self, path: str, filters: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        page: dict[str, Any] = {"data": [], "has_more": True, "last_id": None}
        while page["has_more"]:
            after = {"after": page["last_id"]} if page["last_id"] else {}
            page = await self.request("GET", path, params={"limit": 100, **filters, **after})
            for fields in page["data"]:
                yield fields

    async def events(self, path: str = "/v1/events", *, after: str | None = None) -> AsyncIterator[Event]:
        """Give the events of a stream, and go on after a drop; a job's ends with the job, that of all jobs never."""
        reader, patience = EventReader(after), Patience(self._core)
        while True:
            try:
                reader.begin()
                async with self._http.stream("GET", path, headers=reader.headers) as answer:
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return
                    if answer.is_error:
                        await answer.aread()
                        body_of(answer, self.url)
                    async for data in answer.aiter_bytes():
                        for event in reader.feed(data):
                            patience.succeed()
                            if event.type not in FAREWELLS:
                                yield event
                            if event.is_final and path != "/v1/events":
                                return
            except (httpx.TransportError, ServiceError) as lost:
                pause = patience.pause_s(lost)
            else:
                pause = pause_s(0)
            await asyncio.sleep(pause)

    async def _run(self, flow: Flow[T]) -> T:
        """Do what a flow asks for, to its end."""
        answer: httpx.Response | None = None
        lost: httpx.TransportError | None = None
        try:
            while True:
                step = flow.throw(lost) if lost else flow.send(answer)
                answer = lost = None
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    continue
                try:
                    answer = await self._send(step)
                except httpx.TransportError as error:
                    lost = error
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            flow.close()  # a wait that was cancelled leaves no file open

    async def _send(self, step: Ask) -> httpx.Response:
        if "wait" in step.options.get("params", {}) or not step.path.startswith(SHORT):
            return await self._http.request(step.method, step.path, **step.options)
        async with self._asking:
            return await self._http.request(step.method, step.path, **step.options)


class AsyncJob(JobFacts):
    """A job's handle: what was last read of it, and what can be done with it."""

    def __init__(self, client: AsyncClient, fields: Mapping[str, Any]) -> None:
        """Keep the facts, and whom to ask for newer ones."""
        super().__init__(fields)
        self._client = client

    async def wait(self, *, timeout_s: float | None = None) -> Self:
        """Wait for its end, see :meth:`Client.wait`."""
        if not self.is_final:
            self._fields = dict(await self._client.wait(self.id, timeout_s=timeout_s))
        return self

    async def refresh(self) -> Self:
        """Read it anew."""
        self._fields = await self._client.request("GET", f"/v1/jobs/{self.id}")
        return self

    async def cancel(self) -> Self:
        """Cancel it; one that has ended stays as it ended."""
        self._fields = await self._client._run(self._client._core.cancel(self.id))  # noqa: SLF001  # its own module
        return self

    async def retry(self) -> Self:
        """Try it anew once it has ended; gives the new job, whose ``retry_of`` names this one."""
        return type(self)(self._client, await self._client._run(self._client._core.retry(self.id)))  # noqa: SLF001  # its own module

    def events(self, *, after: str | None = None) -> AsyncIterator[Event]:
        """Give its events so far, then as they happen, up to its end."""
        return self._client.events(f"/v1/jobs/{self.id}/events", after=after)
