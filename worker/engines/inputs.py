"""From messages to what both engines take: one prompt, its pictures, its clips."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import InvalidRequest, ReservedToken
from shared.reserved_tokens import find_reserved
from shared.weights import note
from worker.engines.base import Conversation, EngineUnavailable, PixelLimits, Tools
from worker.engines.tools import arrange, knows_tools
from worker.media.frame_sampling import Frames
from worker.media.pictures import Pixels


@dataclass(frozen=True)
class Inputs:
    """A rendered conversation.

    Shape:
        images: uint8 of (height, width, 3), both sides multiples of the factor.
        videos: (frames, metadata); frames are uint8 of (n_frames, 3, height, width).
    """

    prompt: str
    images: list[Any] = field(default_factory=list)
    videos: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)

    @property
    def multi_modal_data(self) -> dict[str, Any]:
        """The media as vLLM names them."""
        named = {"image": self.images, "video": self.videos}
        return {name: items for name, items in named.items() if items}


#: Everything was sampled and scaled before; doing it again would cost time and blur. Constant, so that caches agree.
PROCESSOR_KWARGS: Mapping[str, bool] = {"do_sample_frames": False, "do_resize": False}


def load_processor(path: Path) -> Any:
    """Load a checkpoint's processor.

    Raises:
        EngineUnavailable: the folder is missing or holds no vision-language checkpoint.
    """
    from transformers import AutoProcessor

    if not (path / "config.json").is_file():
        msg = f"there are no weights in {path}; fetch them with `sightline models pull NAME` or set SIGHTLINE_MODEL"
        raise EngineUnavailable(msg)
    if not note(path).get("complete", True):
        msg = f"the weights in {path} were only fetched in part; `sightline models pull` goes on where it stopped"
        raise EngineUnavailable(msg)
    processor = AutoProcessor.from_pretrained(path)
    if not hasattr(processor, "image_processor"):
        msg = f"the model in {path} takes no pictures; Qwen2-VL, Qwen2.5-VL and Qwen3-VL do"
        raise EngineUnavailable(msg)
    return processor


def pixel_limits(processor: Any) -> PixelLimits:
    """Read the size rules out of a processor, whatever its family.

    Qwen2-VL and Qwen3-VL were taught to point at thousandths of a picture, Qwen2.5-VL at its pixels.
    """
    image, video = processor.image_processor, processor.video_processor
    return PixelLimits(
        patch_px=image.patch_size,
        factor_px=image.patch_size * image.merge_size,
        image_min_px=image.size["shortest_edge"],
        image_max_px=image.size["longest_edge"],
        frame_min_px=video.size["shortest_edge"],
        frame_max_px=video.size["longest_edge"],
        temporal_patch=image.temporal_patch_size,
        measure="pixels" if "Qwen2_5" in type(processor).__name__ else "thousandths",
    )


def render(processor: Any, conversation: Conversation, tools: Tools = (), *, patch_px: int) -> Inputs:
    """Apply the chat template and let qwen-vl-utils arrange the clips. Takes milliseconds: call it off the event loop.

    Args:
        processor: the checkpoint's own.
        conversation: messages that hold decoded pictures and frames.
        tools: functions that the model may call.
        patch_px: side of a vision patch, 14 or 16 by family.

    Raises:
        ReservedToken: a text holds one of the tokenizer's special tokens.
        InvalidRequest: the chat template leaves a picture or video out.
    """
    from qwen_vl_utils import process_vision_info

    _refuse_reserved(processor.tokenizer, conversation, tools)
    template = str(processor.chat_template or "")
    messages = arrange(conversation, tools, template)
    shown: dict[str, Any] = {"tools": list(tools)} if tools and knows_tools(template) else {}
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **shown)
    parts = [part for message in messages for part in message["content"]]
    # Pictures lie on the grid already: qwen-vl-utils would copy each twice, and a processor takes Pillow's form apart again.
    images = [_as_array(part["image"]) for part in parts if part["type"] == "image"]
    films = [_as_film(part["video"]) for part in parts if part["type"] == "video"]
    # Half the patch: for frames given as a list qwen-vl-utils 0.0.14 doubles its grid, and would scale them once more.
    _, videos, _ = process_vision_info(
        [{"role": "user", "content": films}],
        return_video_kwargs=True,
        return_video_metadata=True,
        image_patch_size=patch_px // 2,
    )
    # It hands frames back as floats of 0 to 255 that were whole numbers: as bytes they cost a quarter.
    clips = [(frames.round().clamp(0, 255).byte(), metadata) for frames, metadata in videos or []]
    inputs = Inputs(prompt, images, clips)
    _check_places(processor, inputs)
    return inputs


def _as_array(picture: Pixels) -> Any:
    rgb = np.frombuffer(picture.rgb, np.uint8).reshape(picture.height_px, picture.width_px, 3)
    return np.require(rgb, requirements="W")  # torch warns of what it cannot write to


def _as_film(clip: Frames) -> dict[str, Any]:
    """Make a part that qwen-vl-utils takes; ``resized_*`` are the frames' own size."""
    first = clip.frames[0]
    size = {"resized_height": first.height_px, "resized_width": first.width_px}
    return {"type": "video", "video": [frame.as_image() for frame in clip.frames], "sample_fps": clip.sample_fps, **size}


def _refuse_reserved(tokenizer: Any, conversation: Conversation, tools: Tools) -> None:
    """Refuse what the gateway, which knows no tokenizer, cannot tell."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    words = re.compile("|".join(re.escape(word) for word in sorted(special, key=len, reverse=True)) or r"(?!)")
    shown = [json.dumps(tool, ensure_ascii=False) for tool in tools]
    called = [json.dumps(message["tool_calls"], ensure_ascii=False) for message in conversation if "tool_calls" in message]
    texts = [[part.get("text") for part in message["content"]] for message in conversation]
    if any(find_reserved(one, words) for one in (shown, called, *texts)):
        raise ReservedToken


def _check_places(processor: Any, inputs: Inputs) -> None:
    """Make sure that the prompt has one place for each item: with one more or less, pictures would change places."""
    places = inputs.prompt.count(processor.image_token), inputs.prompt.count(processor.video_token)
    if places != (len(inputs.images), len(inputs.videos)):
        msg = "the model's chat template has no place for one of the pictures or videos; put them into the user's messages"
        raise InvalidRequest(msg)
