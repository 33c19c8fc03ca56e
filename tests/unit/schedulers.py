"""Plays one history of requests through our scheduler and vLLM's own, see ``test_vllm_scheduler.py``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

from vllm import AsyncEngineArgs, SamplingParams
from vllm.config import VllmConfig
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.sampling_params import RepetitionDetectionParams
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from shared.settings import ROOT
from worker.engines.vllm_scheduler import SteadyScheduler

BLOCK, SLOTS, STOP, EOS = 16, 24, 7, 5


@cache
def config(budget: int) -> VllmConfig:
    arguments = {"max_num_seqs": SLOTS, "max_num_batched_tokens": budget, "max_model_len": 700, "dtype": "float32"}
    return AsyncEngineArgs(
        model=str(ROOT / "demo" / "model"),
        scheduling_policy="priority",
        enable_prefix_caching=False,
        async_scheduling=True,
        **arguments,
    ).create_engine_config()


def request_of(n: int, rng: random.Random, *, long: bool) -> Request:
    """Make a request as the worker's engine does, with one thing or another that only some have."""
    prompt, length = rng.randint(20, 300), rng.randint(1, 60) if not long else 300
    loops = RepetitionDetectionParams(4, 1, 3) if rng.random() < 0.3 else None
    params = SamplingParams(
        max_tokens=length,
        stop_token_ids=[STOP] if rng.random() < 0.5 and not long else None,
        logprobs=1 if rng.random() < 0.1 else None,
        min_tokens=min(length, 3) if rng.random() < 0.1 else 0,
        repetition_detection=loops,
    )
    params.update_from_generation_config({}, EOS if not long else None)
    place = PlaceholderRange(offset=4, length=rng.randint(4, prompt - 8))
    picture = MultiModalFeatureSpec(data=None, modality="image", identifier=f"picture-{n}", mm_position=place)
    request = Request(
        request_id=f"job-{n}",
        prompt_token_ids=list(range(prompt)),
        sampling_params=params,
        pooling_params=None,
        priority=rng.randint(0, 3),
        arrival_time=float(n),
        client_index=n % 3,
        mm_features=[picture] if rng.random() < 0.8 else [],
    )
    if rng.random() < 0.1:  # whose grammar, which nobody looks at here, allows everything
        request.structured_output_request = SimpleNamespace(grammar=SimpleNamespace(accept_tokens=lambda *_: True))
    return request


@dataclass
class Side:
    """A scheduler, and the steps that its GPU is at: one is computed while the next one is decided."""

    scheduler: AsyncScheduler
    under_way: list[tuple[Any, frozenset[str]]] = field(default_factory=list)

    def decide(self) -> Any:
        scheduled = self.scheduler.schedule()
        requests = self.scheduler.requests
        sampled = frozenset(ident for ident in scheduled.num_scheduled_tokens if not requests[ident].is_prefill_chunk)
        self.under_way.append((scheduled, sampled))
        return scheduled

    def hear(self, token: int) -> Any:
        """Write down the oldest step, whose tokens follow from their requests."""
        scheduled, sampled = self.under_way.pop(0)
        ids = list(scheduled.num_scheduled_tokens)
        tokens = [[(token + n * n) % 23] if ident in sampled else [] for n, ident in enumerate(ids)]
        computed = ModelRunnerOutput(
            req_ids=ids, req_id_to_index={ident: n for n, ident in enumerate(ids)}, sampled_token_ids=tokens
        )
        return self.scheduler.update_from_output(scheduled, computed)


def side(kind: type[AsyncScheduler], budget: int, n_blocks: int) -> Side:
    made = config(budget)
    made.cache_config.num_gpu_blocks = n_blocks
    group = KVCacheGroupSpec(["layer"], FullAttentionSpec(block_size=BLOCK, num_kv_heads=2, head_size=64, dtype=None))
    cache_of = KVCacheConfig(num_blocks=n_blocks, kv_cache_tensors=[], kv_cache_groups=[group])
    manager = StructuredOutputManager(made)
    manager.accept_tokens = lambda *_: True
    return Side(
        kind(vllm_config=made, kv_cache_config=cache_of, structured_output_manager=manager, block_size=BLOCK, log_stats=True)
    )


def told(outputs: dict[int, Any]) -> dict[int, Any]:
    """Give what the processes in front hear, whatever the order."""

    def one(output: Any) -> tuple[Any, ...]:
        kinds = [event.type for event in output.events or ()]
        return (
            output.request_id,
            output.new_token_ids,
            output.finish_reason,
            output.stop_reason,
            kinds,
            output.prefill_stats is None,
        )

    n_stats = sum(each.scheduler_stats is not None for each in outputs.values())  # it is all the same who gets them
    return {-1: n_stats} | {client: sorted(map(one, each.outputs)) for client, each in outputs.items()}


def decided(scheduled: Any) -> dict[str, Any]:
    facts = dict(vars(scheduled))
    facts["scheduled_new_reqs"] = [(new.req_id, new.block_ids, new.num_computed_tokens) for new in scheduled.scheduled_new_reqs]
    facts["scheduled_cached_reqs"] = vars(scheduled.scheduled_cached_reqs)
    return facts


def state_of(scheduler: AsyncScheduler) -> list[Any]:
    names = ("status", "num_computed_tokens", "num_output_placeholders", "num_in_flight_tokens", "is_prefill_chunk")
    requests = [(ident, *(getattr(each, name) for name in names)) for ident, each in scheduler.requests.items()]
    return [
        requests,
        [each.request_id for each in scheduler.running],
        scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
    ]


def history(seed: int, budget: int, n_blocks: int, most: int) -> Iterator[tuple[str, Any, Any]]:
    """Play both through the same history; gives what is to be equal.

    Args:
        seed: of the history.
        budget: tokens of a step.
        n_blocks: of the cache.
        most: requests; few of them have long answers.
    """
    ours, theirs = side(SteadyScheduler, budget, n_blocks), side(AsyncScheduler, budget, n_blocks)
    rng, n = random.Random(seed), 0
    for step in range(400):
        while n < most and step < 300 and rng.random() < 0.4:
            draw = rng.random()
            for each in (ours, theirs):
                each.scheduler.add_request(request_of(n, random.Random(draw), long=most < SLOTS))
            n += 1
        if rng.random() < 0.05 and (ids := list(theirs.scheduler.requests)):
            gone = rng.choice(ids)
            for each in (ours, theirs):
                each.scheduler.finish_requests(gone, RequestStatus.FINISHED_ABORTED)
        if theirs.scheduler.has_requests():
            yield "decided", decided(ours.decide()), decided(theirs.decide())
        if len(theirs.under_way) == 2 or not theirs.scheduler.has_unfinished_requests():
            while theirs.under_way:
                token = rng.randint(0, 10)
                yield "told", told(ours.hear(token)), told(theirs.hear(token))
                if theirs.scheduler.has_unfinished_requests():
                    break
        yield "state", state_of(ours.scheduler), state_of(theirs.scheduler)
