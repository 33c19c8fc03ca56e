"""vLLM's answers, put together: of each of the texts its pieces, its tokens and, where they were asked for, probabilities."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.jobs import Choice, FinishReason, Likely, TokenLogprob

IMPOSSIBLE = -9999.0  #: what OpenAI's API and vLLM's server say in the place of minus infinity
_REASONS: dict[str, FinishReason] = {"length": "length", "repetition": "repetition", "abort": "cancelled"}


@dataclass
class Drawn:
    """One text as far as it has come."""

    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: str | None = None

    def add(self, piece: Any, most: int | None) -> None:
        """Take the next piece.

        Args:
            piece: vLLM's CompletionOutput.
            most: likely tokens to name in each place; None: no probabilities.
        """
        self.pieces.append(piece.text)
        self.token_ids += piece.token_ids
        self.reason = piece.finish_reason
        if most is not None:
            self.logprobs += token_logprobs(piece.token_ids, piece.logprobs or (), most)

    def choice(self) -> Choice:
        """Give what there is."""
        text, reason = "".join(self.pieces), _REASONS.get(self.reason or "", "stop")
        return Choice(text=text, finish_reason=reason, logprobs=self.logprobs)


async def collect(answers: AsyncIterator[Any], on_text: Callable[[str], None] | None, most: int | None) -> list[Drawn]:
    """Follow a request to its end.

    Args:
        answers: vLLM's, each with a piece of one or more of the texts.
        on_text: is given each new piece of the first text.
        most: as for :meth:`Drawn.add`.

    Returns:
        The texts, in vLLM's order; at least one.
    """
    texts = {0: Drawn()}
    async for answer in answers:
        for piece in answer.outputs:
            texts.setdefault(piece.index, Drawn()).add(piece, most)
            if on_text and piece.text and piece.index == 0:
                on_text(piece.text)
    return [text for _, text in sorted(texts.items())]


def token_logprobs(token_ids: Sequence[int], places: Sequence[Any], most: int) -> list[TokenLogprob]:
    """Give the probabilities of some tokens.

    Args:
        token_ids: those that were drawn.
        places: for each of them vLLM's Logprob by token id: the likeliest ones, and the drawn one.
        most: how many of the likeliest to name.
    """
    found = []
    for token_id, place in zip(token_ids, places, strict=False):
        ranked = sorted(place.values(), key=lambda one: one.rank)[:most]
        top = [Likely(token=one.decoded_token or "", logprob=_finite(one.logprob)) for one in ranked]
        drawn = place[token_id]
        found.append(TokenLogprob(token=drawn.decoded_token or "", logprob=_finite(drawn.logprob), top=top))
    return found


def _finite(logprob: float) -> float:
    """Give what JSON can say: a form leaves some tokens no chance at all."""
    return max(logprob, IMPOSSIBLE)
