"""The client that blocks."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from sightline.client.bridge import iterate
from sightline.client.core import Ask, Core, Flow, Media, Patience, Pause, Several, pause_s
from sightline.client.errors import ServiceError, body_of
from sightline.client.records import Described, Event, File, JobFacts
from sightline.client.sse import FAREWELLS, EventReader

T = TypeVar("T")
Item = TypeVar("Item", bound=Media)


class Client:
    """Talks to a gateway, one request at a time; threads may share it.

    >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
    ...     print(client.describe("cat.jpg", "What is this?").text)
    """

    def __init__(self, base_url: str, *, timeout_s: float = 60.0, api_key: str | None = None, retry_s: float = 30.0) -> None:
        """Open a connection pool.

        Args:
            base_url: the gateway; ``host:port`` will do, and so will the ``/v1`` that OpenAI's clients are given.
            timeout_s: for one answer, uploads included.
            api_key: where the gateway asks for one; left out, the variable SIGHTLINE_API_KEY.
            retry_s: for so long a request is made again where that may help and does no harm: while the gateway is
                restarted, while a queue is full. A gateway that was never met is not waited for.

        Raises:
            ServiceError: the address is none.
        """
        self._core = Core(base_url, api_key=api_key, retry_s=retry_s)
        self.url: str = self._core.url
        self._settings = {"timeout_s": timeout_s, "api_key": api_key, "retry_s": retry_s}
        self._http = self._core.make(httpx.Client, timeout=timeout_s, limits=httpx.Limits(max_connections=None))

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Make any request, as httpx takes it, and give the answer's JSON.

        Raises:
            ServiceError: an error answer, or none.
        """
        return self._run(self._core.ask(method, path, **options))

    def upload(self, file: Media, *, name: str | None = None) -> File:
        """Store a picture or video.

        Args:
            file: a path, bytes, or an open file, which is sent whole, from its start.
            name: what the service calls it; left out: the file's own.

        Raises:
            ServiceError: it is refused.
            OSError: it cannot be read, is a pipe or a folder, or changes while it is sent.
        """
        return File(self._run(self._core.upload(file, name=name)))

    def submit(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Submit a job and give its handle at once.

        Args:
            body: see POST /v1/jobs.
            idempotency_key: a second request with this key gives the first one's job; left out, a new one is made, so that
                a repetition after a lost answer is harmless.

        Raises:
            ServiceError: it is refused.
        """
        return Job(self, self._run(self._core.submit(body, idempotency_key=idempotency_key)))

    def send(self, media: Media | Several, prompt: str, **more: Any) -> Job:
        """Upload what is to be uploaded and submit a job; see :meth:`describe`."""
        return self.submit(self._run(self._core.request_of(media, prompt, **more)))

    def describe(self, media: Media | Several, prompt: str, *, timeout_s: float | None = None, **more: Any) -> Job:
        """Have a picture or video described, or several together, and wait for it.

        Args:
            media: an address, a data-URL, an upload, a path, bytes or an open file; or several.
            prompt: what to ask, in any language.
            timeout_s: give up waiting after this; left out, wait as long as it takes.
            more: ``system``, a text that goes before the prompt, and fields of POST /v1/jobs, such as ``sampling``.

        Raises:
            ServiceError: it is refused. A job that fails is given, with its ``error``.
            TimeoutError: it has not ended in time; it goes on.
        """
        return self.send(media, prompt, **more).wait(timeout_s=timeout_s)

    def describe_many(
        self, items: Iterable[Item], prompt: str, *, window: int | None = None, **more: Any
    ) -> Iterator[Described[Item]]:
        """Have many described, each in a job of its own, and give them as they end.

        Args:
            items: may be an iterator without end; it is read as places become free.
            prompt: what to ask of each.
            window: jobs in flight; left out: as many as keep the service's workers busy.
            more: see :meth:`describe`.
        """
        from sightline.client.aio import AsyncClient

        async def run() -> AsyncGenerator[Described[Item]]:
            async with (
                AsyncClient(self.url, **self._settings) as client,  # type: ignore[arg-type]  # each as it was given
                aclosing(client.describe_many(items, prompt, window=window, **more)) as results,
            ):
                async for result in results:
                    yield result

        return iterate(run)

    def wait(
        self, job_id: str, *, timeout_s: float | None = None, on_change: Callable[[dict[str, Any]], None] | None = None
    ) -> Job:
        """Wait for a job's end.

        Args:
            job_id: its id.
            timeout_s: give up after this; left out, wait as long as it takes.
            on_change: is given the job each time it is read, at least once a second.

        Raises:
            TimeoutError: the job has not ended in time.
        """
        return Job(self, self._run(self._core.wait(job_id, timeout_s=timeout_s, on_change=on_change)))

    def job(self, job_id: str) -> Job:
        """Read a job."""
        return Job(self, self.request("GET", f"/v1/jobs/{job_id}"))

    def jobs(self, **filters: Any) -> Iterator[Job]:
        """Give all jobs, newest first, page by page as they are needed.

        Args:
            filters: of ``GET /v1/jobs``, such as ``status="failed"`` or ``group="summer"``.
        """
        return (Job(self, fields) for fields in self._listed("/v1/jobs", filters))

    def files(self, **filters: Any) -> Iterator[File]:
        """Give all files, newest first, page by page as they are needed."""
        return map(File, self._listed("/v1/files", filters))

    def models(self) -> list[str]:
        """Name the models that ready workers answer as."""
        return [str(model["id"]) for model in self.request("GET", "/v1/models")["data"]]

    def _listed(self, path: str, filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        page: dict[str, Any] = {"data": [], "has_more": True, "last_id": None}
        while page["has_more"]:
            after = {"after": page["last_id"]} if page["last_id"] else {}
            page = self.request("GET", path, params={"limit": 100, **filters, **after})
            yield from page["data"]

    def events(self, path: str = "/v1/events", *, after: str | None = None) -> Iterator[Event]:
        """Give the events of a stream, and go on after a drop; a job's ends with the job, that of all jobs never.

        Args:
            path: of the stream; left out: that of all jobs.
            after: id of the last event that is known.

        Raises:
            ServiceError: it is refused, or away for longer than ``retry_s``.
        """
        reader, patience = EventReader(after), Patience(self._core)
        while True:
            try:
                reader.begin()
                with self._http.stream("GET", path, headers=reader.headers) as answer:
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return
                    if answer.is_error:
                        answer.read()
                        body_of(answer, self.url)
                    for data in answer.iter_bytes():
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
            time.sleep(pause)

    def _run(self, flow: Flow[T]) -> T:
        """Do what a flow asks for, to its end."""
        answer: httpx.Response | None = None
        lost: httpx.TransportError | None = None
        try:
            while True:
                step = flow.throw(lost) if lost else flow.send(answer)
                answer = lost = None
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    continue
                try:
                    answer = self._send(step)
                except httpx.TransportError as error:
                    lost = error
        except StopIteration as end:
            value: T = end.value
            return value

    def _send(self, step: Ask) -> httpx.Response:
        return self._http.request(step.method, step.path, **step.options)


class Job(JobFacts):
    """A job's handle: what was last read of it, and what can be done with it."""

    def __init__(self, client: Client, fields: Mapping[str, Any]) -> None:
        """Keep the facts, and whom to ask for newer ones."""
        super().__init__(fields)
        self._client = client

    def wait(self, *, timeout_s: float | None = None) -> Self:
        """Wait for its end, see :meth:`Client.wait`."""
        if not self.is_final:
            self._fields = dict(self._client.wait(self.id, timeout_s=timeout_s))
        return self

    def refresh(self) -> Self:
        """Read it anew."""
        self._fields = self._client.request("GET", f"/v1/jobs/{self.id}")
        return self

    def cancel(self) -> Self:
        """Cancel it; one that has ended stays as it ended."""
        self._fields = self._client._run(self._client._core.cancel(self.id))  # noqa: SLF001  # its own module
        return self

    def retry(self) -> Self:
        """Try it anew once it has ended; gives the new job, whose ``retry_of`` names this one."""
        return type(self)(self._client, self._client._run(self._client._core.retry(self.id)))  # noqa: SLF001  # its own module

    def events(self, *, after: str | None = None) -> Iterator[Event]:
        """Give its events so far, then as they happen, up to its end."""
        return self._client.events(f"/v1/jobs/{self.id}/events", after=after)
