"""What is told of a picture or video is what the model was shown."""

from __future__ import annotations

import pytest
from PIL import Image

from shared.media_report import Medium
from tests.media import RED, clip, encode, picture
from worker.engines.base import Conversation, PixelLimits
from worker.engines.sizes import vision_tokens
from worker.media.frame_sampling import FrameSampling, decode_video
from worker.media.pictures import Bounds, decode_image
from worker.media_report import media_of, warnings_of

BOUNDS = Bounds(28, 784, 1280 * 784, 200_000_000)
LIMITS = PixelLimits(14, 28, 784, 1280 * 784, 784, 768 * 784)


def said(*media: object) -> Conversation:
    parts = [{"type": "video" if hasattr(medium, "frames") else "image"} for medium in media]
    for part, medium in zip(parts, media, strict=True):
        part[part["type"]] = medium  # type: ignore[assignment]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}]


@pytest.mark.parametrize(
    ("orientation", "turned_deg", "mirrored"),
    [
        (1, 0, False),
        (2, 0, True),
        (3, 180, False),
        (4, 180, True),
        (5, 270, True),
        (6, 90, False),
        (7, 90, True),
        (8, 270, False),
    ],
)
def test_a_picture_tells_its_size_and_turn(orientation: int, turned_deg: int, mirrored: bool) -> None:  # noqa: FBT001
    exif = Image.Exif()
    exif[0x0112] = orientation
    conversation = said(decode_image(picture(RED, (640, 480), "JPEG", exif=exif), BOUNDS))

    (medium,) = media_of(conversation, LIMITS)

    shown = (644, 476) if orientation < 5 else (476, 644)
    assert medium == Medium(
        kind="image",
        source_px=(640, 480),
        turned_deg=turned_deg,
        mirrored=mirrored,
        shown_px=shown,
        vision_tokens=23 * 17,
    )
    assert vision_tokens(conversation, LIMITS) == 23 * 17


def test_a_video_tells_its_frames_and_times() -> None:
    film = decode_video(clip([5 * n for n in range(50)], size=(112, 56)), BOUNDS, FrameSampling(2.0, None, 64))

    (medium,) = media_of(said(film), LIMITS)

    assert medium.model_dump() == {
        "kind": "video",
        "source_px": (112, 56),
        "turned_deg": 0,
        "mirrored": False,
        "shown_px": (112, 56),
        "vision_tokens": 5 * 4 * 2,
        "frames": 10,
        "times_s": [0.0, 0.5, 1.1, 1.6, 2.2, 2.7, 3.3, 3.8, 4.4, 4.9],
        "fps": 2.0,
    }
    assert warnings_of(said(film)) == []


def test_what_was_left_out_is_told() -> None:
    long = decode_video(clip([0] * 40, rate=1, size=(28, 28)), BOUNDS, FrameSampling(2.0, None, 16))
    jpeg = encode(Image.effect_noise((300, 300), 90).convert("RGB"), "JPEG")
    cut = decode_image(jpeg[: len(jpeg) * 9 // 10], BOUNDS)
    whole = decode_image(jpeg, BOUNDS)

    assert warnings_of(said(whole)) == []
    assert warnings_of(said(long)) == ["frames_thinned"]
    assert warnings_of(said(whole, cut)) == ["end_missing"]
    assert warnings_of(said(cut, long)) == ["frames_thinned", "end_missing"]
