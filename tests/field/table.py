"""One row of the table: what is sent, by which door, and what has to come back."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from demo.captions import Truth, read_caption

Kind = Literal["image", "video"]
Door = Literal["chat", "job", "upload", "responses"]
WORDS: dict[str, str] = {"image": "Describe the picture.", "video": "Describe the video."}
TIMEOUT_S = 180


@dataclass(frozen=True)
class Answer:
    """What a service answered: the text, or the words of its refusal; and the whole body."""

    status: int
    text: str
    body: dict[str, Any]

    @property
    def refused(self) -> bool:
        return self.status != httpx.codes.OK


@dataclass(frozen=True)
class Row:
    """An input and how its answer is judged.

    ``ask`` sends it; ``judge`` says what is wrong with the answer, nothing where it is right. Where ``refusal`` is given the
    input is one that nobody could serve, and the words are those that its refusal has to have.
    """

    family: str
    name: str
    ask: Callable[[Service], Answer]
    judge: Callable[[Answer], str]
    refusal: str = ""


class Service:
    """A running service, asked as its clients do."""

    def __init__(self, base_url: str, api_key: str = "") -> None:
        """Connect to it."""
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=base_url, timeout=TIMEOUT_S, headers=headers, trust_env=False)

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Send JSON."""
        return self._http.post(path, json=body)

    def chat(self, url: str, kind: Kind, prompt: str = "", **more: Any) -> Answer:
        """Ask a chat about one picture or video."""
        part = {"type": f"{kind}_url", f"{kind}_url": {"url": url}}
        content = [part, {"type": "text", "text": prompt or WORDS[kind]}]
        body = {"model": "qwen-vl", "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 80}
        answer = self.post("/v1/chat/completions", body | more)
        return self.asked(answer)

    def asked(self, answer: httpx.Response, text: Callable[[dict[str, Any]], str] | None = None) -> Answer:
        """Read a chat's answer; ``text`` picks out of it what is judged."""
        return _read(answer, text or (lambda found: found["choices"][0]["message"]["content"]))

    def send(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """Send a body as it is."""
        return self._http.post(path, content=body, headers=headers)

    def job(self, reference: str, kind: Kind, prompt: str = "", **part: Any) -> Answer:
        """Submit a job about one picture or video, and wait for its end."""
        content = [{"type": kind, kind: reference} | part, {"type": "text", "text": prompt or WORDS[kind]}]
        return self.submit([{"role": "user", "content": content}])

    def submit(self, messages: list[dict[str, Any]]) -> Answer:
        """Submit a job of messages, and wait for its end."""
        sampling = {"temperature": 0, "max_tokens": 80}
        asked = self.post("/v1/jobs", {"messages": messages, "sampling": sampling})
        if asked.status_code != httpx.codes.ACCEPTED:
            return _read(asked, lambda _: "")
        while True:
            job = self._http.get(asked.headers["location"], params={"wait": 30}).json()
            if job["status"] == "succeeded":
                return Answer(200, job["output"]["text"], job)
            if job["status"] not in {"queued", "running"}:
                return Answer(422, f"{job['error']['code']}: {job['error']['message']}", job)

    def upload(self, data: bytes, kind: Kind, name: str = "file", **part: Any) -> Answer:
        """Upload a file, and submit a job that names it."""
        answer = self._http.post("/v1/files", files={"file": (name, data)}, data={"purpose": "vision"})
        return self.job(answer.json()["id"], kind, **part) if answer.is_success else _read(answer, lambda _: "")

    def responses(self, url: str) -> Answer:
        """Ask for one of OpenAI's responses about a picture."""
        content = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": WORDS["image"]}]
        return self.respond([{"role": "user", "content": content}])

    def respond(self, turns: list[dict[str, Any]]) -> Answer:
        """Ask for one of OpenAI's responses to turns."""
        body = {"model": "qwen-vl", "input": turns, "temperature": 0, "max_output_tokens": 80}
        return _read(self.post("/v1/responses", body), lambda found: found["output"][0]["content"][0]["text"])


def _read(answer: httpx.Response, text: Callable[[dict[str, Any]], str]) -> Answer:
    try:
        body = answer.json()
        found = text(body) if answer.status_code == httpx.codes.OK else f"{body['error']['code']}: {body['error']['message']}"
    except (ValueError, KeyError, TypeError) as error:
        return Answer(answer.status_code if answer.is_error else 599, f"{error!r}: {answer.text[:200]}", {})
    return Answer(answer.status_code, found, body)


def data_url(data: bytes, media_type: str = "application/octet-stream") -> str:
    """Put a file into a data-URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def send(data: bytes, kind: Kind, door: Door) -> Callable[[Service], Answer]:
    """Send a file by a door."""

    def ask(service: Service) -> Answer:
        if door == "upload":
            return service.upload(data, kind)
        if door == "job":
            return service.job(data_url(data), kind)
        if door == "responses":
            return service.responses(data_url(data))
        return service.chat(data_url(data), kind)

    return ask


def says(truth: Truth) -> Callable[[Answer], str]:
    """Judge by what a caption says, whose words the demo model was taught."""

    def judge(answer: Answer) -> str:
        return "" if read_caption(answer.text, "en") == truth else f"not {truth}"

    return judge
