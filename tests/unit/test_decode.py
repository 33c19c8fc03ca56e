"""Decoding: sizes as qwen-vl-utils makes them, pixels as a viewer shows them, and nothing but three kinds of refusal."""

from __future__ import annotations

import ast
import importlib.util
import io
import math
import random
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from shared.errors import MediaTooLarge, MediaUnreadable, UnsupportedMedia
from tests.media import BLUE, GREEN, RED, WHITE, Colour, clip, encode, heic, picture, sound
from worker.media.frame_sampling import Frames, FrameSampling, decode_video
from worker.media.pictures import Bounds, Pixels, decode_image, fit

#: Wide enough that a test picture of whole tokens keeps its size.
BOUNDS = Bounds(factor_px=28, min_px=28 * 28, max_px=1280 * 28 * 28, max_source_px=50_000_000)
SAMPLING = FrameSampling(fps=2.0, nframes=None, max_frames=64)


def qwen_smart_resize() -> Callable[..., tuple[int, int]]:
    """Load the function out of the installed package's source; importing the package would import torch."""
    spec = importlib.util.find_spec("qwen_vl_utils")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).with_name("vision_process.py").read_text())
    wanted = {"smart_resize", "round_by_factor", "ceil_by_factor", "floor_by_factor"}
    constants = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    names: dict[str, Any] = {"math": math}
    exec("from typing import *", names)
    exec(compile(ast.Module([*constants, *functions], []), spec.origin, "exec"), names)
    smart_resize: Callable[..., tuple[int, int]] = names["smart_resize"]
    return smart_resize


smart_resize = qwen_smart_resize()


def at(pixels: Pixels, x: float, y: float) -> Colour:
    """Read the pixel at a share of the width and height."""
    return pixels.as_image().getpixel((int(x * pixels.width_px), int(y * pixels.height_px)))  # type: ignore[return-value]


def near(found: Colour, wanted: Colour, *, off: int = 12) -> bool:
    return all(abs(a - b) <= off for a, b in zip(found, wanted, strict=True))


def four_colours(size: tuple[int, int] = (112, 56)) -> Image.Image:
    """Make a picture whose corners are red, green, blue and white, clockwise from the top left."""
    image, (width, height) = Image.new("RGB", size, RED), size
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (width // 2, height // 2, width, height))
    image.paste(WHITE, (0, height // 2, width // 2, height))
    return image


def corners(pixels: Pixels) -> list[Colour]:
    return [at(pixels, x, y) for x, y in ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))]


# --- sizes ---

SIDE = st.one_of(st.integers(1, 700), st.integers(1, 20_000))
SIZES = st.lists(st.tuples(SIDE, SIDE), min_size=20, max_size=20)
FACTOR = st.sampled_from([28, 32, 56])
LIMITS = st.sampled_from([(4, 16_384), (256, 1280), (128, 768), (4, 768), (64, 64), (1, 4)])  # tokens


@hypothesis_settings(max_examples=200)
@given(sizes=SIZES, factor=FACTOR, limits=LIMITS)
@example(sizes=[(28, 5600), (42, 70), (14, 14), (1, 200), (1, 201)], factor=28, limits=(4, 16_384))
@example(sizes=[(1, 200), (199, 1), (98, 98)], factor=28, limits=(256, 1280))
def test_sizes_are_those_of_qwen_vl_utils(sizes: list[tuple[int, int]], factor: int, limits: tuple[int, int]) -> None:
    low, high = (tokens * factor**2 for tokens in limits)
    for height, width in sizes:
        try:
            theirs = smart_resize(height, width, factor, low, high)
        except ValueError:
            with pytest.raises(MediaUnreadable):
                fit(height, width, Bounds(factor, low, high, 0))
            continue
        if min(theirs) > 0:  # theirs can come out without any height; ours keeps one token
            assert fit(height, width, Bounds(factor, low, high, 0)) == theirs


@hypothesis_settings(max_examples=100)
@given(sizes=SIZES, factor=FACTOR, limits=st.sampled_from([(4, 16_384), (256, 1280), (128, 768)]))
def test_a_fitted_size_stays_as_it_is(sizes: list[tuple[int, int]], factor: int, limits: tuple[int, int]) -> None:
    low, high = (tokens * factor**2 for tokens in limits)
    for height, width in sizes:
        if max(height, width) > 100 * min(height, width):
            continue
        once = fit(height, width, Bounds(factor, low, high, 0))

        assert fit(*once, Bounds(factor, low, high, 0)) == once
        assert smart_resize(*once, factor) == once  # with its own wide limits: what qwen-vl-utils does to our pictures
        assert all(side % factor == 0 and side > 0 for side in once)


# --- pictures ---


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("size", [(112, 56), (56, 112)])
def test_every_kind_of_picture_comes_out_as_it_is(image_format: str, size: tuple[int, int]) -> None:
    pixels = decode_image(encode(four_colours(size), image_format), BOUNDS)

    assert (pixels.width_px, pixels.height_px, len(pixels.rgb)) == (*size, size[0] * size[1] * 3)
    for found, wanted in zip(corners(pixels), (RED, GREEN, BLUE, WHITE), strict=True):
        assert near(found, wanted), (image_format, found, wanted)


def test_a_lossless_picture_keeps_every_pixel() -> None:
    image = Image.effect_noise((112, 84), 80).convert("RGB")

    assert decode_image(encode(image), BOUNDS).rgb == image.tobytes()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_comes_out_upright(orientation: int, image_format: str) -> None:
    upright = four_colours()
    lying = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)  # 6 and 8 undo each other, the others themselves
    exif = Image.Exif()
    exif[0x0112] = lying
    stored = ImageOps.exif_transpose(_with(upright, exif))
    exif[0x0112] = orientation

    pixels = decode_image(encode(stored, image_format, exif=exif), BOUNDS)

    assert stored.size == (upright.size if orientation < 5 else upright.size[::-1])
    assert (pixels.width_px, pixels.height_px) == upright.size
    assert all(near(found, wanted) for found, wanted in zip(corners(pixels), (RED, GREEN, BLUE, WHITE), strict=True))


def _with(image: Image.Image, exif: Image.Exif) -> Image.Image:
    return Image.open(io.BytesIO(encode(image, "PNG", exif=exif)))


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation

    pixels = decode_image(encode(four_colours(), "JPEG", exif=exif), BOUNDS)

    assert (pixels.width_px, pixels.height_px) == (112, 56)


def test_a_photo_whose_exif_is_odd_is_decoded_or_refused() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x0128] = 6, 2
    data = bytearray(encode(four_colours(), "JPEG", exif=exif))
    unit = data.index(b"\x01\x28\x00\x03")  # the unit of resolution, a short number
    data[unit + 2 : unit + 4] = b"\x00\x02"  # that now says it is text

    with suppress(MediaUnreadable):
        assert decode_image(bytes(data), BOUNDS).rgb


def test_cmyk_keeps_its_colours() -> None:
    pixels = decode_image(encode(Image.new("CMYK", (56, 56), (0, 255, 255, 0)), "JPEG"), BOUNDS)

    assert near(at(pixels, 0.5, 0.5), (255, 0, 0))


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (256 * 40, 40), (256 * 200 + 7, 200), (65_535, 255)])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(value: int, grey: int) -> None:
    pixels = decode_image(encode(Image.new("I;16", (56, 56), value)), BOUNDS)

    assert near(at(pixels, 0.5, 0.5), (grey,) * 3, off=1)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_plain_modes_are_converted(mode: str) -> None:
    assert at(decode_image(encode(Image.new("RGB", (56, 56), WHITE).convert(mode)), BOUNDS), 0.5, 0.5) == WHITE


def test_transparency_shows_white() -> None:
    image = Image.new("RGBA", (112, 56), (0, 0, 0, 0))
    image.paste((*RED, 255), (56, 0, 112, 56))
    half = Image.new("RGBA", (56, 56), (0, 0, 0, 128))
    grey = Image.new("LA", (56, 56), (0, 0))

    pixels = decode_image(encode(image), BOUNDS)

    assert (at(pixels, 0.2, 0.5), at(pixels, 0.8, 0.5)) == (WHITE, RED)
    assert near(at(decode_image(encode(half), BOUNDS), 0.5, 0.5), (127,) * 3, off=1)
    assert at(decode_image(encode(grey), BOUNDS), 0.5, 0.5) == WHITE
    assert near(at(decode_image(encode(image, "WEBP", lossless=True), BOUNDS), 0.2, 0.5), WHITE)


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_entry_shows_white_there(image_format: str) -> None:
    image = Image.new("P", (112, 56), 0)
    image.putpalette([*BLUE, *RED])
    image.paste(1, (56, 0, 112, 56))

    pixels = decode_image(encode(image, image_format, transparency=0), BOUNDS)

    assert (at(pixels, 0.2, 0.5), at(pixels, 0.8, 0.5)) == (WHITE, RED)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_shows_its_first_frame(image_format: str) -> None:
    frames = [Image.new("RGB", (56, 56), colour) for colour in (GREEN, RED, BLUE)]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], duration=100)

    assert near(at(decode_image(data, BOUNDS), 0.5, 0.5), GREEN)


def test_a_large_photo_is_scaled_into_the_limits() -> None:
    bounds = Bounds(factor_px=28, min_px=4 * 28 * 28, max_px=64 * 28 * 28, max_source_px=50_000_000)

    pixels = decode_image(encode(four_colours((3000, 1500)), "JPEG"), bounds)

    assert (pixels.height_px, pixels.width_px) == smart_resize(1500, 3000, 28, bounds.min_px, bounds.max_px)
    assert all(near(found, wanted) for found, wanted in zip(corners(pixels), (RED, GREEN, BLUE, WHITE), strict=True))


def test_a_tiny_picture_grows_into_the_limits() -> None:
    pixels = decode_image(picture(RED, (3, 2)), Bounds(28, 256 * 28 * 28, 1280 * 28 * 28, 50_000_000))

    assert pixels.width_px * pixels.height_px >= 256 * 28 * 28
    assert at(pixels, 0.5, 0.5) == RED


def png_header(width: int, height: int) -> bytes:
    """Make a PNG that only says how large it is."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    body = b"IDAT" + zlib.compress(b"")
    parts = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, body, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("width", "height"), [(8000, 8000), (1, 60_000), (60_000, 1), (30_000, 30_000), (2**31 - 1, 2**31 - 1)]
)
def test_a_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    with pytest.raises(MediaTooLarge):
        decode_image(png_header(width, height), BOUNDS)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "JPEG"])
def test_bombs_of_other_kinds_are_refused_too(image_format: str) -> None:
    data = bytearray(picture(RED, (64, 64), image_format, **({"lossless": True} if image_format == "WEBP" else {})))
    huge = struct.pack("<HH", 16_383, 16_383)
    if image_format == "GIF":
        data[6:10] = huge
    elif image_format == "WEBP":
        data[21:25] = struct.pack("<I", 16_383 | 16_383 << 14)
    else:
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", 60_000, 60_000)

    with pytest.raises(MediaTooLarge):
        decode_image(bytes(data), BOUNDS)


@pytest.mark.parametrize("size", [(2000, 9), (9, 2000)])
def test_a_strip_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(MediaUnreadable, match="too narrow"):
        decode_image(picture(RED, size), BOUNDS)


@pytest.mark.parametrize(
    ("image_format", "share"),
    [*((name, share) for name in ("PNG", "WEBP", "GIF") for share in (0.1, 0.5, 0.95)), ("JPEG", 0.1), ("JPEG", 0.5)],
)
def test_a_truncated_picture_is_unreadable(image_format: str, share: float) -> None:
    data = encode(Image.effect_noise((200, 200), 80).convert("RGB"), image_format)

    with pytest.raises(MediaUnreadable):
        decode_image(data[: int(share * len(data))], BOUNDS)


@pytest.mark.parametrize("box", [b"mdat", b"pitm", b"av01"])
def test_a_damaged_avif_is_unreadable(box: bytes) -> None:
    data = bytearray(encode(four_colours(), "AVIF"))
    at = data.index(box) + (4 if box == b"mdat" else 0)
    data[at : at + 40] = bytes(len(data[at : at + 40]))

    with pytest.raises(MediaUnreadable):  # Pillow throws RuntimeError at some of them
        decode_image(bytes(data), BOUNDS)


@pytest.mark.parametrize(
    "data",
    [b"", b"I am a cat, not a PNG", b"<svg/>", b"%PDF-1.7", clip([0, 255])],
    ids=["empty", "text", "svg", "pdf", "clip"],
)
def test_what_is_no_picture_is_not_taken(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        decode_image(data, BOUNDS)


# --- clips ---


def greys(frames: Frames) -> list[int]:
    return [at(frame, 0.5, 0.5)[0] for frame in frames.frames]


RAMP = [5 * n for n in range(50)]  #: 5 s of 10 frames a second, each lighter than the one before


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "libx264"), ("mov", "libx264"), ("matroska", "libx264"), ("webm", "libvpx")]
)
def test_a_clip_gives_evenly_spread_frames_in_order(container: str, codec: str) -> None:
    frames = decode_video(clip(RAMP, container=container, codec=codec), BOUNDS, SAMPLING)

    assert len(frames.frames) == 10  # 5 s at 2 frames a second
    wanted = [RAMP[round(n * 49 / 9)] for n in range(10)]
    assert all(abs(found - grey) <= 6 for found, grey in zip(greys(frames), wanted, strict=True)), (greys(frames), wanted)
    assert frames.sample_fps == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(
    ("sampling", "count"),
    [
        (FrameSampling(fps=1.0, nframes=None, max_frames=64), 4),  # 5 are asked for; frames come in pairs
        (FrameSampling(fps=0.1, nframes=None, max_frames=64), 4),  # never fewer than four
        (FrameSampling(fps=30.0, nframes=None, max_frames=64), 50),  # no more than there are
        (FrameSampling(fps=30.0, nframes=None, max_frames=16), 16),
        (FrameSampling(fps=2.0, nframes=6, max_frames=64), 6),
        (FrameSampling(fps=2.0, nframes=7, max_frames=64), 6),
        (FrameSampling(fps=2.0, nframes=400, max_frames=64), 50),
    ],
)
def test_a_client_chooses_how_many_frames(sampling: FrameSampling, count: int) -> None:
    frames = decode_video(clip(RAMP), BOUNDS, sampling)

    assert len(frames.frames) == count
    assert greys(frames) == sorted(greys(frames))
    assert greys(frames)[0] <= 6
    assert greys(frames)[-1] >= 239
    assert frames.sample_fps == pytest.approx(count / 5, rel=0.05)


def test_the_frames_of_a_long_clip_share_the_context() -> None:
    """By default 40 s of 1080p would come to 64 frames of 750 tokens a pair: more than a context of 16,384 holds."""
    bounds = Bounds(factor_px=28, min_px=64 * 784, max_px=768 * 784, max_source_px=50_000_000)
    film = clip([0, 255] * 10, rate=1, size=(616, 336))

    def tokens(n_frames: int, most: float) -> int:
        frames = decode_video(film, bounds, FrameSampling(1.0, n_frames, max_frames=64, max_total_px=most * 784)).frames
        return len(frames) // 2 * (frames[0].height_px // 28) * (frames[0].width_px // 28)

    assert tokens(20, math.inf) == 10 * 264
    assert 1600 < tokens(20, 2000) <= 2000
    assert tokens(10, 2000) == 5 * 264  # a short one keeps its size
    assert tokens(20, 1) >= 10 * 60  # no smaller than a frame may be


def test_a_long_clip_is_sought_through_and_gives_the_same_frames() -> None:
    long = [n % 256 for n in range(0, 240, 3)]  # 80 s of one frame a second: 12 wanted stand 7 s apart, beyond the seek gap

    frames = decode_video(clip(long, rate=1), BOUNDS, FrameSampling(fps=2.0, nframes=12, max_frames=64))

    wanted = [long[round(n * 79 / 11)] for n in range(12)]
    assert all(abs(found - grey) <= 6 for found, grey in zip(greys(frames), wanted, strict=True)), (greys(frames), wanted)


def test_frames_have_whole_tokens() -> None:
    frames = decode_video(clip(RAMP, size=(320, 200)), Bounds(28, 128 * 784, 768 * 784, 50_000_000), SAMPLING)

    assert {(frame.height_px % 28, frame.width_px % 28) for frame in frames.frames} == {(0, 0)}
    assert len({(frame.width_px, frame.height_px) for frame in frames.frames}) == 1
    assert all(len(frame.rgb) == frame.width_px * frame.height_px * 3 for frame in frames.frames)


@pytest.mark.parametrize("turned", [0, 90, 180, -90])
def test_a_clip_of_a_phone_comes_out_upright(turned: int) -> None:
    import av

    file, stored = io.BytesIO(), four_colours((112, 56)).rotate(-turned, expand=True)
    with av.open(file, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = *stored.size, "yuv420p"
        if turned:
            stream.set_display_rotation(turned)
        for _ in range(4):
            target.mux(stream.encode(av.VideoFrame.from_image(stored)))
        target.mux(stream.encode())

    frame = decode_video(file.getvalue(), BOUNDS, SAMPLING).frames[0]

    assert (frame.width_px, frame.height_px) == (112, 56)
    for found, wanted in zip(corners(frame), (RED, GREEN, BLUE, WHITE), strict=True):
        assert near(found, wanted, off=40), (found, wanted)


def test_keyframes_that_are_far_apart_cost_no_frames() -> None:
    lone = clip([n % 256 for n in range(300)], rate=2, gop=1000)
    frames = decode_video(lone, BOUNDS, FrameSampling(fps=2.0, nframes=24, max_frames=64))

    wanted = [round(n * 299 / 23) % 256 for n in range(24)]
    assert all(abs(found - grey) <= 8 for found, grey in zip(greys(frames), wanted, strict=True)), (greys(frames), wanted)


def test_a_clip_of_one_frame_is_still_a_clip() -> None:
    frames = decode_video(clip([200], container="matroska"), BOUNDS, SAMPLING)

    assert len(frames.frames) == 2
    assert all(abs(grey - 200) <= 6 for grey in greys(frames))


def test_a_long_clip_is_thinned_and_says_so() -> None:
    hour = [n % 250 for n in range(0, 3600, 5)]

    frames = decode_video(clip(hour, rate=Fraction(1, 5), size=(16, 16)), BOUNDS, SAMPLING)

    assert len(frames.frames) == 64
    assert frames.is_thinned
    assert frames.times_s[0] == 0
    assert frames.times_s[-1] == 3595
    wanted = [hour[round(time_s / 5)] for time_s in frames.times_s]
    assert all(abs(found - grey) <= 6 for found, grey in zip(greys(frames), wanted, strict=True)), (greys(frames), wanted)


def test_a_truncated_clip_is_unreadable() -> None:
    data = clip(RAMP)

    for share in (0.3, 0.9):
        with pytest.raises(MediaUnreadable):
            decode_video(data[: int(share * len(data))], BOUNDS, SAMPLING)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/secret.ts\n",
        picture(),
    ],
    ids=["empty", "ffconcat", "playlist", "picture"],
)
def test_what_is_no_video_is_not_taken(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        decode_video(data, BOUNDS, SAMPLING)


@pytest.mark.parametrize(
    "script", [b"ffconcat version 1.0\nfile '%s'\n", b"#EXTM3U\n#EXTINF:1,\nfile://%s\n"], ids=["ffconcat", "hls"]
)
def test_a_playlist_dressed_as_mp4_opens_no_file(script: bytes, tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    target.write_bytes(clip(RAMP))
    dressed = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + script % str(target).encode()

    with pytest.raises(MediaUnreadable):
        decode_video(dressed, BOUNDS, SAMPLING)


def test_a_codec_that_is_not_taken_says_which_are() -> None:
    with pytest.raises(UnsupportedMedia, match=r"H\.264"):
        decode_video(clip(RAMP, codec="ffv1", container="matroska", rate=25), BOUNDS, SAMPLING)


def test_a_film_without_pictures_is_unreadable() -> None:
    with pytest.raises(MediaUnreadable, match="no picture track"):
        decode_video(sound(), BOUNDS, SAMPLING)


# --- strangers' bytes ---


def specimens() -> dict[str, bytes]:
    noise, exif = Image.effect_noise((80, 60), 60).convert("RGB"), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    return {
        "jpeg": encode(noise, "JPEG", exif=exif),
        "progressive": encode(noise, "JPEG", progressive=True),
        "png": encode(noise, "PNG", exif=exif),
        "palette": encode(noise.quantize(16), "PNG", transparency=3),
        "webp": encode(noise, "WEBP", exif=exif),
        "gif": encode(noise, "GIF", save_all=True, append_images=[noise]),
        "avif": encode(noise, "AVIF", exif=exif),
        "heic": heic(noise),
        "tiff": encode(noise, "TIFF", compression="tiff_lzw"),
        "jpeg in tiff": encode(noise, "TIFF", compression="jpeg"),
        "bmp": encode(noise, "BMP"),
        "jp2": encode(noise, "JPEG2000"),
        "ico": encode(noise, "ICO"),
        "mp4": clip(RAMP[:20]),
        "mkv": clip(RAMP[:20], container="matroska"),
        "avi": clip(RAMP[:20], container="avi", codec="mpeg4"),
        "flv": clip(RAMP[:20], container="flv"),
        "ts": clip(RAMP[:20], container="mpegts"),
        "moving": encode(noise, "GIF", save_all=True, append_images=[noise]),
    }


SPECIMENS = specimens()


def test_a_moving_picture_beyond_all_reason_is_too_large() -> None:
    data = bytearray(SPECIMENS["moving"])
    data[6:10] = b"\xff" * 4  # its sides

    with pytest.raises(MediaTooLarge, match="larger than this service takes"):
        decode_video(bytes(data), BOUNDS, SAMPLING)


@hypothesis_settings(max_examples=60)
@pytest.mark.parametrize("kind", SPECIMENS)
@given(seed=st.integers(0, 2**32), n_changes=st.integers(1, 16), cut=st.booleans())
def test_damage_ends_in_pixels_or_in_a_refusal(kind: str, seed: int, n_changes: int, cut: bool) -> None:  # noqa: FBT001
    chance, data = random.Random(seed), bytearray(SPECIMENS[kind])
    for _ in range(n_changes):
        at = chance.randrange(min(len(data), chance.choice([64, 400, len(data)])))
        data[at] = chance.choice([0, 0xFF, chance.randrange(256), data[at] ^ 1 << chance.randrange(8)])
    if cut:
        del data[chance.randrange(1, len(data)) :]
    try:
        if kind in {"mp4", "mkv", "avi", "flv", "ts", "moving"}:
            assert decode_video(bytes(data), BOUNDS, SAMPLING).frames
        else:
            assert decode_image(bytes(data), BOUNDS).rgb
    except (MediaUnreadable, MediaTooLarge, UnsupportedMedia):
        pass
