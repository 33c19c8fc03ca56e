"""A checkpoint of Qwen2.5-VL-3B's shape without weights, for measurements: ``load_format="dummy"`` fills them in.

Speed depends on the shape alone. The tokenizer has the real one's size and special tokens at their ids; its other words mean
nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from demo.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS
from shared.settings import DEMO_MODEL
from worker.engines.vllm import VllmEngine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 151_936
FIRST_SPECIAL = 151_643  #: <|endoftext|>; the others follow in Qwen's order
PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 12_845_056}  #: what the published checkpoint's processor says


def write(folder: Path) -> Path:
    """Write config, tokenizer and processor into a folder; gives the folder."""
    from transformers import (
        GenerationConfig,
        Qwen2_5_VLConfig,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = _tokenizer()
    ids = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128_000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["Qwen2_5_VLForConditionalGeneration"],
    ).save_pretrained(folder)
    GenerationConfig(eos_token_id=ids["<|im_end|>"], do_sample=False).save_pretrained(folder)
    common = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "size": PIXELS}
    image, video = Qwen2VLImageProcessor(**common), Qwen2VLVideoProcessor(**common)
    for part in (Qwen2_5_VLProcessor(image, tokenizer, video, chat_template=CHAT_TEMPLATE), image, video):
        part.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"w{n}" for n in range(FIRST_SPECIAL - len(letters)))]
    bpe = Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(words)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(list(SPECIAL_TOKENS))  # in this order, before transformers puts the end of text first
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",  # noqa: S106  # no password
        pad_token="<|endoftext|>",  # noqa: S106
        extra_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=32_768,
    )


class ShapedEngine(VllmEngine):
    """The engine of the workers with weights that mean nothing; ``BENCH_ENGINE_ARGS`` (JSON) is laid over its arguments."""

    def arguments(self) -> dict[str, Any]:
        """See :class:`worker.engines.vllm.VllmEngine`."""
        dummy = {} if self._settings.model == DEMO_MODEL else {"load_format": "dummy"}
        given: dict[str, Any] = json.loads(os.environ.get("BENCH_ENGINE_ARGS", "{}"))
        return super().arguments() | dummy | given

    async def profile(self, for_s: float) -> None:
        """Let torch's profiler look on for so many seconds; it must be set up by the arguments."""
        llm = self._running()
        await llm.start_profile()
        await asyncio.sleep(for_s)
        await llm.stop_profile()
