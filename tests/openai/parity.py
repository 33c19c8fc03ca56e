"""vLLM's own OpenAI server and ours, side by side: the same checkpoint, the same questions, the same answers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from demo.scenes import scene
from shared.settings import ROOT
from sightline.stack import free_port
from tests.media import data_url, encode, picture
from tests.openai.parts import Figures, rigged

SEED = 882_000
CHAT = "/v1/chat/completions"
PROMPTS = ("Describe this image.", "请用中文描述一下这张图片")
LIMIT_IMAGES = 5  #: of both
#: As `sightline up` starts the demo model, in vLLM's words.
SERVE = {
    "--served-model-name": "qwen-vl",
    "--dtype": "float32",
    "--max-model-len": "1024",
    "--max-num-seqs": "32",
    "--max-num-batched-tokens": "2048",
    "--limit-mm-per-prompt": f'{{"image": {LIMIT_IMAGES}, "video": 1}}',
    "--generation-config": "vllm",
    "--structured-outputs-config": '{"backend": "xgrammar", "disable_any_whitespace": true}',
    "--mm-processor-cache-gb": "0",
}
THREADS = {
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


async def parity(folder: Path, *, n: int = 100) -> Figures:
    """Ask both ``n`` good and all bad requests; gives what differed."""
    good = [_good(i) for i in range(n)]
    own = {"SIGHTLINE_ENGINE": "vllm", "SIGHTLINE_MODEL": "demo", "SIGHTLINE_LIMIT_IMAGES": str(LIMIT_IMAGES)}
    async with rigged(folder, **own, SIGHTLINE_ALLOW_NETWORKS="127.0.0.0/8") as rig:
        ours = await _ask_all(rig.stack.url, good), await _ask_bad(rig.stack.url)
    async with _vllm(folder) as url:
        theirs = await _ask_all(url, good), await _ask_bad(url)
    differing = [
        {"request": i, "ours": mine, "vllm": other}
        for i, (mine, other) in enumerate(zip(ours[0], theirs[0], strict=True))
        if not _alike(mine, other)
    ]
    statuses = {name: (ours[1][name], theirs[1][name]) for name in BAD}
    unlike = {name: both for name, both in statuses.items() if both[0][0] != both[1][0]}
    return {
        "asked": n,
        "same_text_and_usage": n - len(differing),
        "same_text": sum(mine["text"] == other["text"] for mine, other in zip(ours[0], theirs[0], strict=True)),
        "same_usage": sum(mine["usage"] == other["usage"] for mine, other in zip(ours[0], theirs[0], strict=True)),
        "right_captions": sum(
            mine["text"] == scene(SEED + i).caption("en" if i % 2 == 0 else "zh") for i, mine in enumerate(ours[0])
        ),
        "differing": differing,
        "bad_asked": len(BAD),
        "bad_same_status": len(BAD) - len(unlike),
        "bad_unlike": unlike,
        "bad_alike": {name: both for name, both in statuses.items() if name not in unlike},
        "ok": not differing and set(unlike) <= set(KNOWN),
    }


NEARLY = 0.05  #: logarithms of a probability
#: What the model cards and vLLM have beside OpenAI's; most of it changes the text, whatever the temperature.
SAMPLING: tuple[dict[str, Any], ...] = (
    {},
    {"presence_penalty": 1.5},
    {"frequency_penalty": -0.7},
    {"top_k": 20, "min_p": 0.05},
    {"stop_token_ids": [13, 400]},
    {"structured_outputs": {"choice": ["a red circle", "一个红色的圆形", "nothing"]}},
    {"structured_outputs": {"regex": "[a-z ]{4,12}"}},
    {"temperature": 0.8, "top_p": 0.9},
)


def _good(i: int) -> dict[str, Any]:
    """Make a request: pictures of several sizes and kinds, both languages, and the parameters that people use."""
    image = scene(SEED + i).picture
    if i % 5 == 1:
        image = image.resize((image.width * 3, image.height * 3))
    if i % 5 == 2:
        image = image.resize((image.width // 3, image.height // 3))
    data = encode(image, "JPEG", quality=95) if i % 4 == 3 else encode(image)
    content = [
        {"type": "image_url", "image_url": {"url": data_url(data, "image/jpeg" if i % 4 == 3 else "image/png")}},
        {"type": "text", "text": PROMPTS[i % 2]},
    ]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if i % 7 == 3:
        messages.insert(0, {"role": "system", "content": "You are a helpful assistant."})
    if i % 11 == 5:
        content.insert(0, {"type": "image_url", "image_url": {"url": data_url(encode(scene(SEED + 500 + i).picture))}})
    extra: dict[str, Any] = {"max_tokens": 5} if i % 13 == 7 else {"max_completion_tokens": 64}
    if i % 13 == 9:
        extra["stop"] = [" a ", "色"]
    return {
        "model": "qwen-vl",
        "messages": messages,
        "temperature": 0,
        "top_p": 1,
        "repetition_penalty": (1.0, 1.05)[i // 2 % 2],
        "seed": i,
        "stream": i % 6 == 4,
        **({"stream_options": {"include_usage": True}} if i % 6 == 4 else {}),
        **extra,
        **SAMPLING[i % len(SAMPLING)],
        # Not beside a form: the libraries that hold a text to it differ, and with them the tokens that have a chance at all.
        **({"logprobs": True, "top_logprobs": 2} if i % 6 == 1 and i % 8 != 5 else {}),
    }


def _with(**given: Any) -> dict[str, Any]:
    return {"model": "qwen-vl", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4, "temperature": 0} | given


def _named(url: str, kind: str = "image_url", n: int = 1) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": kind, kind: {"url": url}}] * n
    return _with(messages=[{"role": "user", "content": [*content, {"type": "text", "text": "Describe this image."}]}])


def _format(**given: Any) -> dict[str, Any]:
    return _with(response_format=given)


#: Bad requests: a body, or the bytes of one. vLLM 0.32.0 answers 404 to the unknown model and 400 to all others, but KNOWN.
BAD: dict[str, dict[str, Any] | bytes] = {
    "no JSON": b"{",
    "unknown model": _with(model="gpt-4o"),
    "no messages": {"model": "qwen-vl"},
    "empty messages": _with(messages=[]),
    "content is a number": _with(messages=[{"role": "user", "content": 5}]),
    "unknown kind of part": _with(messages=[{"role": "user", "content": [{"type": "smell", "smell": "x"}]}]),
    "temperature below 0": _with(temperature=-1),
    "top_p above 1": _with(top_p=1.5),
    "top_p of 0": _with(top_p=0),
    "repetition_penalty of 0": _with(repetition_penalty=0),
    "max_tokens of 0": _with(max_tokens=0),
    "max_tokens beyond the context": _with(max_tokens=20_000),
    "prompt beyond the context": _with(messages=[{"role": "user", "content": "word " * 3000}]),
    "seed is a word": _with(seed="x"),
    "n of 0": _with(n=0),
    "a token to stop at that there is none of": _with(stop_token_ids=[1773]),
    "n is a word": _with(n="x"),
    "n of 2 at temperature 0": _with(n=2),
    "top_logprobs without logprobs": _with(top_logprobs=2),
    "top_logprobs below 0": _with(logprobs=True, top_logprobs=-2),
    "tool_choice without tools": _with(tool_choice="required"),
    "tool_choice of no tool": _with(
        tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        tool_choice={"type": "function", "function": {"name": "g"}},
    ),
    "stream_options without stream": _with(stream_options={"include_usage": True}),
    "no base64": _named("data:image/png;base64,!!!"),
    "no picture": _named(data_url(b"hello world, this is text")),
    "half a picture": _named(data_url(picture()[:100])),
    "a local file": _named("file:///etc/passwd"),
    "an address that refuses": _named("http://127.0.0.1:9/a.png"),
    "six pictures": _named(data_url(picture()), n=LIMIT_IMAGES + 1),
    "json_schema without a schema": _format(type="json_schema"),
    "no JSON schema": _format(type="json_schema", json_schema={"name": "x", "schema": {"type": "no such type"}}),
    "unknown response_format": _format(type="xml"),
}
#: Where the status differs, and what vLLM 0.32.0 answers there: these are its own faults, and ours is a 400.
KNOWN = {"a local file": 500, "an address that refuses": "no answer"}


async def _ask_all(url: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    at_a_time = asyncio.Semaphore(8)
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:

        async def ask(body: dict[str, Any]) -> dict[str, Any]:
            async with at_a_time:
                return _told(await client.post(CHAT, json=body))

        return await asyncio.gather(*map(ask, bodies))


def _told(answer: httpx.Response) -> dict[str, Any]:
    """Give what a client reads: text, why it ended, counts; joined where it was a stream."""
    if not answer.is_success:
        return {"text": None, "reason": answer.text[:300], "usage": None}
    if answer.headers["content-type"].startswith("text/event-stream"):
        rows = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
        chunks = [json.loads(row) for row in rows]
        if "error" in chunks[-1]:
            return {"text": None, "reason": chunks[-1]["error"], "usage": None}
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        return {"text": text, "reason": choices[-1]["finish_reason"], "usage": _counts(chunks[-1]["usage"])}
    body = answer.json()
    choice = body["choices"][0]
    told = {"text": choice["message"]["content"], "reason": choice["finish_reason"], "usage": _counts(body["usage"])}
    return told | {"logprobs": [_likely(token) for token in (choice["logprobs"] or {}).get("content", ())]}


def _likely(token: dict[str, Any]) -> list[Any]:
    """Give a token and the likeliest ones."""
    return [[one["token"], one["logprob"]] for one in (token, *token["top_logprobs"])]


def _alike(mine: dict[str, Any], other: dict[str, Any]) -> bool:
    """Compare two answers; probabilities to some hundredths, since two batches do not sum in the same order."""
    ours, theirs = mine.get("logprobs", []), other.get("logprobs", [])
    pairs = [pair for places in zip(ours, theirs, strict=False) for pair in zip(*places, strict=False)]
    close = all(one[0] == two[0] and abs(one[1] - two[1]) < NEARLY for one, two in pairs)
    return mine | {"logprobs": theirs} == other | {"logprobs": theirs} and len(ours) == len(theirs) and close


def _counts(usage: dict[str, Any]) -> list[int]:
    return [usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")]


async def _ask_bad(url: str) -> dict[str, list[Any]]:
    """Give status, type, code and param of each answer."""
    told = dict[str, list[Any]]()
    async with httpx.AsyncClient(base_url=url, timeout=300, headers={"content-type": "application/json"}) as client:
        for name, body in BAD.items():
            try:
                answer = await client.post(CHAT, content=body if isinstance(body, bytes) else json.dumps(body))
                error = answer.json().get("error") or {}
                told[name] = [answer.status_code, *(error.get(key) for key in ("type", "code", "param"))]
            except ValueError:
                told[name] = [answer.status_code, "no JSON"]
            except httpx.TransportError:
                told[name] = ["no answer"]
    return told


@asynccontextmanager
async def _vllm(folder: Path) -> AsyncIterator[str]:
    """Run vLLM's own server with the demo model."""
    port = free_port()
    flags = [part for pair in SERVE.items() for part in pair]
    # Not `vllm serve`: that command asks for a package named vllm, and this one is vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "demo/model", *flags]
    with (folder / "vllm.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: ASYNC220
            [*command, "--enforce-eager", "--no-enable-prefix-caching", "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, **THREADS},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(600), httpx.AsyncClient(base_url=url) as client:
            while not await _is_up(client):
                if process.poll() is not None:
                    msg = f"vLLM's server did not start; see {folder / 'vllm.log'}"
                    raise RuntimeError(msg)
                await asyncio.sleep(1)
        yield url
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def _is_up(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).is_success
    except httpx.TransportError:
        return False
