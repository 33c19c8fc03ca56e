"""Every setting can be given, and tells why it is what it is."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from shared import settings as module
from shared.settings import ROOT, Settings, load_settings

SOURCE = Path(module.__file__).read_text()
#: A value other than the default, as a shell would give it, and what it becomes.
OTHERS: dict[str, tuple[str, object]] = {
    "redis_url": ("redis://elsewhere:1/2", "redis://elsewhere:1/2"),
    "redis_tls_ca": (__file__, Path(__file__)),
    "redis_tls_cert": (__file__, Path(__file__)),
    "redis_tls_key": (__file__, Path(__file__)),
    "redis_tls_insecure": ("true", True),
    "redis_prefix": ("staging:{other}:", "staging:{other}:"),
    "redis_durability": ("replica", "replica"),
    "blobs_url": ("s3://bucket/prefix", "s3://bucket/prefix"),
    "host": ("0.0.0.0", "0.0.0.0"),
    "metrics_host": ("0.0.0.0", "0.0.0.0"),
    "log_json": ("true", True),
    "engine": ("vllm", "vllm"),
    "model": ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"),
    "served_model_name": ("qwen", "qwen"),
    "state_dir": ("/state", Path("/state")),
    "models_dir": ("/models", Path("/models")),
    "claim_gpus": ("false", False),
    "gpu_locks_dir": ("/data/gpus", Path("/data/gpus")),
    "dtype": ("bfloat16", "bfloat16"),
    "quantization": ("awq", "awq"),
    "kv_cache_dtype": ("fp8", "fp8"),
    "attn_implementation": ("sdpa", "sdpa"),
    "gpu_memory_utilization": ("0.5", 0.5),
    "engine_fronts": ("2", 2),
    "enforce_eager": ("1", True),
    "kv_cache_gb": ("2.5", 2.5),
    "chat_reserve": ("0.5", 0.5),
    "allow_hosts": ("a.example, *.b.example", ("a.example", "*.b.example")),
    "deny_hosts": ("a.example", ("a.example",)),
    "trusted_hosts": ("gpu.example, b.example", ("gpu.example", "b.example")),
    "allow_origins": ("http://localhost:3000, *", ("http://localhost:3000", "*")),
    "root_path": ("vision/api/", "/vision/api"),
    "trusted_proxies": ("10.0.0.0/8, ::1", (ip_network("10.0.0.0/8"), ip_network("::1"))),
    "allow_networks": ("10.0.0.0/8, fd00::/8,", (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
    "page": ("read-only", "read-only"),
    "require_keys": ("true", True),
    "webhook_secret": ("whsec_AAAA", SecretStr("whsec_AAAA")),
    "webhook_schedule_s": ("1, 2.5", (1.0, 2.5)),
}


def other_value(name: str) -> tuple[str, object]:
    if name in OTHERS:
        return OTHERS[name]
    default = getattr(Settings(), name)
    return str(default + 1), default + 1


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_default_can_be_overridden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = other_value(name)
    assert getattr(Settings(), name) != value

    if name.startswith("redis_tls_"):
        monkeypatch.setenv("SIGHTLINE_REDIS_URL", "rediss://elsewhere")
    monkeypatch.setenv(f"SIGHTLINE_{name.upper()}", text)

    assert getattr(Settings(), name) == value


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_says_why(name: str) -> None:
    lines = SOURCE.splitlines()
    (at,) = [n for n, line in enumerate(lines) if re.match(rf"    {name}: ", line)]

    assert re.search(r"#: \S+", lines[at]) or re.match(r"    #: \S+", lines[at - 1])


@pytest.mark.parametrize(
    ("given", "networks"),
    [
        ("", []),
        (" , ", []),
        ("127.0.0.0/8", ["127.0.0.0/8"]),
        ("10.0.0.0/8,192.168.1.7", ["10.0.0.0/8", "192.168.1.7/32"]),
        ("::1", ["::1/128"]),
    ],
)
def test_networks_are_given_with_commas(given: str, networks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_ALLOW_NETWORKS", given)

    assert [str(network) for network in Settings().allow_networks] == networks


@pytest.mark.parametrize("given", ["10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0.0/8;11.0.0.0/8"])
def test_networks_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"allow_networks": given})


@pytest.mark.parametrize(
    "given",
    [
        {"max_num_seqs": 0},
        {"max_attempts": 0},
        {"max_frames": 1},
        {"gpu_memory_utilization": 0},
        {"gpu_memory_utilization": 1.1},
        {"max_model_len": 1},
        {"port": "eighty"},
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(given)


def test_settings_never_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_the_defaults_are_those_people_come_from() -> None:
    settings = Settings()

    assert (settings.min_pixels, settings.max_pixels) == (200_704, 1_003_520)
    assert (settings.limit_images, settings.limit_videos, settings.port) == (64, 1, 8000)
    assert settings.webhook_secret is None
    assert settings.allow_networks == ()


def test_a_secret_does_not_show() -> None:
    assert "hush" not in repr(Settings.model_validate({"webhook_secret": "whsec_hush"}))


@pytest.mark.parametrize(
    ("slots", "bulk_slots", "bulk_in_flight"), [(1, 1, 3), (7, 7, 9), (8, 7, 8), (32, 28, 32), (256, 224, 256)]
)
def test_batches_leave_room_for_chats(slots: int, bulk_slots: int, bulk_in_flight: int) -> None:
    settings = Settings.model_validate({"max_num_seqs": slots})
    assert (settings.bulk_slots, settings.bulk_in_flight) == (bulk_slots, bulk_in_flight)


@pytest.mark.parametrize(("slots", "in_flight"), [(1, 3), (8, 10), (128, 160), (256, 320)])
def test_a_worker_holds_a_quarter_more_than_the_slots(slots: int, in_flight: int) -> None:
    assert Settings.model_validate({"max_num_seqs": slots}).in_flight == in_flight


def test_a_model_is_the_bundled_one_a_folder_or_a_fetched_name(tmp_path: Path) -> None:
    def path(model: str) -> Path:
        return Settings.model_validate({"model": model, "models_dir": tmp_path / "models"}).model_path

    assert path("demo") == ROOT / "demo" / "model"
    assert path(str(tmp_path)) == tmp_path
    assert path("Qwen/Qwen2.5-VL-3B-Instruct") == tmp_path / "models" / "Qwen__Qwen2.5-VL-3B-Instruct"


def test_data_go_where_the_user_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")

    assert Settings().blobs_url == "/data/sightline/blobs"
    assert Settings().models_dir == Path("/data/sightline/models")


def test_settings_are_read_once() -> None:
    assert load_settings() is load_settings()
