"""The error tree is what its drawing says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from shared import errors
from shared.errors import JobFailed, SightlineError


@dataclass(frozen=True)
class Drawn:
    """One line of the drawing: ``│   ├── EmptyPrompt           400 empty_prompt``; a job's own end shows no status."""

    name: str
    parent: str | None
    words: list[str]


def drawn() -> Iterator[Drawn]:
    path: list[str] = []
    for line in (errors.__doc__ or "").partition("::\n\n")[2].splitlines():
        if found := re.match(r"^([│├└─ ]*)([A-Z]\w+)(.*)$", line.removeprefix("    ")):
            indent, name, words = found.groups()
            depth = len(indent) // 4
            path[depth:] = [name]
            yield Drawn(name, path[depth - 1] if depth else None, words.split())


def classes() -> dict[str, type[SightlineError]]:
    members = inspect.getmembers(errors, lambda member: isinstance(member, type) and issubclass(member, SightlineError))
    return dict(members)


def test_the_drawing_shows_every_class_and_no_other() -> None:
    assert sorted(line.name for line in drawn()) == sorted(classes())


@pytest.mark.parametrize("line", list(drawn()), ids=lambda line: line.name)
def test_each_class_is_as_drawn(line: Drawn) -> None:
    error = classes()[line.name]

    assert error.__mro__[1].__name__ == (line.parent or "Exception")
    if error is JobFailed:
        assert line.words[:4] == ["a", "job's", "own", "end,"]
        return
    status = [] if issubclass(error, JobFailed) else [str(error.status)]
    assert line.words == [*status, error.code, *(["retryable"] if error.retryable else [])]


@pytest.mark.parametrize("error", classes().values(), ids=lambda error: error.__name__)
def test_each_class_tells_a_client_what_to_do(error: type[SightlineError]) -> None:
    said = error().as_error()

    assert set(said) == {"message", "type", "param", "code"}
    assert said["message"] == error.__doc__
    assert said["message"].endswith(".")
    assert "\n" not in said["message"]
    assert 400 <= error.status <= 599
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)


def test_codes_are_not_shared() -> None:
    codes = [error.code for error in classes().values()]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.EmptyPrompt(), "invalid_request_error"),
        (errors.QueueFull(), "rate_limit_error"),
        (errors.StoreUnavailable(), "server_error"),
        (SightlineError(), "server_error"),
    ],
)
def test_the_type_is_one_of_openais(error: SightlineError, kind: str) -> None:
    assert error.kind == kind


def test_a_better_message_wins() -> None:
    error = errors.TooManyItems("six pictures", param="images", retry_after_s=3)

    assert (str(error), error.param, error.retry_after_s) == ("six pictures", "images", 3)
