"""Large pictures and long ones: scaled while they are decoded, and the same as if they had been decoded whole."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops, ImageDraw

from shared.errors import MediaTooLarge, MediaUnreadable, UnsupportedMedia
from tests.media import RED, encode, heic, picture
from worker.media import picture_formats, picture_reader
from worker.media.jpeg_reader import JpegReader
from worker.media.picture_headers import webp_size, without_ballast
from worker.media.pictures import Bounds, Pixels, decode_image

BOUNDS = Bounds(28, 28 * 28, 1280 * 28 * 28, 200_000_000)
PAPER, INK = (226, 226, 222), (216, 36, 40)


def scene(size: tuple[int, int]) -> Image.Image:
    """Draw a red circle whose middle stands at a quarter of the width and three quarters of the height."""
    (width, height), image = size, Image.new("RGB", size, PAPER)
    x, y, r = width / 4, height * 3 / 4, min(size) / 8
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=INK)
    return image


def shows_it(pixels: Pixels) -> bool:
    """Compare with the scene as it would have been drawn at that size."""
    wanted = scene((pixels.width_px, pixels.height_px))
    off = ImageChops.difference(pixels.as_image(), wanted).convert("L").point(lambda value: 255 * (value > 60))
    return off.histogram()[255] < 0.01 * pixels.width_px * pixels.height_px


@pytest.mark.parametrize("size", [(8160, 6144), (8192, 6144), (6144, 8192), (12_000, 9000), (16_320, 12_240)])
def test_the_jpegs_of_phones_are_taken(size: tuple[int, int]) -> None:
    assert shows_it(decode_image(encode(scene(size), "JPEG", quality=60), BOUNDS))


@pytest.mark.parametrize("most_px", [28 * 28 * 16, 640 * 28 * 28, 16_384 * 28 * 28])
def test_a_large_jpeg_comes_out_at_any_size(most_px: int) -> None:
    bounds = Bounds(28, 28 * 28, most_px, 200_000_000)

    pixels = decode_image(encode(scene((9000, 7000)), "JPEG", quality=60), bounds)

    assert most_px // 2 < pixels.width_px * pixels.height_px <= most_px
    assert shows_it(pixels)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000"])
@pytest.mark.parametrize("size", [(1080, 16_000), (15_000, 700)])
def test_what_is_long_is_scaled(image_format: str, size: tuple[int, int]) -> None:
    assert shows_it(decode_image(encode(scene(size), image_format), BOUNDS))


def test_a_screenshot_of_a_whole_page_is_scaled() -> None:
    assert shows_it(decode_image(encode(scene((1080, 32_000)), "JPEG"), BOUNDS))


@pytest.mark.parametrize("size", [(4000, 3000), (6000, 4000), (5000, 7000)])
@pytest.mark.parametrize("options", [{"quality": 60, "method": 0}, {"lossless": True, "method": 0, "quality": 0}])
def test_a_large_webp_is_taken(size: tuple[int, int], options: dict[str, int]) -> None:
    data = encode(scene(size), "WEBP", **options)

    assert webp_size(data) == size
    assert shows_it(decode_image(data, BOUNDS))


@pytest.mark.parametrize("options", [{"quality": 95}, {"lossless": True}, {"lossless": True, "exact": True}])
@pytest.mark.parametrize("orientation", [1, 6, 7])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_webp_is_the_same_either_way(
    options: dict[str, int], orientation: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, exif = scene((392, 280)), Image.Exif()
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    exif[0x0112] = orientation
    data = encode(image, "WEBP", exif=exif, **options)

    by_libwebp = decode_image(data, BOUNDS)
    monkeypatch.setattr(picture_formats, "_LARGE_WEBP_PX", 0)
    by_ffmpeg = decode_image(data, BOUNDS)

    difference = ImageChops.difference(by_libwebp.as_image(), by_ffmpeg.as_image())
    assert max(sum(band.get_flattened_data()) / (392 * 280) for band in difference.split()) < 3.0


def test_a_large_webp_that_moves_or_lies_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_formats, "_LARGE_WEBP_PX", 0)
    moving = encode(scene((84, 56)), "WEBP", save_all=True, append_images=[scene((56, 84)).resize((84, 56))], duration=100)
    with pytest.raises(MediaTooLarge, match="animated"):
        decode_image(moving, BOUNDS)
    lying = bytearray(picture(RED, (84, 56), "WEBP", exif=Image.Exif(), quality=80, icc_profile=b"x"))
    lying[24:30] = bytes([200, 0, 0, 200, 0, 0])
    with pytest.raises(MediaUnreadable):
        decode_image(bytes(lying), BOUNDS)


def test_a_phones_heic_is_reduced_in_bands() -> None:
    assert shows_it(decode_image(heic(scene((4032, 3024)), quality=40, enc_params={"preset": "ultrafast"}), BOUNDS))


@pytest.mark.parametrize("size", [(7000, 5000), (4321, 2777), (4000, 3000), (3000, 2000), (900, 700)])
def test_of_a_jpeg_2000_only_the_levels_that_are_wanted_are_decoded(size: tuple[int, int]) -> None:
    assert shows_it(decode_image(encode(scene(size), "JPEG2000", irreversible=True, quality_layers=[60]), BOUNDS))


def test_what_is_too_large_for_its_kind_says_what_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_reader, "MAX_WHOLE_PX", 100 * 100)
    for image_format in ("PNG", "WEBP", "TIFF"):
        with pytest.raises(MediaTooLarge, match=r"101 x 100 px.*JPEG"):
            decode_image(picture(RED, (101, 100), image_format), BOUNDS)
    with pytest.raises(MediaTooLarge, match=r"101 x 100 px.*JPEG"):
        decode_image(heic(Image.new("RGB", (101, 100))), BOUNDS)


def test_the_limit_names_its_setting() -> None:
    with pytest.raises(MediaTooLarge, match="SIGHTLINE_MAX_IMAGE_PIXELS"):
        decode_image(picture(RED, (200, 100)), Bounds(28, 784, 784, 10_000))


@pytest.mark.parametrize("share", [0.8, 0.9, 0.97])
@pytest.mark.parametrize("size", [(400, 300), (4000, 3000)])
def test_a_jpeg_may_lack_its_end(share: float, size: tuple[int, int]) -> None:
    noise = Image.effect_noise((size[0] // 4, size[1] // 4), 90).resize(size).convert("RGB")
    data = encode(noise, "JPEG")

    pixels = decode_image(data[: int(share * len(data))], BOUNDS).as_image()

    whole = decode_image(data, BOUNDS).as_image()
    there = (0, 0, whole.width, int(whole.height * (share - 0.08)))
    assert ImageChops.difference(pixels.crop(there), whole.crop(there)).convert("L").getextrema()[1] < 30  # type: ignore[operator]
    low, high = pixels.crop((0, whole.height - 4, whole.width, whole.height)).convert("L").getextrema()
    assert high - low > 60  # type: ignore[operator]  # more of the same, and no grey band


@pytest.mark.parametrize("ground", [(255, 255, 255), (0, 0, 0), (226, 226, 222), (40, 90, 200)])
def test_a_plain_ground_is_not_taken_for_what_is_missing(ground: tuple[int, int, int]) -> None:
    image = Image.new("RGB", (400, 400), ground)
    image.paste(INK, (20, 20, 120, 60))
    data = encode(image, "JPEG", quality=90)

    pixels = decode_image(data[:-2], BOUNDS)

    assert ImageChops.difference(pixels.as_image(), decode_image(data, BOUNDS).as_image()).convert("L").getextrema()[1] < 4  # type: ignore[operator]


def test_a_jpeg_of_which_too_much_is_missing_says_how_much() -> None:
    data = encode(Image.effect_noise((400, 300), 90).convert("RGB"), "JPEG")

    with pytest.raises(MediaUnreadable, match=r"end is missing, and with it [56]\d%"):
        decode_image(data[: len(data) * 4 // 10], BOUNDS)


def test_a_cameras_raw_file_is_refused_by_its_name() -> None:
    thumbnail = encode(scene((160, 120)), "TIFF", tiffinfo={254: 1})
    negative = encode(scene((160, 120)), "TIFF", tiffinfo={50706: b"\x01\x04\x00\x00"})

    for data in (thumbnail, negative):
        with pytest.raises(UnsupportedMedia, match="raw file"):
            decode_image(data, BOUNDS)


def test_a_png_without_ballast_is_not_copied() -> None:
    data = picture()

    assert without_ballast(data) is data
    assert without_ballast(data[:40]) == data[:40]


@pytest.mark.parametrize("cut_bytes", [20, 30, 40, 50, 60])
def test_a_jpeg_without_its_last_blocks_goes_on_as_it_ended(cut_bytes: int) -> None:
    drawn = scene((325, 250))
    reader = JpegReader(encode(drawn, "JPEG")[:-cut_bytes])

    shown, _ = reader.shrunk(drawn.size)

    assert reader.lacks_end
    assert (
        max(high for _, high in ImageChops.difference(shown.convert("RGB"), drawn).crop((0, 240, 325, 250)).getextrema()) < 20
    )
