"""vLLM's answers put together; tests/acceptance/test_openai.py has real ones, since vLLM takes ten seconds to import."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from shared.jobs import Choice
from worker.engines.vllm_choices import collect


class Logprob(NamedTuple):
    logprob: float
    rank: int
    decoded_token: str


def piece(index: int, text: str, ids: list[int], *, reason: str | None = None, places: Any = None) -> Any:
    return SimpleNamespace(index=index, text=text, token_ids=ids, logprobs=places, finish_reason=reason)


async def answers(*groups: list[Any]) -> AsyncIterator[Any]:
    for group in groups:
        yield SimpleNamespace(outputs=group)


async def test_pieces_of_several_texts_come_in_any_order() -> None:
    heard: list[str] = []

    texts = await collect(
        answers(
            [piece(1, "blue ", [7])],
            [piece(0, "red ", [5]), piece(1, "square", [8, 9], reason="length")],
            [piece(0, "circle", [6], reason="stop")],
        ),
        heard.append,
        None,
    )

    first, second = (text.choice() for text in texts)
    assert (first.text, first.finish_reason, texts[0].token_ids) == ("red circle", "stop", [5, 6])
    assert (second.text, second.finish_reason, texts[1].token_ids) == ("blue square", "length", [7, 8, 9])
    assert heard == ["red ", "circle"]
    assert first.logprobs == second.logprobs == []


async def test_the_drawn_token_is_named_where_it_was_not_among_the_likeliest() -> None:
    places = [
        {5: Logprob(-2.5, 3, "红"), 1: Logprob(-0.1, 1, "蓝"), 2: Logprob(-1.5, 2, "绿")},
        {6: Logprob(-0.2, 1, "色"), 3: Logprob(-1.9, 2, "的")},
    ]

    (text,) = await collect(answers([piece(0, "红色", [5, 6], places=places, reason="stop")]), None, 2)

    drawn = [(one.token, one.logprob, [likely.token for likely in one.top]) for one in text.choice().logprobs]
    assert drawn == [("红", -2.5, ["蓝", "绿"]), ("色", -0.2, ["色", "的"])]


async def test_a_token_that_a_form_forbids_has_a_number() -> None:
    places = [{5: Logprob(-0.0, 1, "1"), 6: Logprob(float("-inf"), 2, "x")}]

    (text,) = await collect(answers([piece(0, "1", [5], places=places)]), None, 2)

    assert Choice.model_validate_json(text.choice().model_dump_json()).logprobs[0].top[1].logprob == -9999


async def test_no_probabilities_of_others_are_named_where_none_were_asked_for() -> None:
    (text,) = await collect(answers([piece(0, "x", [5], places=[{5: Logprob(-2.5, 3, "x")}])]), None, 0)

    assert [(one.token, one.top) for one in text.choice().logprobs] == [("x", [])]


async def test_a_request_that_was_stopped_at_once_has_a_text() -> None:
    (text,) = await collect(answers([piece(0, "", [], reason="abort")]), None, None)

    assert text.choice().finish_reason == "cancelled"
