"""What is asked: sizes of pictures, lengths of answers, and the files, of which no two are alike."""

from __future__ import annotations

import io
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

import av
import numpy as np
from PIL import Image

from worker.media import frame_sampling, pictures

PROMPT = "Describe this image."
CLIP_FRAMES = 8
#: No fork: the threads of libraries that are being loaded meanwhile forbid it.
FORKSERVER = get_context("forkserver")
FORKSERVER.set_forkserver_preload(["bench.gpu.clients", "bench.gpu.shape"])  # each process would load torch anew
_BLOCK_PX = 8  #: noise in blocks of this side gives JPEGs as large as photographs: 124 kB at 1024 x 768


@dataclass(frozen=True)
class Case:
    """One measurement.

    Args:
        name: stands in the report.
        sizes_px: (width, height), taken in turn.
        tokens: of each answer.
        count: of jobs.
        is_clips: whether they are clips of eight frames.
    """

    name: str
    sizes_px: tuple[tuple[int, int], ...]
    tokens: int
    count: int
    is_clips: bool = False

    def files(self, folder: Path) -> list[Path]:
        """Draw the files into a folder, those that are missing; the same case always gets the same ones."""
        folder = folder / self.name
        folder.mkdir(parents=True, exist_ok=True)
        ending = "mp4" if self.is_clips else "jpg"
        paths = [folder / f"{n}.{ending}" for n in range(self.count)]
        draw = draw_clip if self.is_clips else draw_picture
        jobs = [(path, self.sizes_px[n % len(self.sizes_px)], n) for n, path in enumerate(paths) if not path.exists()]
        with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) - 2), FORKSERVER, end_with_parent) as pool:
            list(pool.map(draw, *zip(*jobs, strict=True), chunksize=8) if jobs else ())
        return paths


SMALL, MIDDLE, LARGE = (448, 448), (1024, 768), (2048, 1536)
CASES = (  # what matters most comes first; six waves of 256 or more make a steady window
    Case("448-128", (SMALL,), 128, 1536),
    Case("1024-128", (MIDDLE,), 128, 768),
    Case("448-16", (SMALL,), 16, 1280),
    Case("2048-128", (LARGE,), 128, 1536),
    Case("mix-128", (SMALL, MIDDLE, LARGE, (768, 1024)), 128, 1536),
    Case("clips-128", ((448, 336),), 128, 768, is_clips=True),
    Case("1024-16", (MIDDLE,), 16, 768),
    Case("1024-512", (MIDDLE,), 512, 768),
    Case("2048-16", (LARGE,), 16, 768),
    Case("2048-512", (LARGE,), 512, 768),
    Case("448-512", (SMALL,), 512, 1536),
)
TINY = (Case("tiny-16", (SMALL,), 16, 96), Case("tiny-clips", ((224, 168),), 16, 32, is_clips=True))


def end_with_parent() -> None:
    """In a process of a pool: end when the benchmark does, even by kill -9. A server waits for its clients before it ends."""

    def watch() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def decode(file: str, bounds: pictures.Bounds) -> pictures.Pixels | frame_sampling.Frames:
    """Decode a file as the workers do."""
    data = Path(file).read_bytes()
    if file.endswith(".mp4"):
        return frame_sampling.decode_video(data, bounds, frame_sampling.FrameSampling(2.0, CLIP_FRAMES, CLIP_FRAMES))
    return pictures.decode_image(data, bounds)


def _noise(size_px: tuple[int, int], seed: int) -> np.ndarray:
    width, height = size_px
    blocks = np.random.default_rng(seed).integers(0, 256, (height // _BLOCK_PX, width // _BLOCK_PX, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((_BLOCK_PX, _BLOCK_PX, 1), np.uint8))


def draw_picture(path: Path, size_px: tuple[int, int], seed: int) -> None:
    """Write a JPEG of coloured blocks."""
    data = io.BytesIO()
    Image.fromarray(_noise(size_px, seed)).save(data, "JPEG", quality=85)
    path.write_bytes(data.getvalue())


def draw_clip(path: Path, size_px: tuple[int, int], seed: int) -> None:
    """Write a clip of four seconds at two frames a second."""
    width, height = size_px
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for n in range(CLIP_FRAMES):
            frame = av.VideoFrame.from_ndarray(_noise(size_px, seed * CLIP_FRAMES + n), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
