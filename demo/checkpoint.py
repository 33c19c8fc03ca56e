"""The demo checkpoint: the shape of the network, its processor, and how it is written to disk.

It is a Qwen2.5-VL in every respect but its size, so transformers and vLLM load it with the code that serves the real one.
"""

import tempfile
from copy import deepcopy
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from demo.tokenizer import CHAT_TEMPLATE

PATCH_PX = 14
FACTOR_PX = 28  # one vision token covers FACTOR_PX x FACTOR_PX pixels
TOKEN_PX = FACTOR_PX * FACTOR_PX
#: The scale at which the model looks. The limits of a pair differ, so that a second resize changes nothing.
IMAGE_PIXELS = (24 * TOKEN_PX, 50 * TOKEN_PX)
FRAME_PIXELS = (9 * TOKEN_PX, 18 * TOKEN_PX)
HEAD_SIZE = 64  # what vLLM's attention kernels take on every device
WIDTH = 192
MLP_WIDTH = 512
VISION_LAYERS = 4
TEXT_LAYERS = 4
#: Positions per second of video. With 1, a clip of 4 s is no longer in time than it is wide in space, and then
#: transformers and vLLM agree on the position of the first token after it.
POSITIONS_PER_S = 1
MAX_CONTEXT_TOKENS = 32768


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """Describe the network.

    Args:
        tokenizer: whose special tokens the configuration names by id.

    Returns:
        A configuration of some 4.6 million weights.
    """
    ids = dict(zip(_NAMED, tokenizer.convert_tokens_to_ids(list(_NAMED.values())), strict=True))
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": WIDTH,
        "intermediate_size": MLP_WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": WIDTH // HEAD_SIZE,
        "num_key_value_heads": WIDTH // HEAD_SIZE,
        "max_position_embeddings": MAX_CONTEXT_TOKENS,
        "initializer_range": 0.04,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 12, 12]},
        "bos_token_id": ids["pad"],
        "eos_token_id": ids["end"],
        "pad_token_id": ids["pad"],
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": VISION_LAYERS,
        "hidden_size": WIDTH,
        "intermediate_size": MLP_WIDTH,
        "num_heads": WIDTH // HEAD_SIZE,
        "out_hidden_size": WIDTH,
        "patch_size": PATCH_PX,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": POSITIONS_PER_S,
        "window_size": 4 * FACTOR_PX,
        "fullatt_block_indexes": list(range(VISION_LAYERS)),
        "initializer_range": 0.04,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
    )


_NAMED = {
    "pad": "<|endoftext|>",
    "end": "<|im_end|>",
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
}


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    """Make the processor: limits of pixels, normalisation to -1..1, tokens, form of chat."""
    common = {
        "patch_size": PATCH_PX,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    image = Qwen2VLImageProcessor(size=_limits(IMAGE_PIXELS), **common)
    video = Qwen2VLVideoProcessor(size=_limits(FRAME_PIXELS), cap_pixels_per_frame=False, **common)
    return Qwen2_5_VLProcessor(image, tokenizer, video, chat_template=CHAT_TEMPLATE)


def _limits(pixels: tuple[int, int]) -> dict[str, int]:
    return {"shortest_edge": pixels[0], "longest_edge": pixels[1]}


def save(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, folder: Path) -> None:
    """Write a checkpoint in bfloat16; readers of ``folder`` see every file whole, old or new.

    Args:
        model: in any floating type, on any device; left as it is.
        processor: whose tokenizer the model was trained with.
        folder: created where absent; files of other names in it stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to("cpu", torch.bfloat16) for name, tensor in model.state_dict().items()}
    copy = Qwen2_5_VLForConditionalGeneration(deepcopy(model.config)).to(torch.bfloat16)
    copy.load_state_dict(weights)
    for part in (copy.config.text_config, copy.config.vision_config):
        part.dtype = torch.bfloat16  # a model that was loaded in float32 has that in its parts
    end, pad = model.config.text_config.eos_token_id, model.config.text_config.pad_token_id
    copy.generation_config = GenerationConfig(
        bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad, do_sample=False, repetition_penalty=1.0
    )
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        copy.save_pretrained(scratch)
        processor.save_pretrained(scratch)
        processor.image_processor.save_pretrained(scratch)  # the names that the published checkpoints use
        processor.video_processor.save_pretrained(scratch)
        for file in sorted(Path(scratch).iterdir()):
            file.chmod(0o644)
            file.replace(folder / file.name)
