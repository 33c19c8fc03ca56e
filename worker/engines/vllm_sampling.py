"""A job's sampling in vLLM's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.sampling_params import ResponseFormat, Sampling
from worker.engines.repetition import MAX_PATTERN, MIN_COUNT

if TYPE_CHECKING:
    from vllm import SamplingParams


def sampling_params(sampling: Sampling, *, room: int, stream: bool) -> SamplingParams:
    """Turn a job's sampling into vLLM's.

    Args:
        sampling: as the job has it.
        room: tokens that the context has left for the answer.
        stream: whether somebody reads the text while it is generated.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        max_tokens=min(room, sampling.most_tokens or room),
        stop_token_ids=sampling.stop_token_ids,
        stop=sampling.stop,
        seed=sampling.seed,
        n=sampling.n,
        logprobs=sampling.logprobs,
        repetition_detection=RepetitionDetectionParams(MAX_PATTERN, 1, MIN_COUNT) if sampling.ends_loops else None,
        structured_outputs=_structure(sampling.response_format),
        output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
    )


def _structure(wanted: ResponseFormat | None) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    if wanted is None:
        return None
    if wanted.json_schema is not None:
        return StructuredOutputsParams(json=wanted.json_schema.json_schema)
    if wanted.type == "json_object":
        return StructuredOutputsParams(json_object=True)
    return StructuredOutputsParams(choice=wanted.choice, regex=wanted.regex, grammar=wanted.grammar)
