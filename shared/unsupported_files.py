"""What people send instead of a picture or a video, recognised by its first bytes, to word errors. Pure."""

from __future__ import annotations

import re
from codecs import BOM_UTF8

PICTURES = "JPEG, PNG, WEBP, GIF, AVIF, HEIC, TIFF, BMP, JPEG 2000, ICO"  #: what is taken, in words
VIDEOS = "MP4, MOV, MKV, WEBM, AVI, FLV, MPEG, WMV, OGG, and GIF, WEBP and AVIF that move"

_LOOKS = (
    (rb"%PDF-", "a PDF; pictures of its pages are taken"),
    (
        rb"(<\?xml[^>]*>\s*)?<(!doctype html|html|head|body)\b",
        "a web page (HTML): it may ask for a login",
    ),
    (rb"<svg|<\?xml|<!--|<!doctype svg", "an SVG drawing or another XML file; a PNG of it is taken"),
    (rb"#EXTM3U", "a playlist; the video that it names is taken"),
    (rb"[\[{]", "JSON"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL |.{4}ftypjxl ", "a JPEG XL; a JPEG or PNG of it is taken"),
    (rb".{4}ftypcrx ", "a camera's raw file; a JPEG of it is taken"),
    (rb"8BPS", "a Photoshop file; a PNG of it is taken"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "an archive, as documents of Office are, too"),
    (rb"ID3|\xff[\xfb\xf3\xf2]|fLaC|RIFF.{4}WAVE|.{4}ftypM4A ", "a sound file"),
    (rb"data:[\w/;+-]*,", "a data-URL; the file that is packed in it is taken"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
    (rb"[A-Za-z0-9+/\r\n]{64,}=*\s*$", "base64; the file that is packed in it is taken"),
    (rb"[\t\n\r\x20-\x7e]{8,}$", "plain text"),
)


def describe(head: bytes) -> str:
    """Say what a file is that is not taken, and what to send instead.

    Args:
        head: its first bytes.
    """
    if not head:
        return "the file is empty"
    start = head.removeprefix(BOM_UTF8).lstrip(b" \t\r\n")
    look = next((words for pattern, words in _LOOKS if re.match(pattern, start, re.DOTALL | re.IGNORECASE)), None)
    if look:
        return f"this is no picture and no video, but {look}"
    return f"the file is neither a picture ({PICTURES}) nor a video ({VIDEOS})"
