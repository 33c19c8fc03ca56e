"""The main job, from nothing: start every part, describe pictures and clips that the model has never seen, stop."""

from __future__ import annotations

import base64
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared.signing import make_secret
from sightline.client import Client, Job
from sightline.receiver import Receiver
from sightline.screen import Waiting, print_json
from sightline.stack import Stack

N_PICTURES = 8
N_CLIPS = 2
JOB_TIMEOUT_S = 120.0
WEBHOOK_TIMEOUT_S = 20.0
PROMPTS = {
    "image": {"en": "Describe this image.", "zh": "请用中文描述一下这张图片"},
    "video": {"en": "Describe this video.", "zh": "请用中文描述一下这段视频"},
}
LIMITS = (
    "The demo model is a toy of our own that knows coloured shapes and nothing else. For real pictures:\n"
    "  sightline models pull Qwen/Qwen2.5-VL-3B-Instruct\n"
    "  SIGHTLINE_MODEL=Qwen/Qwen2.5-VL-3B-Instruct sightline up      (needs a GPU)"
)


@dataclass(frozen=True)
class Exhibit:
    """A generated picture or clip, its truth, and how it travels."""

    path: Path
    kind: str
    language: Literal["en", "zh"]
    truth: str
    by: str


@dataclass(frozen=True)
class Result:
    """What came of one exhibit."""

    file: str
    sent_by: str
    truth: str
    description: str
    right: bool
    ms: int
    status: str
    engine: str


def make_exhibits(folder: Path, seed: int) -> list[Exhibit]:
    """Draw the pictures and clips into a folder; every other one will be uploaded, the rest sent as data-URLs."""
    from demo.scenes import clip, scene

    exhibits = []
    for n in range(N_PICTURES + N_CLIPS):
        language: Literal["en", "zh"] = "en" if n // 2 % 2 == 0 else "zh"
        if n < N_PICTURES:
            drawn, kind, path = scene(seed + n), "image", folder / f"scene-{n}.png"
            path.write_bytes(drawn.png())
            truth = drawn.caption(language)
        else:
            moving, kind, path = clip(seed + n), "video", folder / f"clip-{n - N_PICTURES}.mp4"
            path.write_bytes(moving.mp4())
            truth = moving.caption(language)
        exhibits.append(Exhibit(path, kind, language, truth, ("upload", "data-URL")[n % 2]))
    return exhibits


def submit(client: Client, exhibit: Exhibit, webhook_url: str) -> Job:
    """Send one exhibit the way it is meant to travel."""
    if exhibit.by == "upload":
        reference = client.upload(exhibit.path)["id"]
    else:
        media_type = "image/png" if exhibit.kind == "image" else "video/mp4"
        reference = f"data:{media_type};base64,{base64.b64encode(exhibit.path.read_bytes()).decode()}"
    media = {"images": [reference]} if exhibit.kind == "image" else {"video": reference}
    prompt = PROMPTS[exhibit.kind][exhibit.language]
    return client.submit({"prompt": prompt, **media, "webhook": {"url": webhook_url}, "metadata": {"file": exhibit.path.name}})


def run_demo(*, as_json: bool, seed: int | None) -> int:
    """Run the demo; progress goes to stderr, the table or one JSON document to stdout.

    Returns:
        The exit code: 0 when every job succeeded and every webhook arrived, signed.
    """
    results, summary = describe_new_scenes(seed)
    if as_json:
        print_json({**summary, "results": [asdict(result) for result in results]}, indent=1)
    else:
        console = Console(emoji=False)
        show(results, summary, console)
        console.print(escape(f"pictures and logs: {summary['folder']}"), highlight=False, soft_wrap=True)
        console.print(LIMITS, style="dim", highlight=False)
    return 0 if len(results) == summary["succeeded"] == summary["webhooks"] else 1


def describe_new_scenes(seed: int | None) -> tuple[list[Result], dict[str, Any]]:
    """Start every part, have pictures and clips described that are drawn now, and stop.

    Args:
        seed: of the drawings; left out: another one each time.

    Returns:
        What came of each, and the counts.
    """
    seed = random.randrange(2**31) if seed is None else seed  # noqa: S311  # no secret
    folder = Path(tempfile.mkdtemp(prefix="sightline-demo-"))
    began = time.monotonic()
    secret = make_secret()
    own = {
        "SIGHTLINE_MODEL": "demo",
        "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8",
        "SIGHTLINE_HOST": "127.0.0.1",  # else keys would be asked for
        "SIGHTLINE_REQUIRE_KEYS": "false",
        "SIGHTLINE_WEBHOOK_SECRET": secret,
    }
    stack = Stack(folder / "parts", settings=own)
    with Receiver(secret) as receiver, Waiting() as tell, stack:
        exhibits = make_exhibits(folder, seed)
        stack.wait_ready(tell)
        tell(f"describing {N_PICTURES} pictures and {N_CLIPS} clips")
        with Client(stack.url) as client:
            jobs = [submit(client, exhibit, receiver.url) for exhibit in exhibits]
            ended = [client.wait(job["id"], timeout_s=JOB_TIMEOUT_S) for job in jobs]
        tell("waiting for the webhooks")
        receiver.wait_for({job["id"] for job in jobs}, timeout_s=WEBHOOK_TIMEOUT_S)
        tell("stopping all parts")
    results = [_result(exhibit, job) for exhibit, job in zip(exhibits, ended, strict=True)]
    n_webhooks = len({delivery.job["id"] for delivery in receiver.received})
    summary = {
        "seed": seed,
        "jobs": len(results),
        "succeeded": sum(result.status == "succeeded" for result in results),
        "right": sum(result.right for result in results),
        "webhooks": n_webhooks,
        "seconds": round(time.monotonic() - began, 1),
        "folder": str(folder),
    }
    return results, summary


def _result(exhibit: Exhibit, job: Job) -> Result:
    output = job["output"] or {}
    text = output.get("text") or (job["error"] or {}).get("message", "")
    engine = output.get("engine", {})
    return Result(
        file=str(exhibit.path),
        sent_by=exhibit.by,
        truth=exhibit.truth,
        description=text,
        right=text == exhibit.truth,
        ms=round((job["finished_at"] - job["created_at"]) * 1000),
        status=job["status"],
        engine=f"{engine.get('name')} {engine.get('version')}",
    )


def show(results: list[Result], summary: dict[str, Any], console: Console) -> None:
    """Print the table and the counts."""
    table = Table(title=f"{results[0].engine}, demo model, seed {summary['seed']}", show_lines=True)
    for name, options in {
        "file": {"overflow": "fold"},
        "sent by": {},
        "truth": {"overflow": "fold"},
        "description": {"overflow": "fold"},
        "": {},
        "ms": {"justify": "right"},
    }.items():
        table.add_column(name, **options)  # type: ignore[arg-type]  # rich types each option apart
    for result in results:
        mark = "[green]✓[/]" if result.right else "[red]✗[/]"
        table.add_row(Path(result.file).name, result.sent_by, result.truth, escape(result.description), mark, str(result.ms))
    console.print(table)
    console.print(
        f"{summary['succeeded']} of {summary['jobs']} jobs succeeded, {summary['right']} descriptions right word for word, "
        f"{summary['webhooks']} signed webhooks received, {summary['seconds']} s in all",
        highlight=False,
    )
