"""Hostile clips, and files that are none."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from tests.media import clip, patched, picture, sound

Made = Iterator[tuple[str, bytes]]

FTYP = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2"


def playlists(target: str) -> Made:
    """Make lists that FFmpeg would follow to a file or an address.

    Args:
        target: a file of ours that must stay closed.
    """
    lists = {
        "ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{target}\n#EXT-X-ENDLIST\n",
        "m3u8 to the cloud": "#EXTM3U\n#EXTINF:1,\nhttp://169.254.169.254/latest/x.ts\n",
        "dash": f'<?xml version="1.0"?><MPD><Period><BaseURL>file://{target}</BaseURL></Period></MPD>',
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "concat:": f"concat:{target}|{target}",
        "subfile:": f"subfile,,start,0,end,100,,:{target}",
    }
    for name, text in lists.items():
        yield f"{name} named .mp4", text.encode()
        yield f"{name} dressed as mp4", FTYP + text.encode()
        yield f"{name} dressed as mkv", b"\x1aE\xdf\xa3" + text.encode()


def lies() -> Made:
    """Make MP4s whose headers say what is not so."""
    good = clip([0, 60, 120, 180] * 5)
    yield "mp4 of 3600 s, by its header", patched(good, b"mdhd", 12, struct.pack(">II", 1, 3600))
    yield "mp4 without a time scale", patched(good, b"mdhd", 12, struct.pack(">II", 0, 20))
    yield "mp4 of no time", patched(good, b"mdhd", 16, struct.pack(">I", 0))
    yield "mp4 of negative time", patched(good, b"mdhd", 16, struct.pack(">i", -5))
    yield "mp4 of 1e9 frames (stts)", patched(good, b"stts", 8, struct.pack(">II", 1_000_000_000, 1))
    yield "mp4 of 4e9 frames (stsz)", patched(good, b"stsz", 8, struct.pack(">I", 0xFFFFFFF0))
    yield "mp4 of 1e9 frames of one size", patched(good, b"stsz", 4, struct.pack(">II", 10, 1_000_000_000))
    yield "mp4 of 4e9 chunks", patched(good, b"stco", 4, struct.pack(">I", 0xFFFFFFF0))
    yield "mp4 whose chunks lie nowhere", patched(good, b"stco", 8, struct.pack(">I", 0xFFFFFFF0))
    yield "mp4 with an edit list of nothing", patched(good, b"elst", 8, struct.pack(">Ii", 0xFFFFFFFF, -1))
    yield "mp4 whose data are in another file", patched(good, b"url ", 0, struct.pack(">I", 0))
    yield "mp4 of 65535 x 65535, by its header", patched(good, b"avc1", 24, struct.pack(">HH", 65_535, 65_535))
    yield "mp4 of boxes in boxes", FTYP + b"".join(struct.pack(">I", 8 * n) + b"moov" for n in range(20_000, 0, -1))
    yield "mp4 of 300000 empty boxes", FTYP + b"\x00\x00\x00\x08free" * 300_000 + good[32:]
    yield "mp4 whose box says 2^63", FTYP + b"\x00\x00\x00\x01moov" + struct.pack(">Q", 2**63) + bytes(100)
    yield "mkv whose element says 2^56", b"\x1aE\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xfe" + bytes(100)
    yield "mp4 with no picture track", sound()
    yield "picture", picture()


def broken() -> Made:
    greys = [5 * n for n in range(50)]
    mp4, mkv = clip(greys), clip(greys, container="matroska")
    for share in (1, 30, 70, 95):
        yield f"mp4, {share} % of it", mp4[: len(mp4) * share // 100]
        yield f"mkv, {share} % of it", mkv[: len(mkv) * share // 100]
    for seed in range(6):
        chance, data = random.Random(seed), bytearray(mp4)
        start = data.index(b"mdat") + 4
        (size,) = struct.unpack_from(">I", data, start - 8)
        for _ in range(40):
            data[chance.randrange(start, start - 8 + size)] = chance.randrange(256)
        yield f"mp4 of fuzzed H.264, seed {seed}", bytes(data)


def codecs() -> Made:
    for codec in ("mpeg2video", "ffv1", "rawvideo", "jpeg2000", "prores_ks"):
        yield f"mkv of {codec}", _coded(codec)
    for container, codec in (("avi", "mpeg4"), ("mpegts", "mpeg2video"), ("flv", "flv"), ("ogg", "libtheora"), ("nut", "ffv1")):
        if codec in av.codecs_available:
            yield container, _coded(codec, container)


_FORMATS = {"prores_ks": "yuv422p10le", "rawvideo": "yuv420p", "jpeg2000": "yuv420p"}


def _coded(codec: str, container: str = "matroska", *, size: tuple[int, int] = (64, 48), frames: int = 5) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as target:
        stream = target.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, _FORMATS.get(codec, "yuv420p")
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), dtype=np.uint8), "rgb24")
            target.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        target.mux(stream.encode())
    return file.getvalue()


def other_containers() -> Made:
    """Make files of the kinds that recorders and cameras write, with damage and lies in them."""
    greys = [5 * n for n in range(50)]
    kinds = {"avi": "mpeg4", "flv": "libx264", "mpegts": "libx264", "mpeg": "mpeg2video", "asf": "msmpeg4"}
    for container, codec in kinds.items():
        whole = clip(greys, rate=25, container=container, codec=codec)
        yield f"{container}, 3 % of it", whole[: len(whole) * 3 // 100]
        for seed in range(4):
            chance, data = random.Random(seed), bytearray(whole)
            for _ in range(60):
                data[chance.randrange(16, len(data))] = chance.randrange(256)
            yield f"{container} with damage, seed {seed}", bytes(data)
    avi = clip(greys, rate=25, container="avi", codec="mpeg4")
    yield "avi of 4e9 frames", patched(avi, b"avih", 20, struct.pack("<I", 0xFFFFFFFF))
    yield "avi of 65535 x 65535", patched(avi, b"strf", 8, struct.pack("<ii", 65_535, 65_535))
    yield "avi of a frame in 70 minutes", patched(avi, b"strh", 24, struct.pack("<II", 0xFFFFFFFF, 1_000_000))
    yield "avi of no time", patched(avi, b"strh", 24, struct.pack("<II", 0, 0))
    yield "avi whose list says 4 GB", patched(avi, b"LIST", 0, struct.pack("<I", 0xFFFFFFFF))
    flv = clip(greys, rate=25, container="flv", codec="libx264")
    yield "flv whose tag says 16 MB", patched(flv, b"onMetaData", -20, b"\xff\xff\xff")
    ts = clip(greys, rate=25, container="mpegts", codec="libx264")
    yield "mpegts of 40 MB of one packet", ts + (b"G\x1f\xff\x10" + bytes(184)) * 220_000
    yield "mpegts of 2000 programmes", ts[:188] * 2000 + ts
    yield "gif of 65535 x 65535 that moves", b"GIF89a\xff\xff\xff\xff\x00\x00\x00" + bytes(50)
    still = picture((9, 9, 9), (16, 16), "GIF")
    yield "gif of 30000 frames", still[:-1] + still[still.index(b",") : -1] * 30_000 + b";"
    yield "mov without its first atom", b"\x00\x00\x00\x08wide" + b"\xff" * 4000
    yield "mov of 100000 free atoms", b"\x00\x00\x00\x08free" * 100_000


def long_ones() -> Made:
    yield "mp4 of an hour", clip([0] * 3600, rate=1, size=(32, 32))
    yield "mp4 of 1000 frames a second", clip([0, 255] * 5000, rate=1000, size=(16, 16))
    yield "mp4 of one keyframe", clip([0, 255] * 3000, rate=10, size=(64, 48), gop=10_000)
    yield "mkv of 60 tracks", _tracks(60)
    yield "mkv that grows to 8K", _growing()


def _tracks(n_tracks: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as target:
        streams = [target.add_stream("mpeg4", rate=25) for _ in range(n_tracks)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), dtype=np.uint8), "rgb24")
            target.mux(stream.encode(frame))
            target.mux(stream.encode())
    return file.getvalue()


def _growing() -> bytes:
    """Write a stream of JPEGs of which all but the first are beyond the limit."""
    file = io.BytesIO()
    small, huge = picture((9, 9, 9), (64, 48), "JPEG"), picture((9, 9, 9), (7680, 4320), "JPEG")
    with av.open(file, "w", format="matroska") as target:
        stream = target.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        stream.time_base = Fraction(1, 10)
        for n in range(8):
            packet = av.Packet(small if n == 0 else huge)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, n * 100, n * 100, Fraction(1, 1000)
            packet.is_keyframe = True
            target.mux(packet)
    return file.getvalue()


def large() -> Made:
    """Make clips inside and beyond the limits of size; making them takes some seconds."""
    yield "mp4 of 4K, 100 frames", clip([n % 256 for n in range(100)], rate=25, size=(3840, 2160))
    quiet = {"options": {"x265-params": "log-level=none"}}
    hevc = clip([n % 256 for n in range(24)], rate=8, size=(3840, 2160), codec="libx265", container="matroska", **quiet)
    yield "mkv of 4K in HEVC", hevc
    yield "mp4 of 8K", clip([0, 255] * 3, size=(7680, 4320))
