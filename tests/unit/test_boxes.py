"""Boxes come back to where things stand in the file that was sent: a mark is drawn, decoded, found again, and pointed at."""

from __future__ import annotations

import json
from functools import cache

import pytest
from PIL import Image

from shared.media_report import Box, Medium
from tests.media import encode, heic
from worker.boxes import MOST_BOXES, Measure, boxes_in
from worker.media.pictures import Bounds, Pixels, decode_image

#: Families by the side of a vision token, the tokens that a picture may have, and how they measure.
FAMILIES: dict[str, tuple[int, tuple[int, int], Measure]] = {
    "Qwen2-VL": (28, (256, 1280), "thousandths"),
    "Qwen2.5-VL": (28, (256, 1280), "pixels"),
    "Qwen2.5-VL, small": (28, (4, 64), "pixels"),
    "Qwen3-VL": (32, (256, 1280), "thousandths"),
}
SIZES = [(64, 48), (333, 777), (1024, 768), (1920, 1080), (700, 4000), (2048, 2048)]
MARK = (0.25, 0.5, 0.375, 0.6875)  #: left, top, right, bottom as shares of the stored picture


def medium(pixels: Pixels) -> Medium:
    source = pixels.source
    assert source is not None
    return Medium(
        kind="image",
        source_px=(source.width_px, source.height_px),
        turned_deg=source.turned_deg,
        mirrored=source.mirrored,
        shown_px=(pixels.width_px, pixels.height_px),
        vision_tokens=1,
    )


@cache
def stored(size: tuple[int, int], orientation: int) -> bytes:
    """Give a marked picture as a file, which every family is shown."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(marked(size)[0], "PNG", exif=exif, compress_level=1)


@cache
def marked(size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int, int, int]]:
    image, (width, height) = Image.new("RGB", size, "white"), size
    left, top, right, bottom = MARK
    mark = (round(left * width), round(top * height), round(right * width), round(bottom * height))
    image.paste((0, 0, 0), mark)
    return image, mark


def found(pixels: Pixels) -> tuple[int, int, int, int]:
    """Find the mark in what the model is shown, as a perfect model would."""
    dark = pixels.as_image().convert("L").point(lambda value: 255 * (value < 128))
    box = dark.getbbox()
    assert box is not None
    return box


def said(box: tuple[int, int, int, int], shown: tuple[int, int], measure: Measure) -> list[float]:
    scale = [1.0, 1.0] if measure == "pixels" else [1000 / shown[0], 1000 / shown[1]]
    return [round(number * scale[n % 2]) for n, number in enumerate(box)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", SIZES)
def test_a_box_comes_back_to_where_it_was_drawn(size: tuple[int, int], orientation: int, family: str) -> None:
    factor, tokens, measure = FAMILIES[family]
    _, mark = marked(size)
    bounds = Bounds(factor, tokens[0] * factor**2, tokens[1] * factor**2, 200_000_000)

    pixels = decode_image(stored(size, orientation), bounds)
    shown = pixels.width_px, pixels.height_px
    numbers = said(found(pixels), shown, measure)
    text = json.dumps([{"bbox_2d": numbers, "label": "标记"}, {"point_2d": numbers[:2], "label": "a corner"}])
    box, point = boxes_in(text, [medium(pixels)], measure)

    # A pixel of what was shown, or a thousandth, and one for rounding.
    upright = size if orientation < 5 else size[::-1]
    steps = shown if measure == "pixels" else (min(1000, shown[0]), min(1000, shown[1]))
    off = 1 + max(upright[0] / steps[0], upright[1] / steps[1])
    assert box.label == "标记"
    assert box.box is not None
    assert all(abs(one - other) <= off for one, other in zip(box.box, mark, strict=True)), (box.box, mark)
    corners = [(x, y) for x in mark[::2] for y in mark[1::2]]
    assert point.point is not None
    assert min(max(abs(point.point[0] - x), abs(point.point[1] - y)) for x, y in corners) <= off


def test_a_heic_is_measured_as_it_is_shown() -> None:
    image, mark = marked((400, 300))

    pixels = decode_image(heic(image), Bounds(28, 784, 1280 * 784, 10**8))
    (box,) = boxes_in(json.dumps({"bbox_2d": list(found(pixels))}), [medium(pixels)], "pixels")

    assert box.box is not None
    assert all(abs(one - other) <= 2 for one, other in zip(box.box, mark, strict=True))


PLAIN = Medium(kind="image", source_px=(2000, 1000), shown_px=(1000, 500), vision_tokens=1)
A_BOX = Box(label="cat", box=(20, 40, 200, 400))


@pytest.mark.parametrize(
    "text",
    [
        '[{"bbox_2d": [10, 20, 100, 200], "label": "cat"}]',
        '{"bbox_2d": [10, 20, 100, 200], "label": "cat"}',
        '```json\n[\n\t{"bbox_2d": [10, 20, 100, 200], "label": "cat"}\n]\n```',
        'Here it is: {"label": "cat", "bbox_2d": [10.0, 20.0, 100.2, 199.8]} as you asked.',
        '{"objects": [{"label": "cat", "bbox_2d": [10, 20, 100, 200]}]}',
        '[{"bbox_2d": [10, 20, 100, 200], "label": "cat"}, {"bbox_2d": [300, 10, 4',
        "[{'bbox_2d': [10, 20, 100, 200], 'label': 'cat'}]",
        '{"bbox_2d": [[10, 20, 100, 200]], "label": "cat"}',
        '{"bbox_2d": [100, 200, 10, 20], "label": "cat"}',
        '{"bbox": [10, 20, 100, 200], "text_content": "cat"}',
        '{{{"bbox_2d": [10, 20, 100, 200], "label": "cat"}',
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(10,20),(100,200)<|box_end|>",
        "cat(10,20),(100,200)",
        "- cat: (10, 20), (100, 200)",
    ],
)
def test_a_box_is_found_however_it_is_written(text: str) -> None:
    assert boxes_in(text, [PLAIN], "pixels") == [A_BOX]


@pytest.mark.parametrize(
    "text",
    [
        '{"point_2d": [10, 20], "label": "cat"}',
        '<points x1="10" y1="20" alt="cat">cat</points>',
        "{'point': [10, 20], 'name': 'cat'}",
    ],
)
def test_so_is_a_point(text: str) -> None:
    assert boxes_in(text, [PLAIN], "pixels") == [Box(label="cat", point=(20, 40))]


def test_thousandths_are_of_each_side() -> None:
    text = '{"bbox_2d": [100, 100, 500, 1000]}'

    assert boxes_in(text, [PLAIN], "thousandths") == [Box(box=(200, 100, 1000, 1000))]


def test_what_lies_beyond_the_picture_is_moved_to_its_edge() -> None:
    assert boxes_in('{"bbox_2d": [-50, 20, 4000, 9000]}', [PLAIN], "pixels") == [Box(box=(0, 40, 2000, 1000))]


@pytest.mark.parametrize(
    "text",
    [
        "A cat sits on a mat.",
        "{}",
        '{"bbox_2d": []}',
        '{"bbox_2d": [1, 2, 3]}',
        '{"bbox_2d": [1, 2, 3, 4, 5]}',
        '{"bbox_2d": ["a", 2, 3, 4]}',
        '{"bbox_2d": [1, 2, 1, 2]}',
        '{"bbox_2d": [1, 2, 3, NaN]}',
        '{"bbox_2d": [1, 2, 3, 1e999]}',
        '{"bbox_2d": [true, false, true, true]}',
        '{"bbox_2d": "1, 2, 3, 4"}',
        '{"a": ' * 5000,
        "{" * 20_000,
        "{'a': __import__('os')}",
        "{[1, 2]}",
        "{{}: 1}",
        '{"a": 1} ' * 5000,
        '{"{' * 15_000,
        "字" * 50_000,
        "f(1, 2)",
    ],
)
def test_what_is_no_box_gives_none(text: str) -> None:
    assert boxes_in(text, [PLAIN], "pixels") == []


def test_nobody_can_say_which_of_two_pictures_is_meant() -> None:
    text, other = '{"bbox_2d": [10, 20, 100, 200], "label": "cat"}', PLAIN.model_copy(update={"source_px": (1000, 500)})

    assert boxes_in(text, [PLAIN, PLAIN], "pixels") == [A_BOX]
    assert boxes_in(text, [PLAIN, other], "pixels") == []
    assert boxes_in(text, [PLAIN.model_copy(update={"kind": "video"})], "pixels") == []
    assert boxes_in(text, [], "pixels") == []


def test_a_model_that_repeats_itself_fills_nothing() -> None:
    assert len(boxes_in('{"bbox_2d": [1, 2, 3, 4]}' * 5000, [PLAIN], "pixels")) == MOST_BOXES
