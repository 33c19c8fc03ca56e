"""Pulling weights, against a hub that speaks both hubs' protocols on the loopback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from rich.console import Console

from shared.weights import find, folder, note
from sightline.hubs import Listing
from sightline.models import PullError, Source, pull

NAME = "Qwen/Qwen2.5-VL-3B-Instruct"
COMMIT = "66285546d2b821cf421d4f5eb2576359d3770cd3"
BOTH = pytest.mark.parametrize("source", ["modelscope", "huggingface"])


class Hub:
    """A repository of three files, served as modelscope.cn and as huggingface.co would.

    Attributes:
        files: content by path.
        claimed: sizes that the listing tells instead of the true ones.
        cut_at: a weights request is broken off at this byte of the file, once per entry.
        chunk_delay_s: waited before every 64 KiB, to make a fetch last.
        ranges: path and ``Range`` header of every file request.
    """

    def __init__(self) -> None:
        self.files = {
            "config.json": b'{"model_type": "qwen2_5_vl"}',
            "tokenizer/merges.txt": b"a b\n" * 1000,
            "model.safetensors": random.Random(7).randbytes(3 * 2**20),
        }
        self.claimed: dict[str, int] = {}
        self.cut_at: list[int] = []
        self.chunk_delay_s = 0.0
        self.ranges: list[tuple[str, str | None]] = []
        self.status: int | None = None
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def weights_ranges(self) -> list[str | None]:
        return [header for path, header in self.ranges if path == "model.safetensors"]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        model = f"/api/v1/models/{NAME}"
        if self.served.status:
            self._json({"Code": self.served.status, "Message": "no"}, self.served.status)
        elif url.path == f"{model}/repo/files" and query["Revision"] in {"master", "v1"}:
            self._json({"Code": 200, "Success": True, "Data": {"Files": self._tree("Path", "Size", "Type", "Sha256")}})
        elif url.path == f"{model}/repo":
            self._file(query["FilePath"])
        elif url.path in {f"/api/models/{NAME}", f"/api/models/{NAME}/revision/v1", f"/api/models/{NAME}/revision/{COMMIT}"}:
            siblings = [{"rfilename": path, "size": size} for path, size in self._sizes().items()]
            self._json({"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": siblings})
        elif url.path == f"/api/models/{NAME}/tree/{COMMIT}":
            self._json([{**entry, "type": "file"} for entry in self._tree("path", "size", "kind", "oid")])
        elif url.path.startswith(f"/{NAME}/resolve/{COMMIT}/"):
            self._file(url.path.partition(f"/resolve/{COMMIT}/")[2])
        else:
            error = "RevisionNotFound" if NAME in url.path else "RepoNotFound"
            self._json({"Code": 10010205001, "Message": "record not found"}, 404, {"X-Error-Code": error})

    def _sizes(self) -> dict[str, int]:
        return {path: len(content) for path, content in self.served.files.items()} | self.served.claimed

    def _tree(self, path: str, size: str, kind: str, digest: str) -> list[dict[str, Any]]:
        contents = self.served.files
        return [
            {path: file, size: count, kind: "blob", digest: hashlib.sha256(contents[file]).hexdigest()}
            for file, count in self._sizes().items()
        ]

    def _json(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self._head(status, {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})})
        if self.command == "GET":
            self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _file(self, path: str) -> None:
        content, wanted = self.served.files[path], self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        etag = hashlib.sha256(content).hexdigest()
        headers = {"Content-Length": str(len(content) - start), "ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if wanted else 200, headers)
        if self.command == "HEAD":
            return
        self.served.ranges.append((path, wanted))
        weights = path == "model.safetensors"
        end = self.served.cut_at.pop(0) if weights and self.served.cut_at else len(content)
        while start < end:
            if weights:
                time.sleep(self.served.chunk_delay_s)
            stop = min(end, start + 2**16)
            try:
                self.wfile.write(content[start:stop])
            except OSError:  # the client is gone
                break
            start = stop
        self.close_connection = end < len(content)


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub()
    yield served
    served.close()


@pytest.fixture(autouse=True)
def own_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODELSCOPE_CACHE", "MODELSCOPE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


def assert_whole(path: Path, hub: Hub) -> None:
    for file, content in hub.files.items():
        assert (path / file).read_bytes() == content
    assert not list(path.rglob("*.incomplete"))


@BOTH
def test_pull_brings_the_files_and_says_what_they_are(source: Source, hub: Hub, tmp_path: Path) -> None:
    out = io.StringIO()

    path = pull(NAME, source=source, models_dir=tmp_path, endpoint=hub.endpoint, console=Console(file=out, width=200))

    assert path == tmp_path / "Qwen__Qwen2.5-VL-3B-Instruct" == find(NAME, tmp_path)
    assert_whole(path, hub)
    revision = COMMIT if source == "huggingface" else "master"
    assert note(path) == {"name": NAME, "source": source, "revision": revision, "complete": True}
    assert "100%" in out.getvalue() or "3.1/3.1 MB" in out.getvalue()


@BOTH
def test_a_second_pull_fetches_no_file_again(source: Source, hub: Hub, tmp_path: Path) -> None:
    pull(NAME, source=source, revision="v1", models_dir=tmp_path, endpoint=hub.endpoint)
    asked = len(hub.ranges)

    pull(NAME, source=source, revision="v1", models_dir=tmp_path, endpoint=hub.endpoint)

    assert len(hub.ranges) == asked == len(hub.files)


@BOTH
def test_weights_that_are_here_need_no_network(source: Source, hub: Hub, tmp_path: Path) -> None:
    path = pull(NAME, source=source, models_dir=tmp_path, endpoint=hub.endpoint)
    hub.status = 403

    assert pull(NAME, source=source, models_dir=tmp_path, endpoint=hub.endpoint) == path
    assert find(NAME, tmp_path) == path


def test_a_broken_connection_is_taken_up_in_the_middle_of_the_file(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at = [2**20]

    path = pull(NAME, models_dir=tmp_path, endpoint=hub.endpoint)

    assert_whole(path, hub)
    assert hub.weights_ranges() == [None, f"bytes={2**20}-"]


@BOTH
def test_a_killed_pull_is_taken_up_by_the_next_one(source: Source, hub: Hub, tmp_path: Path) -> None:
    hub.chunk_delay_s = 0.1  # 5 s for the weights
    script = "import sys; from sightline.models import *; pull(sys.argv[1], source=sys.argv[2], models_dir=Path(sys.argv[3]))"
    env = {**os.environ, "MODELSCOPE_ENDPOINT": hub.endpoint, "HF_ENDPOINT": hub.endpoint}
    child = subprocess.Popen([sys.executable, "-c", script, NAME, source, str(tmp_path)], env=env)
    try:
        path = folder(NAME, tmp_path)
        started = hub.weights_ranges if source == "huggingface" else partial(bytes_unfinished, path)  # writes 10 MB at once
        wait_for(lambda: (path / "config.json").exists() and started())
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert find(NAME, tmp_path) is None
    assert note(path)["complete"] is False

    hub.chunk_delay_s = 0.0
    pull(NAME, source=source, models_dir=tmp_path, endpoint=hub.endpoint)

    assert_whole(path, hub)
    assert find(NAME, tmp_path) == path
    first, second = hub.weights_ranges()
    assert first is None
    if source == "modelscope":  # goes on inside the file; huggingface_hub starts an unfinished file anew
        assert second is not None
        assert int(second.removeprefix("bytes=").removesuffix("-")) > 0
    assert [path for path, _ in hub.ranges].count("config.json") == 1


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def bytes_unfinished(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*.incomplete"))


@BOTH
def test_an_unknown_name_is_told_and_leaves_no_folder(source: Source, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(PullError, match=r"has no model Qwen/Qwen9.*Check the spelling"):
        pull("Qwen/Qwen9", source=source, models_dir=tmp_path, endpoint=hub.endpoint)

    assert not folder("Qwen/Qwen9", tmp_path).exists()


@BOTH
def test_an_unknown_revision_is_told(source: Source, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(PullError, match="at revision v9"):
        pull(NAME, source=source, revision="v9", models_dir=tmp_path, endpoint=hub.endpoint)


@BOTH
def test_a_closed_model_names_the_token(source: Source, hub: Hub, tmp_path: Path) -> None:
    hub.status = 403

    with pytest.raises(PullError, match=r"set (MODELSCOPE_API_TOKEN|HF_TOKEN)"):
        pull(NAME, source=source, models_dir=tmp_path, endpoint=hub.endpoint)


@BOTH
def test_no_network_is_told(source: Source, tmp_path: Path) -> None:
    with pytest.raises(PullError, match=r"cannot be reached. Check the network"):
        pull(NAME, source=source, models_dir=tmp_path, endpoint="http://127.0.0.1:9")


@BOTH
def test_a_small_disk_is_told_before_anything_is_fetched(source: Source, hub: Hub, tmp_path: Path) -> None:
    hub.claimed = {"model.safetensors": 10**15}

    with pytest.raises(PullError, match=r"1\.0 PB are to be fetched.* only [\d.]+ .B are\..*SIGHTLINE_MODELS_DIR"):
        pull(NAME, source=source, models_dir=tmp_path, endpoint=hub.endpoint)

    assert hub.ranges == []


def test_a_file_that_stays_short_is_not_called_complete(hub: Hub, tmp_path: Path) -> None:
    hub.claimed = {"model.safetensors": 4 * 2**20}

    with pytest.raises(PullError, match="Run the same command again"):
        pull(NAME, source="huggingface", models_dir=tmp_path, endpoint=hub.endpoint)

    assert find(NAME, tmp_path) is None


@pytest.mark.parametrize("name", ["demo", "a/b/c", "../x", "/x", "x/", "..//"])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(PullError, match="is no name on a hub"):
        pull(name, models_dir=tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")

    with pytest.raises(PullError, match="Cannot write the weights"):
        pull(NAME, models_dir=tmp_path / "models", endpoint=hub.endpoint)


def test_two_pulls_of_one_model_take_turns(hub: Hub, tmp_path: Path) -> None:
    hub.chunk_delay_s = 0.01
    out = [io.StringIO(), io.StringIO()]
    threads = [
        threading.Thread(
            target=pull,
            args=(NAME,),
            kwargs={"models_dir": tmp_path, "endpoint": hub.endpoint, "console": Console(file=file)},
        )
        for file in out
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(hub.weights_ranges()) == 1
    assert sum("waiting for it" in file.getvalue() for file in out) == 1


def test_find_takes_folders_and_names(tmp_path: Path) -> None:
    own = tmp_path / "mine"
    own.mkdir()
    assert find(str(own), tmp_path) is None  # holds no checkpoint

    (own / "config.json").write_text("{}")

    assert find(str(own), tmp_path) == own
    assert find("mine", tmp_path) == own
    assert find("other/model", tmp_path) is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "modelscope.hub.api", None)

    with pytest.raises(PullError, match="pip install modelscope"):
        pull(NAME, models_dir=tmp_path)


def test_held_bytes_count_what_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(b"12345")
    (tmp_path / "short").write_bytes(b"1")
    (tmp_path / "part.incomplete").write_bytes(b"12")
    listing = Listing("main", {"whole": 5, "short": 5, "part": 5, "absent": 5})

    assert listing.held_bytes(tmp_path) == 7
    assert listing.missing(tmp_path) == ["short", "part", "absent"]


def test_a_shell_that_forbids_the_hub_is_named(hub: Hub, tmp_path: Path) -> None:
    env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "1", "SIGHTLINE_MODELS_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "sightline.cli", "models", "pull", NAME, "--from", "huggingface"]

    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "HF_HUB_OFFLINE is set" in " ".join(done.stderr.split())
