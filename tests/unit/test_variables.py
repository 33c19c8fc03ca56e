"""Variables that are wrong, and those that are none, in words for people."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shared.settings import ROOT, Settings, load_settings
from shared.variables import SettingsInvalid, absolute_paths, read_settings, settings_of, takes, unknown_variables


@pytest.fixture(autouse=True)
def _read_anew() -> None:
    load_settings.cache_clear()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "eighty", "SIGHTLINE_PORT cannot be 'eighty': it takes a whole number of at least 1 and of at most 65535"),
        ("PORT", "99999", "SIGHTLINE_PORT cannot be '99999'"),
        ("LEASE_S", "0", "SIGHTLINE_LEASE_S cannot be '0': it takes a number above 0"),
        ("DRAIN_S", "-1", "SIGHTLINE_DRAIN_S cannot be '-1': it takes a number of at least 0"),
        ("FETCH_TIMEOUT_S", "nan", "SIGHTLINE_FETCH_TIMEOUT_S cannot be 'nan': it takes a number of at least 0"),
        ("ENGINE_FRONTS", "0", "SIGHTLINE_ENGINE_FRONTS cannot be '0': it takes a whole number of at least 1"),
        ("CHAT_RESERVE", "1", "SIGHTLINE_CHAT_RESERVE cannot be '1': it takes a number of at least 0 and below 1"),
        ("KV_CACHE_DTYPE", "fp4", "SIGHTLINE_KV_CACHE_DTYPE cannot be 'fp4': it takes auto or fp8"),
        ("REQUIRE_KEYS", "perhaps", "SIGHTLINE_REQUIRE_KEYS cannot be 'perhaps': it takes true or false"),
        ("ALLOW_NETWORKS", "10.0.0.1/8", "it takes networks such as 10.0.0.0/8, with commas between them"),
        (
            "WEBHOOK_SCHEDULE_S",
            "1,x",
            "SIGHTLINE_WEBHOOK_SCHEDULE_S cannot be '1,x': it takes numbers with commas between them",
        ),
        ("WEBHOOK_SCHEDULE_S", "1,-2", "SIGHTLINE_WEBHOOK_SCHEDULE_S cannot be '1,-2'"),
        ("ENGINE", "vlm", "SIGHTLINE_ENGINE cannot be 'vlm': it takes auto, vllm, transformers or module:Class"),
        ("DTYPE", "int4", "SIGHTLINE_DTYPE cannot be 'int4': it takes auto, float32, float16, bfloat16"),
        *(
            ("REDIS_PREFIX", value, "it takes a prefix with one hash tag, such as {sightline}:")
            for value in ("", "sightline:", "{}:", "{a", "{a}{b}:", "{a{b}}:", "{a}:*", "{a} ~", "{视}:")
        ),
        ("PORT", "8\n9", r"SIGHTLINE_PORT cannot be '8\n9'"),
        ("PORT", "8" * 1000, "8…'"),
    ],
)
def test_a_wrong_value_is_one_line(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SIGHTLINE_{name}", value)

    settings, (line,) = read_settings()

    assert said in line
    assert "\n" not in line
    assert getattr(settings, name.lower()) == Settings.model_fields[name.lower()].get_default(call_default_factory=True)
    with pytest.raises(SettingsInvalid, match="cannot be"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "my-secret"),
        ("REDIS_URL", "redis://u:p@my-secret@h:port/0"),
        ("REDIS_URL", "http://:my-secret@h:1/0"),
        ("WEBHOOK_SECRET", "whsec_my-secret"),
    ],
)
def test_a_secret_is_not_shown(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SIGHTLINE_{name}", value)

    _, (line,) = read_settings()

    assert line.startswith(f"SIGHTLINE_{name} cannot be this: it takes ")
    assert "my-secret" not in line


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_PORT", "x")
    monkeypatch.setenv("sightline_lease_s", "x")

    assert len(read_settings()[1]) == 2


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_says_what_it_takes(name: str) -> None:
    assert takes(name)[0].isalpha()


def test_a_name_that_is_none_is_told_with_the_nearest() -> None:
    given = {
        "SIGHTLINE_MODLE": "x",
        "sightline_prot": "1",
        "SIGHTLINE_ZZZ": "1",
        "SIGHTLINE_PORT": "1",
        "SIGHTLINE_API_KEY": "x",
    }

    assert unknown_variables(given) == [
        "SIGHTLINE_MODLE is no setting and does nothing; is SIGHTLINE_MODEL meant?",
        "SIGHTLINE_ZZZ is no setting and does nothing",
        "sightline_prot is no setting and does nothing; is SIGHTLINE_PORT meant?",
    ]


def test_a_process_in_another_folder_gets_absolute_paths(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    given = {"SIGHTLINE_MODEL": "weights", "SIGHTLINE_BLOBS_URL": "b", "SIGHTLINE_MODELS_DIR": "m", "OTHER": "o"}

    assert absolute_paths(given) == {
        "SIGHTLINE_MODEL": str(tmp_path / "weights"),
        "SIGHTLINE_BLOBS_URL": str(tmp_path / "b"),
        "SIGHTLINE_MODELS_DIR": str(tmp_path / "m"),
        "OTHER": "o",
    }
    kept = {"SIGHTLINE_MODEL": "Qwen/Qwen2.5-VL-3B-Instruct", "SIGHTLINE_BLOBS_URL": "s3://bucket/prefix"}
    assert absolute_paths(kept) == kept


def test_the_settings_of_another_process() -> None:
    settings = settings_of({"SIGHTLINE_HOST": "::", "SIGHTLINE_PORT": "81", "SIGHTLINE_API_KEY": "x", "PATH": "/"})

    assert (settings.own_url, settings.keys_required) == ("http://[::1]:81", True)


COMMANDS = {
    "gateway": ["api.main"],
    "worker": ["worker.main", "jobs"],
    "sender": ["worker.main", "webhooks"],
    "alive": ["sightline.healthcheck"],
    **{
        name: ["sightline.cli", *words.split()]
        for name, words in {
            "up": "up",
            "pool": "worker",
            "describe": "describe x.png",
            "keys": "keys list",
            "pull": "models pull a/b",
        }.items()
    },
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_says_it_and_ends(command: list[str]) -> None:
    environment = os.environ | {"SIGHTLINE_PORT": "eighty", "SIGHTLINE_MODLE": "x"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "SIGHTLINE_PORT cannot be 'eighty': it takes a whole number" in said
    assert "Traceback" not in said
    assert "validation" not in said
    assert len(said.splitlines()) <= 2
