"""Train the demo model from nothing: ``python -m demo.train``.

On a GPU one process trains and others draw. On a CPU there is one process of one thread for each core, which is faster
than one process of many threads, above all where something else wants the cores too.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from demo.batches import Batch, Samples
from demo.checkpoint import build_config, build_processor, save
from demo.dense import DENSE
from demo.network import Losses, Trainee
from demo.tokenizer import build_tokenizer


@dataclass(frozen=True)
class Plan:
    """One run. It ends at the steps or at the minutes, whichever comes first, and the learning rate knows."""

    out: Path
    minutes: float
    steps: float
    batch: int  # samples per step, over all processes
    processes: int
    rate: float
    seed: int
    start: Path | None  # a checkpoint to go on from
    look_share: float = 0.08  # of the run: the vision tower learns alone, before there is anything to talk about
    save_every_s: float = 300.0
    warmup_steps: int = 50

    def rate_share(self, step: int, done: float) -> float:
        """Learning rate as a share of its peak: up, flat, and down to nothing over the second half."""
        return min(1.0, (step + 1) / self.warmup_steps, 2 * (1 - min(done, 1.0)) + 1e-3)


class Optimizers:
    """Muon for the matrices of the layers, AdamW for all else."""

    def __init__(self, trainee: Trainee, rate: float) -> None:
        layers = [(n, p) for n, p in trainee.named_parameters() if p.requires_grad]
        muon = [p for n, p in layers if p.ndim == 2 and (".blocks." in n or ".layers." in n)]
        chosen = set(map(id, muon))
        others = [p for _, p in layers if id(p) not in chosen]
        self.parameters = [p for _, p in layers]
        self._rate = rate
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.Muon(muon, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, weight_decay=0.01, betas=(0.9, 0.98)),
        ]

    def step(self, share: float) -> None:
        """Apply the gradients at ``share`` of the peak rate, and drop them."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = self._rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)


def train(rank: int, plan: Plan, meeting: str) -> None:
    """Run one process of the training.

    Args:
        rank: 0 reports and saves.
        plan: the run.
        meeting: a file through which the processes find each other.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // plan.processes))
    if plan.processes > 1:
        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=plan.processes)
    torch.manual_seed(plan.seed)
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    trainee = Trainee(_model(plan, tokenizer)).to(device)
    optimizers = Optimizers(trainee, plan.rate)
    samples = Samples(tokenizer, plan.batch // plan.processes, seed=plan.seed, part=(rank, plan.processes))
    log = Log(plan, processor) if rank == 0 else None
    started, done, step = time.monotonic(), 0.0, 0
    for batch in _batches(samples, device):
        done = _agree(max(step / plan.steps, (time.monotonic() - started) / 60 / plan.minutes), plan.processes)
        if done >= 1:
            break
        with torch.autocast(device.type, torch.bfloat16):
            losses = trainee(batch, captions=plan.start is not None or done > plan.look_share)
        (losses.caption + losses.dense).backward()
        _average(optimizers.parameters, plan.processes)
        optimizers.step(plan.rate_share(step, done))
        step += 1
        if log:
            log.note(step, done, losses, trainee.model)
    if log:
        log.finish(step, trainee.model)


def _model(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    if plan.start:
        return Qwen2_5_VLForConditionalGeneration.from_pretrained(plan.start, dtype=torch.float32)
    return Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))


def _batches(samples: Samples, device: torch.device) -> Iterator[Batch]:
    workers = max(1, (os.cpu_count() or 2) - 2) if device.type == "cuda" else 0
    loader = DataLoader(samples, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    for batch in loader:
        yield Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))


def _agree(done: float, processes: int) -> float:
    """Let all processes think that it's as late as in the latest of them."""
    if processes == 1:
        return done
    clock = torch.tensor(done, dtype=torch.float64)
    dist.all_reduce(clock, dist.ReduceOp.MAX)
    return clock.item()


def _average(parameters: list[nn.Parameter], processes: int) -> None:
    """Average the gradients over the processes."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if processes == 1:
        return
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= processes
    start = 0
    for grad in grads:
        grad.copy_(flat[start : start + grad.numel()].view_as(grad))
        start += grad.numel()


class Log:
    """Says how it goes, and saves now and then."""

    def __init__(self, plan: Plan, processor: Qwen2_5_VLProcessor) -> None:
        self._plan, self._processor = plan, processor
        self._started = self._saved = self._said = time.monotonic()
        self._recent: list[Tensor] = []

    def note(self, step: int, done: float, losses: Losses, model: Qwen2_5_VLForConditionalGeneration) -> None:
        """Take one step's losses in."""
        numbers = torch.stack([losses.caption, losses.dense, losses.caption_right])
        self._recent.append(torch.cat([numbers, losses.dense_right]).detach())
        now = time.monotonic()
        if now - self._said > 20:
            self._say(step, done)
            self._said = now
        if now - self._saved > self._plan.save_every_s:
            save(model, self._processor, self._plan.out)
            self._saved = now

    def _say(self, step: int, done: float) -> None:
        caption, dense, right, *shares = torch.stack(self._recent).nanmean(0).tolist()
        words = " ".join(f"{name} {share:.3f}" for name, share in zip(DENSE, shares, strict=True))
        minutes = (time.monotonic() - self._started) / 60
        line = f"{minutes:6.1f} min {done:6.1%} step {step:6d} caption {caption:.4f} {right:.4f} dense {dense:.4f} {words}"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
        self._recent.clear()

    def finish(self, step: int, model: Qwen2_5_VLForConditionalGeneration) -> None:
        """Save the end."""
        if self._recent:
            self._say(step, 1.0)
        save(model, self._processor, self._plan.out)
        samples = step * self._plan.batch
        sys.stderr.write(f"{samples} samples in {(time.monotonic() - self._started) / 60:.1f} min -> {self._plan.out}\n")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--minutes", type=float, default=13.0 if on_gpu else 60.0)
    parser.add_argument("--steps", type=float, default=math.inf)
    parser.add_argument("--batch", type=int, default=256 if on_gpu else 32)
    parser.add_argument("--processes", type=int, default=1 if on_gpu else os.cpu_count())
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="a checkpoint of this shape to go on from")
    plan = Plan(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder, "meeting"))
        if plan.processes == 1:
            train(0, plan, meeting)
        else:
            start_processes(train, (plan, meeting), plan.processes)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
