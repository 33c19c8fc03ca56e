"""What an output says of what the model was shown; and files that nobody could serve, which are refused in words."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

from demo.scenes import clip, scene
from tests.field.pictures import SCENES, TURNED
from tests.field.table import Answer, Kind, Row, says, send
from tests.field.videos import film
from tests.media import encode

#: EXIF's orientation -> how far a picture is turned clockwise after it was mirrored, or not.
TURNS = {
    1: (0, False),
    2: (0, True),
    3: (180, False),
    4: (180, True),
    5: (270, True),
    6: (90, False),
    7: (90, True),
    8: (270, False),
}


def rows() -> Iterator[Row]:
    """Give the rows."""
    yield from _pictures()
    yield from _videos()
    yield from _refused()


def _pictures() -> Iterator[Row]:
    for orientation, (turned_deg, mirrored) in TURNS.items():
        drawn, exif = scene(SCENES[orientation]), Image.Exif()
        exif[0x0112] = orientation
        stored = drawn.picture if orientation == 1 else drawn.picture.transpose(TURNED[orientation])
        wanted = {"kind": "image", "source_px": list(stored.size), "turned_deg": turned_deg, "mirrored": mirrored}
        ask = send(encode(stored, "JPEG", quality=90, exif=exif), "image", "job")
        yield Row("shown", f"a picture of orientation {orientation}", ask, _tells(wanted, drawn.truth))


def _videos() -> Iterator[Row]:
    for seed in range(4):
        drawn = clip(seed)
        wanted = {"kind": "video", "source_px": list(drawn.frames[0].size), "turned_deg": 0, "frames": 8}
        yield Row("shown", f"video {seed}", send(drawn.mp4(), "video", "job"), _tells(wanted, drawn.truth))


def _tells(wanted: dict[str, Any], truth: Any) -> Callable[[Answer], str]:
    def judge(answer: Answer) -> str:
        output = answer.body.get("output") or {}
        (medium,) = output.get("media") or [{}]
        wrong = {name: medium.get(name) for name, value in wanted.items() if medium.get(name) != value}
        if wrong:
            return f"says {wrong}, not {wanted}"
        if medium["vision_tokens"] != output["usage"]["vision_tokens"] or not medium["vision_tokens"]:
            return f"{medium['vision_tokens']} vision tokens, used {output['usage']}"
        return says(truth)(answer)

    return judge


def _refused() -> Iterator[Row]:
    half = encode(Image.effect_noise((400, 300), 90).convert("RGB"), "JPEG")
    large = [Image.new("RGB", (7680, 4320)) for _ in range(2)]
    files: list[tuple[str, bytes, Kind, str]] = [
        ("a PDF as a picture", _pdf(), "image", "PDF"),
        ("an SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image", "SVG"),
        ("a web page", b"<!doctype html><html>Please sign in</html>", "image", "web page"),
        ("a JPEG XL", b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(50), "image", "JPEG XL"),
        ("half a JPEG", half[: len(half) * 4 // 10], "image", "end is missing"),
        ("an 8K video", film("mp4", "libx264", large, rate=1), "video", "7680 x 4320"),
        ("a video as a picture", clip(0).mp4(), "image", "used as a picture"),
        ("a strip of 4000 x 4", encode(Image.new("RGB", (4000, 4))), "image", "too narrow"),
    ]
    for name, data, kind, words in files:
        yield Row("refused", name, send(data, kind, "chat"), _no_answer, refusal=words)


def _no_answer(_: Answer) -> str:
    return "was answered"


def _pdf() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PDF")
    return file.getvalue()
