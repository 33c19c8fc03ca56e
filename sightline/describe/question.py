"""What is asked of each file, and how the answer becomes the text of its row. Pure but for the locale."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sightline.client.core import body_with
from sightline.describe.flags import plain


class Preset(StrEnum):
    """What the texts are for."""

    CAPTION = "caption"
    TAGS = "tags"
    ALT = "alt"
    TRAIN = "train"


#: For pictures and videos alike, in English and in Chinese.
PROMPTS: dict[Preset | None, tuple[str, str]] = {
    None: ("Describe this in detail.", "请用中文描述一下这张图片"),
    Preset.CAPTION: ("Write a caption for this in one sentence.", "请用一句话为这张图片写一条说明。"),
    Preset.TAGS: (
        "List 5 to 20 tags for this, most important first, separated by commas. Only the tags.",
        "请为这张图片列出 5 到 20 个标签，重要的在前，用逗号分隔，只写标签。",
    ),
    Preset.ALT: (
        "Write alt text for this: one sentence of at most 125 characters that says what matters to somebody who cannot see it.",
        "请为这张图片写替代文本：一句话，不超过 60 个字，说明看不见图片的人需要知道的内容。",
    ),
    Preset.TRAIN: (
        "Describe this in one paragraph that begins with the subject: material, pose, surroundings, light, style. No opinions.",
        "请为训练图像模型描述这张图片：主体、服装或材质、姿态、环境、光线、风格。写成一段，从主体开始，不作评论。",
    ),
}
#: Presets whose texts are read by machines, which want no preamble.
_PLAIN = frozenset({Preset.TAGS, Preset.ALT, Preset.TRAIN})


def default_prompt(preset: Preset | None = None, environment: dict[str, str] | None = None) -> str:
    """Give the prompt of a preset, in the language of the locale."""
    variables = dict(os.environ) if environment is None else environment
    locale = next((variables[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if variables.get(name)), "")
    return PROMPTS[preset][locale.lower().startswith("zh")]


@dataclass(frozen=True)
class Question:
    """What is asked of each file.

    Args:
        prompt: in any language.
        system: goes before it.
        model: that is to answer; left out: the service's own.
        max_tokens: of the answer; left out: the service's own.
        schema: a JSON schema that the answer must satisfy.
        preset: what the texts are for.
        is_plain: take preambles and Markdown off.
        prefix: stands before each text.
        suffix: stands after each text.
        trigger: a word that each text begins with, unless it has it.
    """

    prompt: str
    system: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    schema: dict[str, Any] | None = field(default=None, hash=False)
    preset: Preset | None = None
    is_plain: bool = False
    prefix: str = ""
    suffix: str = ""
    trigger: str = ""

    @property
    def fingerprint(self) -> str:
        """Name the request: rows of another one are not its own."""
        asked = [self.prompt, self.system, self.model, self.max_tokens, self.schema]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def columns(self) -> list[str]:
        """Name the fields that the schema asks for."""
        return list((self.schema or {}).get("properties", {}))

    def body(self, images: list[str], videos: list[str], path: str, *, files: Sequence[str] = ()) -> dict[str, Any]:
        """Write the request for a job."""
        sampling: dict[str, Any] = {"max_tokens": self.max_tokens} if self.max_tokens else {}
        if self.schema is not None:
            sampling["response_format"] = {"type": "json_schema", "json_schema": {"name": "row", "schema": self.schema}}
        more = {"model": self.model, "sampling": sampling or None, "metadata": {"path": path[:1000]}}
        return body_with(self.prompt, images, videos, files, system=self.system, **more)

    def key(self, path: str, sha256: str, *, run: int, series: str) -> str:
        """Name the job: the same file and request give the same name, whatever the upload's id."""
        parts = [path, sha256, self.fingerprint, str(run), series]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def trimmed(self, text: str) -> str:
        """Give the text of the row."""
        if self.schema is not None:
            return text
        text = plain(text) if self.is_plain or self.preset in _PLAIN else text.strip()
        if self.trigger and self.trigger.lower() not in text.lower():
            text = f"{self.trigger}, {text}"
        return f"{self.prefix}{text}{self.suffix}"
