"""Several processes in front of one vLLM engine, as vLLM's own server has them: Python's lock holds one at a core's work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.aio import next_moment
from worker.engines.base import Front

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


#: A step with a picture costs the thread that launches kernels tens of milliseconds, however few it has, so under load requests
#: go to the engine together, those of all fronts: 448 x 448 - 128 on an H200 91.8 to 95.3 jobs a second, mean of two rounds.
TOGETHER_S = 0.05
#: Requests in one front that count as no load: a few need not wait for more.
FEW = 4


async def gather_arrivals(here: int) -> None:
    """Wait until requests of all fronts go on together, where many are there.

    Args:
        here: requests in this front, this one not counted.
    """
    if here > FEW:
        await next_moment(TOGETHER_S)


def open_front(arguments: dict[str, Any], front: Front, stat_logger: Any) -> AsyncLLM:
    """Load the engine, or join the one that the first front loads; returns when it is ready.

    Args:
        arguments: of vLLM's engine, the same in every front.
        front: which one this is.
        stat_logger: class of what vLLM calls after each step.

    Raises:
        RuntimeError: the engine could not be loaded.
    """
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    engine_args = AsyncEngineArgs(**arguments)
    if front.count == 1:
        return AsyncLLM.from_engine_args(engine_args, stat_loggers=[stat_logger])
    engine_args._api_process_count, engine_args._api_process_rank = front.count, front.index  # noqa: SLF001  # as vllm serve
    config = engine_args.create_engine_config(UsageContext.ENGINE_CONTEXT)
    inputs, outputs = ([f"ipc://{front.folder}/{way}-{index}" for index in range(front.count)] for way in ("inputs", "outputs"))
    core = _launch(config, inputs, outputs) if front.index == 0 else None
    llm = AsyncLLM.from_vllm_config(
        config,
        stat_loggers=[stat_logger],
        client_addresses={"input_address": inputs[front.index], "output_address": outputs[front.index]},
        client_count=front.count,
        client_index=front.index,
    )
    if core is not None:  # else its death would go unseen, and it would outlive a shutdown
        client: Any = llm.engine_core
        client.resources.engine_manager = core
        client.start_engine_core_monitor()
    return llm


def _launch(config: Any, inputs: list[str], outputs: list[str]) -> Any:
    """Start the engine's own process, and wait until it is loaded."""
    from vllm.v1.engine.utils import EngineZmqAddresses, launch_core_engines
    from vllm.v1.executor import Executor

    addresses = EngineZmqAddresses(inputs=inputs, outputs=outputs)
    with launch_core_engines(config, Executor.get_class(config), log_stats=True, addresses=addresses) as launched:
        pass
    return launched[0] if isinstance(launched, tuple) else launched.engine_manager  # a tuple up to vLLM 0.26
