"""The demo model in AWQ: the bits lie where vLLM looks for them, and what was made larger was made smaller elsewhere."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from demo.precisions import settings_of
from demo.quantize import GROUP, SOURCE, find_scales, pack, quantize, restore, round_groups
from shared.settings import DEMO_MODEL


def unpack(words: Tensor) -> Tensor:
    """Take words apart as vLLM does (``_convert_awq_to_standard_format``), not as they were packed."""
    eights = (words[..., None] >> torch.arange(0, 32, 4)) & 15
    return eights[..., [0, 4, 1, 5, 2, 6, 3, 7]].flatten(1)


def test_eight_values_lie_in_a_word_in_the_order_of_autoawq() -> None:
    assert pack(torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]])).tolist() == [[0x75316420]]
    assert pack(torch.tensor([[8, 9, 10, 11, 12, 13, 14, 15]])).tolist() == [[0xFDB9ECA8 - 2**32]]


def test_what_was_packed_comes_out_again() -> None:
    values = torch.randint(0, 16, (7, 64), generator=torch.Generator().manual_seed(0))

    assert torch.equal(unpack(pack(values)), values)


@pytest.mark.parametrize("shift", [0.0, 0.5, -0.5])  # also where all weights of a group are on one side of zero
def test_rounding_is_off_by_half_a_step_at_most(shift: float) -> None:
    weight = torch.rand((8, 2 * GROUP), generator=torch.Generator().manual_seed(0)) * 0.1 + shift

    levels, zeros, scales = round_groups(weight)

    off = (restore(levels, zeros, scales) - weight).abs().view(8, -1, GROUP).amax(-1)
    assert levels.min() >= 0
    assert levels.max() <= 15
    assert torch.all(off <= scales)  # the zero point is rounded, too: half a step of its own


def test_channels_that_carry_much_are_hurt_less() -> None:
    chance = torch.Generator().manual_seed(0)
    read, weight = torch.randn((256, GROUP), generator=chance), torch.randn((32, GROUP), generator=chance)
    read[:, 3] *= 50

    def error(scales: Tensor) -> float:
        rounded = (read / scales) @ restore(*round_groups(weight * scales)).T
        return float((rounded - read @ weight.T).square().mean())

    scales = find_scales(read, [weight[:16], weight[16:]])

    assert int(scales.argmax()) == 3
    assert error(scales) < 0.5 * error(torch.ones(GROUP))


CHAINS = (
    ("input_layernorm", ["self_attn.q_proj"]),
    ("input_layernorm", ["self_attn.k_proj"]),
    ("input_layernorm", ["self_attn.v_proj", "self_attn.o_proj"]),
    ("post_attention_layernorm", ["mlp.gate_proj"]),
    ("post_attention_layernorm", ["mlp.up_proj", "mlp.down_proj"]),
)


def made(weights: dict[str, Tensor], layer: int, norm: str, names: list[str]) -> Tensor:
    """What linears one after another make of each channel of a norm, without what lies between them."""
    product = torch.diag(weights[f"model.layers.{layer}.{norm}.weight"].float())
    for name in (f"model.layers.{layer}.{name}" for name in names):
        if f"{name}.weight" in weights:
            linear = weights[f"{name}.weight"].float()
        else:
            words, zeros, scales = (weights[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
            linear = restore(unpack(words).T, unpack(zeros).T, scales.T.float())
        product = linear @ product
    return product


def test_the_checkpoint_computes_what_the_model_does(tmp_path: Path) -> None:
    quantize(tmp_path, n_samples=2)
    before, after = load_file(SOURCE / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    method = json.loads((tmp_path / "config.json").read_text())["quantization_config"]

    assert (method["quant_method"], method["bits"], method["group_size"]) == ("awq", 4, 64)
    for layer, (norm, names) in itertools.product(range(4), CHAINS):
        exact = made(before, layer, norm, names)
        off = (made(after, layer, norm, names) - exact).norm() / exact.norm()
        assert 0.01 < off < 0.2, (layer, names)  # rounded, but no more than that
        assert not torch.equal(before[f"model.layers.{layer}.{norm}.weight"], after[f"model.layers.{layer}.{norm}.weight"])
    for name in before:
        if name.startswith("visual.") or name in {"model.embed_tokens.weight", "model.norm.weight"}:
            assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize(
    ("precision", "wanted"),
    [
        ("bfloat16", {"model": DEMO_MODEL, "dtype": "bfloat16", "quantization": None, "kv_cache_dtype": "auto"}),
        ("fp8+kv", {"model": DEMO_MODEL, "dtype": "bfloat16", "quantization": "fp8", "kv_cache_dtype": "fp8"}),
        ("awq", {"model": "/awq", "dtype": "bfloat16", "quantization": None, "kv_cache_dtype": "auto"}),
    ],
)
def test_a_precision_is_settings(precision: str, wanted: dict[str, str | None]) -> None:
    assert settings_of(precision, Path("/awq")) == wanted
