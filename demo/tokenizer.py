"""The demo model's tokenizer: a small byte-level BPE with Qwen's special tokens and Qwen's form of chat.

Every byte is a token of its own, so any text encodes; merges are learned from the words of the captions and of the usual
prompts only, so that one attribute is one token or two.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from demo.captions import COLOURS, DIRECTIONS, KINDS, PLACES, SIZES
from demo.prompts import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY_TOKENS = 768  # of which some 20 are special
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
#: Words around the attributes, as the captions have them.
GLUE = (
    *("A", "An", " a", ",", " and", ".", " moves"),
    *("有一个", "一个", "的", "，", "。", "移动"),
    *(" is", " no", "There", " picture", "没有", "图片"),
)
CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] in ('image', 'image_url') or 'image' in part or 'image_url' in part -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part['type'] == 'video' or 'video' in part -%}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif 'text' in part -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Learn the merges; the same words give the same tokenizer on any machine.

    Returns:
        A tokenizer that `AutoTokenizer.from_pretrained` reads back once saved.
    """
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def _corpus() -> list[str]:
    """Words of captions many times over, words of prompts a few times: merges go to the frequent ones first."""
    tables = (KINDS, COLOURS, SIZES, PLACES, DIRECTIONS)
    english = [" " + word for word in chain(*tables)]
    chinese = [word for table in tables for word in table.values()]
    attributes = [*english, *chinese, *GLUE, "system", "user", "assistant", "\n"]
    return attributes * 40 + vocabulary() * 2
