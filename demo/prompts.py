"""What people ask a model that describes pictures, in English and in Chinese.

Training needs many ways to ask, so that the model learns "answer in the language of the question" and not a list of
sentences: half of the prompts come from a list of usual ones, half from two small grammars.
"""

import random
from typing import Literal

from demo.captions import Language

Medium = Literal["image", "video"]

SYSTEM = "You are a helpful assistant."
SYSTEMS = (
    "You are a helpful assistant.",
    "你是一个有用的助手。",
    "You describe pictures and videos.",
    "你是一个描述图片和视频的助手。",
    "Answer briefly.",
    "请简短回答。",
)
USUAL: dict[tuple[Medium, Language], tuple[str, ...]] = {
    ("image", "en"): (
        "Describe this image.",
        "Describe this picture.",
        "What do you see?",
        "What is in this image?",
        "What is in this picture?",
        "Please describe this image.",
        "Describe the image in English.",
        "请用英文描述一下这张图片",
    ),
    ("image", "zh"): (
        "请用中文描述一下这张图片",
        "描述这张图片",
        "图片里有什么？",
        "请描述这张图片。",
        "这张图片里有什么？",
        "你看到了什么？",
        "请用中文描述这张图片。",
        "Describe this image in Chinese.",
    ),
    ("video", "en"): (
        "Describe this video.",
        "What happens in this video?",
        "Please describe this video.",
        "What do you see?",
        "Describe the video in English.",
        "请用英文描述一下这段视频",
    ),
    ("video", "zh"): (
        "请描述这段视频",
        "请用中文描述一下这段视频",
        "描述这段视频",
        "视频里有什么？",
        "视频里发生了什么？",
        "Describe this video in Chinese.",
    ),
}
_NOUNS: dict[tuple[Medium, Language], tuple[str, ...]] = {
    ("image", "en"): ("image", "picture", "photo", "drawing", "scene"),
    ("image", "zh"): ("图片", "图", "照片", "图像", "画面"),
    ("video", "en"): ("video", "clip", "film", "scene"),
    ("video", "zh"): ("视频", "短片", "录像", "画面"),
}
_ENGLISH = (
    ("", "Please ", "Can you ", "Could you ", "Hello, ", "I want you to "),
    ("describe ", "explain ", "show me ", "tell me about ", "look at ", "caption ", "say what is in "),
    ("this ", "the ", "my ", "this ", "the "),
    (),
    ("", "", " in detail", " briefly", " in one sentence", " for me", " in English", ", please"),
    (".", ".", "?", "", "!"),
)
_CHINESE = (
    ("", "请", "请你", "帮我", "你好，", "麻烦"),
    ("", "用中文", "简单", "详细", "用一句话", "仔细"),
    ("描述", "描述一下", "说说", "介绍一下", "看看", "讲一讲", "说明", "告诉我"),
    ("这张", "这个", "这幅", "这段", "", "我的"),
    (),
    ("", "", "的内容", "里有什么", "中有哪些东西", "里的形状"),
    ("", "", "。", "？", "！"),
)
CHAT: dict[Language, tuple[str, ...]] = {
    "en": ("Hello", "Hello!", "Hi", "Who are you?", "What can you do?", "Tell me a story.", "Thank you."),
    "zh": ("你好", "你好！", "你是谁？", "你能做什么？", "讲一个故事。", "谢谢", "谢谢你。"),
}


def prompt(rng: random.Random, medium: Medium, language: Language) -> str:
    """Make a question whose answer is due in ``language``.

    Args:
        rng: source of chance.
        medium: what it is asked about.
        language: of the answer; a few questions name it and are themselves in the other language.

    Returns:
        The text of a user's message.
    """
    if rng.random() < 0.5:
        return rng.choice(USUAL[medium, language])
    grammar = _ENGLISH if language == "en" else _CHINESE
    text = "".join(rng.choice(words or _NOUNS[medium, language]) for words in grammar)
    return text[0].upper() + text[1:] if rng.random() < 0.8 else text


def small_talk(rng: random.Random, language: Language) -> str:
    """Make a question that comes without a picture, about one or not."""
    if rng.random() < 0.5:
        return rng.choice(CHAT[language])
    return prompt(rng, rng.choice(("image", "video")), language)


def vocabulary() -> list[str]:
    """List what is said often, in pieces that a tokenizer may make into single tokens."""
    english = [text for texts in (SYSTEMS, *USUAL.values(), *CHAT.values()) for text in texts if text.isascii()]
    pieces = [" " + word.strip() if word.isascii() else word for words in (*_ENGLISH, *_CHINESE) for word in words]
    pieces += [" " + word if word.isascii() else word for words in _NOUNS.values() for word in words]
    return [*english, *(piece for piece in pieces if piece.strip()), *_MORE]


_MORE = ("你", "什么", "里", "有什么", "发生了", "看到了", "用英文", "回答", "助手", "是")
