"""Scenes: the truth is legible, unambiguous, and comes back out of the captions."""

import io
import itertools
import math

import av
import pytest
from PIL import Image

from demo.captions import PLACES, Motion, Shape
from demo.scenes import EVALUATION_SEEDS, TRAINING_SEEDS, clip, read_caption, scene

LANGUAGES = ("en", "zh")


def test_a_seed_is_a_test_case():
    one, other = scene(7), scene(7)
    assert one.shapes == other.shapes
    assert one.png() == other.png()
    assert clip(7).motion == clip(7).motion
    assert scene(7).png() != scene(8).png()


def test_training_and_evaluation_share_no_seed():
    assert EVALUATION_SEEDS.stop <= TRAINING_SEEDS.start


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_come_back_as_truth(language):
    for seed in range(300):
        assert read_caption(scene(seed).caption(language), language) == scene(seed).truth
        assert read_caption(clip(seed).caption(language), language) == clip(seed).truth


def test_captions_read_as_people_write():
    star, ring = Shape("star", "blue", "small", "in the centre"), Shape("ring", "orange", "large", "on the right")
    assert read_caption("A small blue star in the centre, and a large orange ring on the right.", "en") == (star, ring)
    assert read_caption("中间有一个蓝色的小星形，右边有一个橙色的大圆环。", "zh") == (star, ring)
    assert read_caption("An orange ring moves up.", "en") == Motion("ring", "orange", "up")
    assert read_caption("一个橙色的圆环向上移动。", "zh") == Motion("ring", "orange", "up")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "en"),
        ("There is no picture.", "en"),
        ("A small blue star in the centre", "en"),
        ("A small blue star in the centre. A small", "en"),
        ("A blue star in the centre.", "en"),
        ("A small blue star in the centre.", "zh"),
        ("中间有一个蓝色的小星形。", "en"),
        ("中间有一个蓝色的小星形，", "zh"),
        ("An blue star moves right.", "en"),
    ],
)
def test_what_is_no_caption_is_not_read_as_one(text, language):
    assert read_caption(text, language) is None


def test_shapes_are_in_the_picture_apart_and_well_inside_their_places():
    for drawn in map(scene, range(300)):
        width, height = drawn.picture.size
        assert 200 <= min(width, height) <= max(width, height) <= 500
        assert max(width, height) / min(width, height) <= 1.6
        assert 1 <= len(drawn.shapes) <= 3
        places = [tuple(PLACES).index(shape.place) for shape in drawn.shapes]
        assert places == sorted(set(places))
        for shape, place in zip(drawn.shapes, places, strict=True):
            x, y = shape.centre_px
            row, column = divmod(place, 3)
            assert 0.1 < x / width * 3 - column < 0.9
            assert 0.1 < y / height * 3 - row < 0.9
            assert shape.radius_px <= min(x, y, width - x, height - y)
        for one, other in itertools.combinations(drawn.shapes, 2):
            assert math.dist(one.centre_px, other.centre_px) > one.radius_px + other.radius_px


def test_sizes_are_far_from_each_other():
    radii = {"small": [], "large": []}
    for drawn in map(scene, range(200)):
        for shape in drawn.shapes:
            radii[shape.size].append(shape.radius_px / math.sqrt(drawn.picture.width * drawn.picture.height))
    assert max(radii["small"]) * 1.35 < min(radii["large"])


def test_every_word_occurs():
    seen = {word for seed in range(300) for s in scene(seed).shapes for word in (s.kind, s.colour, s.size, s.place)}
    assert len(seen) == 6 + 7 + 2 + 9
    assert len({clip(seed).direction for seed in range(50)}) == 4


def test_scenes_encode_and_decode():
    drawn = scene(3)
    assert Image.open(io.BytesIO(drawn.png())).size == drawn.picture.size
    assert Image.open(io.BytesIO(drawn.jpeg())).format == "JPEG"


def test_a_clip_moves_as_it_says_and_lasts_four_seconds():
    for made in map(clip, range(40)):
        (x0, y0), (x1, y1) = made.centre_px(0), made.centre_px(made.length - 1)
        way = {"to the right": x1 - x0, "to the left": x0 - x1, "down": y1 - y0, "up": y0 - y1}
        assert max(way, key=way.get) == made.direction
        assert made.length / made.fps == 4


def test_a_clip_is_a_video_that_decodes():
    made = clip(5)
    with av.open(io.BytesIO(made.mp4())) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == len(made.frames) == 32
    assert (frames[0].width, frames[0].height) == made.frames[0].size
