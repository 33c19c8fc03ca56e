"""What is odd about a text, and how it is trimmed. Pure.

The flags: ``refusal`` the model says that it will not; ``repetition`` it says the same again and again; ``truncated`` the
limit of tokens cut it off; ``too_short``; ``wrong_language`` other than that of the prompt; ``preamble`` it talks before it
describes; ``not_json`` a schema was given, and this is not JSON of it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

_REFUSAL = re.compile(
    r"^\W*(i(['’]m| am) (sorry|unable|not able)|sorry\b|i (can(['’]t|not| not)|won['’]t)|as an ai\b|unfortunately,? i\b)"
    r"|(抱歉|对不起|我(无法|不能|没办法)|作为(一个|一名)?(AI|人工智能|语言模型))",
    re.IGNORECASE,
)
#: A refusal stands at the start; further in, a text may speak of anything.
_START_CHARS = 60
_CHATTER = re.compile(
    r"^\W*((sure|certainly|of course|okay|absolutely)\b[^:\n]{0,80}?[:!.,]\s*)?"
    r"(here(['’]s| is| are)\b[^:\n]{0,120}:\s*|(sure|certainly|of course)\b[!.,:]\s*)"
    r"|^\W*((好的|当然(可以)?|没问题)[，,。！!：:]\s*)?((以下|下面)是[^：:\n]{0,40}[：:]\s*)|^\W*(好的|当然(可以)?|没问题)[，,。！!：:]\s*",
    re.IGNORECASE,
)
_SHOWS = re.compile(
    r"^\W*(in )?(the|this) (image|picture|photo|photograph|video)"
    r"( (shows|depicts|features|displays|captures|contains|is of)|,| there)\s+"
    r"|^\W*(这|该|此)?(张|幅|段)?(图片|照片|图像|画面|图|视频)((中|里|上)?(展示|显示|描绘|呈现|拍摄|描述)(了|的是)?|中|里)[，,：:]?\s*",
    re.IGNORECASE,
)
_MARKDOWN = re.compile(r"^\s{0,3}(#{1,6}\s+|[-*+]\s+|>\s+|\d+\.\s+)|\*\*|__|`+", re.MULTILINE)
_AGAIN = re.compile(r"(.{4,120}?)\1{3,}", re.DOTALL)
_SENTENCE = re.compile(r"[.!?。！？\n]+")
_SAME_SENTENCES = 4
_HAN, _LETTER, _SIGN = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[^\W\d_]"), re.compile(r"[^\W_]")
#: A prompt that names a language may ask for another one than its own.
_NAMES_LANGUAGE = re.compile(
    r"\b(english|chinese|mandarin|japanese|korean|french|german|spanish|russian)\b|英文|英语|中文|汉语|日文|日语|韩文|韩语|法语|德语",
    re.IGNORECASE,
)
_MOSTLY = 0.5
_FEW_HAN, _FEW_LETTERS = 2, 4


def flags_of(text: str, *, prompt: str, finish_reason: str | None, schema: bool = False) -> list[str]:
    """Name what is odd about a text.

    Args:
        text: as the model said it.
        prompt: what it was asked.
        finish_reason: why it ends.
        schema: it should be JSON.
    """
    found = {
        "refusal": bool(_REFUSAL.search(text[:_START_CHARS])),
        "repetition": _repeats(text),
        "truncated": finish_reason == "length",
        "too_short": len(_HAN.findall(text)) < _FEW_HAN and len(_SIGN.findall(text)) < _FEW_LETTERS and not schema,
        "wrong_language": not schema and _is_foreign(text, prompt),
        "preamble": bool(_CHATTER.match(text)),
        "not_json": schema and fields_of(text) is None,
    }
    return [flag for flag, is_so in found.items() if is_so]


def plain(text: str) -> str:
    """Take off what is said before the description, and the marks of Markdown; the rest becomes one line."""
    bare = _MARKDOWN.sub("", _CHATTER.sub("", text, count=1))
    described = _SHOWS.sub("", bare, count=1) if _SHOWS.match(bare) else bare
    joined = " ".join(described.split())
    return joined[:1].upper() + joined[1:]


def fields_of(text: str) -> dict[str, Any] | None:
    """Read a text as a JSON object; None where it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _repeats(text: str) -> bool:
    if (found := _AGAIN.search(text)) and _LETTER.search(found.group(1)):
        return True
    sentences = Counter(sentence.strip() for sentence in _SENTENCE.split(text) if _LETTER.search(sentence))
    return any(count >= _SAME_SENTENCES for count in sentences.values())


def _is_foreign(text: str, prompt: str) -> bool:
    if _NAMES_LANGUAGE.search(prompt):
        wants_han = bool(re.search(r"中文|汉语|\b(chinese|mandarin)\b", prompt, re.IGNORECASE))
        wants_other = bool(re.search(r"英文|英语|\benglish\b", prompt, re.IGNORECASE))
        if wants_han == wants_other:
            return False
    else:
        wants_han = _share_of_han(prompt) > 0
    letters = len(_LETTER.findall(text))
    if letters < _FEW_LETTERS:
        return False
    return _share_of_han(text) < _MOSTLY / 2 if wants_han else _share_of_han(text) > _MOSTLY


def _share_of_han(text: str) -> float:
    """Give the share of Chinese characters; one counts as much as two letters, which is about what it says."""
    han, letters = len(_HAN.findall(text)), len(_LETTER.findall(text))
    return 2 * han / (letters + han) if letters else 0.0
