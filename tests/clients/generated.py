"""A client that openapi-python-client makes of a running service's own description, used against it. See README.md.

It is typed by the description alone: an answer that is not as described fails to be read, and a body that is refused is a
wrong row. Any worker and engine will do.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx

BASE = sys.argv[1].rstrip("/")
PICTURE = (Path(__file__).parent / "circle.png").read_bytes()
URL = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
GROUP = f"generated-{uuid.uuid4().hex[:8]}"
WAIT = "wait=60"


def generate(folder: Path) -> None:
    """Make the client, and complain where the generator warns: it leaves out what it does not understand."""
    (folder / "openapi.json").write_bytes(httpx.get(f"{BASE}/openapi.json", timeout=60).raise_for_status().content)
    programs = Path(sys.executable).parent  # ruff is there, too, whose absence the generator warns of
    options = ["--path", "openapi.json", "--output-path", "generated_client", "--meta", "none", "--fail-on-warning"]
    own = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run([programs / "openapi-python-client", "generate", *options], cwd=folder, env=own, check=True)


class Generated:
    """The generated package: ``api.jobs.create_job`` and ``models.JobBody`` by their names."""

    def __init__(self) -> None:
        self.models: Any = import_module("generated_client.models")
        self.types: Any = import_module("generated_client.types")
        client = import_module("generated_client.client").AuthenticatedClient
        self.client = client(base_url=BASE, token="EMPTY", timeout=httpx.Timeout(90), raise_on_unexpected_status=True)

    def call(self, tag: str, name: str, *path: str, **given: Any) -> Any:
        """Call an operation, and give its parsed answer."""
        return import_module(f"generated_client.api.{tag}.{name}").sync(*path, client=self.client, **given)

    def job(self, **given: Any) -> Any:
        return self.models.JobBody(prompt="Describe the picture.", images=[URL], group=GROUP, **given)

    def upload(self, data: bytes, name: str, purpose: str) -> Any:
        file = self.types.File(payload=io.BytesIO(data), file_name=name)
        kind = self.models.FileUploadPurpose(purpose)
        return self.call("files", "upload_file", body=self.models.FileUpload(file=file, purpose=kind))


def create_and_wait(own: Generated) -> bool:
    job = own.call("jobs", "create_job", body=own.job())
    ended = own.call("jobs", "get_job", job.id, wait=60.0)
    return (
        job.status == "queued"
        and ended.status == "succeeded"
        and bool(ended.output.text)
        and ended.output.usage.vision_tokens > 0
    )


def create_with_wait(own: Generated) -> bool:
    key = uuid.uuid4().hex
    first, second = (own.call("jobs", "create_job", body=own.job(), prefer=WAIT, idempotency_key=key) for _ in range(2))
    return first.status == "succeeded" and first.id == second.id and first.urls.cancel.endswith("/cancel")


def messages(own: Generated) -> bool:
    parts = [own.models.ImagePart(type_="image", image=URL), own.models.TextPart(type_="text", text="What?")]
    turn = own.models.AnyMessage(role=own.models.AnyMessageRole("user"), content=parts)
    body = own.models.JobBody(messages=[turn], sampling=own.models.Sampling(max_tokens=16))
    return own.call("jobs", "create_job", body=body, prefer=WAIT).output.finish_reason in {"stop", "length", "repetition"}


def list_jobs(own: Generated) -> bool:
    page = own.call("jobs", "list_jobs", group=GROUP, status=[own.models.JobStatus("succeeded")], counts=True, limit=1)
    return page.has_more and len(page.data) == 1 and page.counts.succeeded >= 2 and page.last_id == page.data[0].id


def cancel(own: Generated) -> bool:
    first = own.call("jobs", "cancel_job", own.call("jobs", "create_job", body=own.job()).id)
    in_time = isinstance(first, own.models.Job) and first.status in {"cancelled", "succeeded"}  # whichever came first
    late = own.call("jobs", "cancel_job", own.call("jobs", "create_job", body=own.job(), prefer=WAIT).id)
    return (in_time or is_final(own, first)) and is_final(own, late)


def is_final(own: Generated, answer: Any) -> bool:
    """Say whether an answer tells that a job had ended already."""
    return isinstance(answer, own.models.Problem) and answer.status == 409 and answer.error.code == "already_final"


def many(own: Generated) -> bool:
    wanted = own.models.Many(filter_=own.models.JobFilter(group=GROUP), dry_run=True)
    cancelled = own.call("jobs", "cancel_jobs", body=wanted)
    retried = own.call("jobs", "retry_jobs", body=wanted)
    return cancelled.dry_run and cancelled.done == retried.done == 0


def group(own: Generated) -> bool:
    found = own.call("jobs", "get_group", GROUP)
    return found.id == GROUP and found.counts.succeeded >= 2 and found.webhook is None


def files(own: Generated) -> bool:
    sent = own.upload(PICTURE, "圆.png", "vision")
    read = own.call("files", "get_content", sent.id).payload.read()
    listed = [file.id for file in own.call("files", "list_files").data]
    gone = own.call("files", "delete_file", sent.id)
    return (
        (sent.filename, sent.media_type, read == PICTURE) == ("圆.png", "image/png", True)
        and sent.id in listed
        and gone.deleted
    )


def unknown(own: Generated) -> bool:
    answer = own.call("jobs", "get_job", "job_0")
    return isinstance(answer, own.models.Problem) and (answer.status, answer.error.code) == (404, "not_found")


def chat(own: Generated) -> bool:
    given = own.models
    content = [
        given.ImageUrlPart(type_="image_url", image_url=given.MediaUrl(url=URL)),
        given.TextPart(type_="text", text="What?"),
    ]
    turn = given.Turn(role=given.TurnRole("user"), content=content)
    answer = own.call("openai", "create_chat_completion", body=given.ChatRequest(model=own_model(own), messages=[turn]))
    return answer.usage.completion_tokens > 0 and bool(answer.choices[0].message.content)


def response(own: Generated) -> bool:
    given = own.models
    content = [
        given.InputImagePart(type_="input_image", image_url=URL),
        given.SaidPart(type_=given.SaidPartType("input_text"), text="What?"),
    ]
    turn = given.InputMessage(role=given.InputMessageRole("user"), content=content)
    body = given.ResponseRequest(model=own_model(own), input_=[turn], background=True)
    begun = own.call("openai", "create_response", body=body)
    ended = until(lambda: own.call("openai", "get_response", begun.id), {"completed", "incomplete", "failed"})
    gone = own.call("openai", "delete_response", begun.id)
    return begun.status in {"queued", "in_progress"} and ended.output[0].content[0].text != "" and gone.deleted


def own_model(own: Generated) -> str:
    return str(own.call("openai", "list_models").data[0].id)


def batch(own: Generated) -> bool:
    content = [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": "What?"}]
    chat_body = {"model": own_model(own), "messages": [{"role": "user", "content": content}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat_body}
    sent = own.upload((json.dumps(line) + "\n").encode(), "lines.jsonl", "batch")
    body = own.models.BatchRequest(sent.id, endpoint="/v1/chat/completions", completion_window="24h")
    begun = own.call("batches", "create_batch", body=body)
    ended = until(lambda: own.call("batches", "get_batch", begun.id), {"completed", "failed", "expired"})
    answers = own.call("files", "get_content", ended.output_file_id).payload.read().decode().splitlines()
    listed = [one.id for one in own.call("batches", "list_batches").data]
    return ended.request_counts.completed == len(answers) == 1 and begun.id in listed


def endpoint(own: Generated) -> bool:
    given = own.models
    new = given.NewEndpoint(url="https://example.com/hook", event_types=[given.NewEndpointEventTypesItem("job.failed")])
    made = own.call("webhooks", "create_endpoint", body=new)
    listed = [one.id for one in own.call("webhooks", "list_endpoints", limit=100).data]
    gone = own.call("webhooks", "delete_endpoint", made.id)
    return made.signing_secret.startswith("whsec_") and made.id in listed and gone.deleted


def service(own: Generated) -> bool:
    queue, workers = own.call("health", "queue"), own.call("health", "list_workers")
    return queue.workers_ready >= 1 and workers.data[0].engine.name != "" and own.call("health", "livez").status == "ok"


def until(look: Callable[[], Any], ends: set[str], within_s: float = 120) -> Any:
    """Look again and again until it has ended."""
    give_up_s = time.monotonic() + within_s
    while (seen := look()).status not in ends and time.monotonic() < give_up_s:
        time.sleep(0.2)
    return seen


TRIALS: tuple[Callable[[Generated], bool], ...] = (
    *(create_and_wait, create_with_wait, messages, list_jobs, cancel, many, group, files, unknown),
    *(chat, response, batch, endpoint, service),
)


def main() -> int:
    """Generate, and run all trials; gives the exit code."""
    n_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        sys.path.insert(0, folder)
        own = Generated()
        for trial in TRIALS:
            try:
                why = "" if trial(own) else "another answer"
            except Exception as error:  # noqa: BLE001  # whatever a client raises is a wrong row
                why = f"{type(error).__name__}: {str(error)[:300]}"
            n_wrong += bool(why)
            print("wrong" if why else "right", trial.__name__, why, sep="  ", flush=True)
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
