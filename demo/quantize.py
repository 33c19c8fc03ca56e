"""Write the demo model as an AWQ checkpoint of 4 bits: ``python -m demo.quantize FOLDER``.

AWQ (activation-aware weight quantisation, https://arxiv.org/abs/2306.00978) rounds weights to 4 bits, group by group. Before
that, input channels that carry much are made larger in the weights and smaller in what comes before them, so that rounding
hurts them less; by how much is tried out on scenes and clips. Linears of the language model are rounded, the vision tower, the
embeddings and the head are not, as in the published AWQ checkpoints of Qwen-VL. The files have the names and the order of bits
of AutoAWQ's "GEMM" version, which vLLM reads. Unlike AutoAWQ's, outliers are not clipped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo.batches import Batch, Samples
from demo.network import Trainee

SOURCE = Path(__file__).parent / "model"
BITS = 4
LEVELS = 2**BITS - 1
#: Input channels that share a scale and a zero point: the largest that vLLM's kernels know and that divides 192 and 512.
GROUP = 64
#: Values in a word of 32 bits, and which of eight neighbours stands at each place of it, from the lowest bits.
PACK = 32 // BITS
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
#: How much of a channel's activation its scale follows: 0 leaves it as it is.
EXPONENTS = tuple(step / 20 for step in range(20))
#: Scenes and clips that activations are measured on, some 6,000 tokens; their run of seeds is no training's and no exam's.
SAMPLES, SAMPLES_SEED = 48, 1
#: Linears that read the same input, and what the scales of that input are taken out of. Of two that touch the same linear, its
#: rows come first: what it is rounded to must be final.
GROUPS = (
    (("self_attn.o_proj",), "self_attn.v_proj"),  # each head has keys of its own here, else the widths would differ
    (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm"),
    (("mlp.down_proj",), "mlp.up_proj"),
    (("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm"),
)
#: What an engine has to know, beside the weights.
METHOD = {
    "quant_method": "awq",
    "bits": BITS,
    "group_size": GROUP,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": ["visual"],
}


def round_groups(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round a linear's weight to 4 bits.

    Args:
        weight: (N outputs, K inputs) float32.

    Returns:
        Levels (N, K), zero points (N, K / GROUP), both of 0 to 15, and scales (N, K / GROUP) that bfloat16 holds exactly.
    """
    groups = weight.view(len(weight), -1, GROUP)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)  # so that the zero point is a level, too
    scales = ((high - low) / LEVELS).clamp(min=1e-5).bfloat16().float()  # as they are stored: levels are counted in those
    zeros = (-low / scales).round().clamp(0, LEVELS)
    levels = ((groups / scales[..., None]).round() + zeros[..., None]).clamp(0, LEVELS)
    return levels.flatten(1).int(), zeros.int(), scales


def restore(levels: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
    """Compute the weight that an engine makes of what :func:`round_groups` gave."""
    groups = levels.reshape(len(levels), -1, GROUP)
    return ((groups - zeros[..., None]) * scales[..., None]).flatten(1)


def pack(values: Tensor) -> Tensor:
    """Pack values of 0 to 15, (rows, columns), into (rows, columns / 8) words, as AutoAWQ orders them."""
    eights = values.reshape(len(values), -1, PACK)[..., list(ORDER)].long()
    return (eights << torch.arange(0, 32, BITS)).sum(-1).int()  # the highest bit becomes the sign


def measure(n_samples: int) -> dict[str, Tensor]:
    """Run samples through the model.

    Returns:
        What each group's first linear read, (tokens, K), by the linear's name in the file of weights.
    """
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(SOURCE, dtype=torch.float32).eval()
    seen: dict[str, list[Tensor]] = defaultdict(list)

    def watch(name: str, linear: torch.nn.Module) -> None:
        def note(_: torch.nn.Module, read: tuple[Tensor]) -> None:
            seen[name].append(read[0].flatten(0, -2))

        linear.register_forward_pre_hook(note)

    for index, layer in enumerate(model.model.language_model.layers):
        for (first, *_), _ in GROUPS:
            watch(f"model.layers.{index}.{first}", layer.get_submodule(first))
    trainee = Trainee(model)
    samples = Samples(AutoTokenizer.from_pretrained(SOURCE), 1, seed=SAMPLES_SEED)
    with torch.inference_mode():
        for batch in itertools.islice(samples, n_samples):
            trainee(_without_padding(batch))
    return {name: torch.cat(parts) for name, parts in seen.items()}


def _without_padding(batch: Batch) -> Batch:
    """Cut the padding off a batch of one row: what the model makes of it is nothing that it should be good at."""
    length = int((batch.branches >= 0).sum())
    return Batch(batch.frames, batch.dense, *(tensor[..., :length] for tensor in batch[2:]))


def find_scales(read: Tensor, weights: list[Tensor]) -> Tensor:
    """Try how much larger each input channel should be while it is rounded.

    Args:
        read: (tokens, K), what the linears read.
        weights: theirs, (N, K) each.

    Returns:
        (K,) the factors with which the linears' outputs come closest to what they were.
    """
    weight, size = torch.cat(weights), read.abs().mean(0).clamp(min=1e-4)
    outputs = read @ weight.T
    best, least = torch.ones_like(size), torch.inf
    for exponent in EXPONENTS:
        scales = size**exponent
        scales /= (scales.max() * scales.min()).sqrt()
        error = float(((read / scales) @ restore(*round_groups(weight * scales)).T - outputs).square().mean())
        if error < least:
            best, least = scales, error
    return best


def take_out(weights: dict[str, Tensor], before: str, scales: Tensor) -> Tensor:
    """Divide what comes before some linears by their scales.

    Args:
        weights: of the model, changed in place.
        before: the name of a norm, or of a linear that is yet to be rounded.
        scales: (K,) as wished.

    Returns:
        (K,) as they came out: a norm stays in bfloat16, and the linears behind it make good what that rounds away.
    """
    weight, bias = weights[f"{before}.weight"], weights.get(f"{before}.bias")
    if bias is not None:
        weights[f"{before}.bias"] = bias / scales
    if weight.dim() > 1:
        weights[f"{before}.weight"] = weight / scales[:, None]
        return scales
    weights[f"{before}.weight"] = (weight / scales).bfloat16().float()
    return weight / weights[f"{before}.weight"]


def quantize(folder: Path, n_samples: int = SAMPLES) -> None:
    """Write the checkpoint.

    Args:
        folder: created where absent.
        n_samples: how many scenes and clips activations are measured on.
    """
    weights = {name: tensor.float() for name, tensor in load_file(SOURCE / "model.safetensors").items()}
    config: dict[str, Any] = json.loads((SOURCE / "config.json").read_text())
    read, packed = measure(n_samples), dict[str, Tensor]()
    for index, (linears, before) in itertools.product(range(config["text_config"]["num_hidden_layers"]), GROUPS):
        layer = f"model.layers.{index}."
        found = find_scales(read[layer + linears[0]], [weights[f"{layer}{name}.weight"] for name in linears])
        scales = take_out(weights, layer + before, found)
        for name in linears:
            levels, zeros, steps = round_groups(weights.pop(f"{layer}{name}.weight") * scales)
            packed[f"{layer}{name}.qweight"] = pack(levels.T)
            packed[f"{layer}{name}.qzeros"] = pack(zeros.T)
            packed[f"{layer}{name}.scales"] = steps.T.bfloat16()
    folder.mkdir(parents=True, exist_ok=True)
    for file in (*SOURCE.glob("*.json"), *SOURCE.glob("*.jinja")):
        shutil.copy(file, folder)
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": METHOD}, indent=2) + "\n")
    kept = {name: tensor.bfloat16() for name, tensor in weights.items()}
    tensors = {name: tensor.contiguous() for name, tensor in (kept | packed).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # as the files beside it: a worker may be another user


def main() -> None:
    """Read the command line and quantise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    folder = parser.parse_args().folder
    quantize(folder)
    print(f"{folder}: SIGHTLINE_MODEL={folder} SIGHTLINE_DTYPE=bfloat16 sightline up")


if __name__ == "__main__":
    main()
