"""Training data: scenes and clips as batches of frames, dense truth and token rows.

A row holds one picture once and both languages' dialogues about it. The dialogues are *branches*: each sees the shared
beginning (system message, picture) and itself, and its positions go on where the beginning ends, so every branch computes
what it would alone, at a good half of the price.
"""

import io
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from qwen_vl_utils.vision_process import smart_resize
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from demo.captions import NO_PICTURE, Language
from demo.checkpoint import FACTOR_PX, FRAME_PIXELS, IMAGE_PIXELS, POSITIONS_PER_S
from demo.dense import IGNORE, Grid, dense_clip, dense_scene
from demo.prompts import SYSTEM, SYSTEMS, Medium, prompt, small_talk
from demo.scenes import TRAINING_SEEDS, Clip, Scene, clip, scene

CLIP_SHARE = 0.25
PROMPT_FIRST_SHARE = 0.2
SMALL_TALK_SHARE = 0.3  # of those
JPEG_SHARE = 0.25
FRAMES_PER_CLIP = 8


class Batch(NamedTuple):
    """Pictures of one grid, or clips of one grid. B rows of L tokens, S stacks of F frames, N tokens per stack.

    A stack is what one run of the vision tower's attention sees: a picture (F = 1) or a pair of frames (F = 2).
    """

    frames: Tensor  # (S, F, height_px, width_px, 3) uint8
    dense: Tensor  # (S, N, len(DENSE)) int64, IGNORE where there is nothing to say
    tokens: Tensor  # (B, L) int64
    positions: Tensor  # (3, B, L) int64: time, row, column
    branches: Tensor  # (B, L) int64: 0 shared, 1.. a dialogue, -1 padding
    slots: Tensor  # (B, L) int64: which of the batch's S x N vision tokens goes here, -1 for none
    labels: Tensor  # (B, L) int64: the token itself where it is an answer's, else IGNORE


@dataclass
class Row:
    """The tokens of one sample; see `Batch` for the fields."""

    tokens: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def text(self, ids: list[int], start: int, branch: int, *, learn: bool = False) -> int:
        """Append text; returns the position after it."""
        self.tokens += ids
        self.positions += [(start + i,) * 3 for i in range(len(ids))]
        self.branches += [branch] * len(ids)
        self.slots += [-1] * len(ids)
        self.labels += ids if learn else [IGNORE] * len(ids)
        return start + len(ids)

    def vision(self, pad_id: int, grid: Grid, start: int, branch: int, step: int) -> int:
        """Append a picture's or a clip's tokens; returns the position after them."""
        cells = list(itertools.product(range(grid[0]), range(grid[1]), range(grid[2])))
        self.tokens += [pad_id] * len(cells)
        self.positions += [(start + t * step, start + y, start + x) for t, y, x in cells]
        self.branches += [branch] * len(cells)
        self.slots += range(len(cells))
        self.labels += [IGNORE] * len(cells)
        return start + max(grid[1], grid[2], (grid[0] - 1) * step + 1)


class Dialogues:
    """Writes rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def row(self, rng: random.Random, sample: Scene | Clip, grid: Grid) -> Row:
        """Write both languages' dialogues about one sample.

        Args:
            rng: source of prompts.
            sample: whose captions are the answers.
            grid: of its vision tokens.

        Returns:
            A row of two branches, or of three: where the beginning has no picture, a dialogue without one may follow.
        """
        medium: Medium = "video" if isinstance(sample, Clip) else "image"
        system = SYSTEM if rng.random() < 0.8 else rng.choice(SYSTEMS)
        row = Row()
        at = row.text(self._ids(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"), 0, 0)
        prompt_first = rng.random() < PROMPT_FIRST_SHARE
        if not prompt_first:
            at = self._vision(row, medium, grid, at, 0)
        languages: list[Language] = ["en", "zh"]
        for branch, language in enumerate(rng.sample(languages, 2), start=1):
            here = row.text(self._ids(prompt(rng, medium, language)), at, branch)
            if prompt_first:
                here = self._vision(row, medium, grid, here, branch)
            here = row.text(self._ids("<|im_end|>\n<|im_start|>assistant\n"), here, branch)
            row.text(self._ids(sample.caption(language) + "<|im_end|>"), here, branch, learn=True)
        if prompt_first and rng.random() < SMALL_TALK_SHARE:
            language = rng.choice(languages)
            question = f"{small_talk(rng, language)}<|im_end|>\n<|im_start|>assistant\n"
            here = row.text(self._ids(question), at, 3)
            row.text(self._ids(NO_PICTURE[language] + "<|im_end|>"), here, 3, learn=True)
        return row

    def _vision(self, row: Row, medium: Medium, grid: Grid, start: int, branch: int) -> int:
        pad_id = self._ids(f"<|{medium}_pad|>")[0]
        at = row.text(self._ids("<|vision_start|>"), start, branch)
        at = row.vision(pad_id, grid, at, branch, POSITIONS_PER_S)  # a pair of frames at 2 fps is one second
        return row.text(self._ids("<|vision_end|>"), at, branch)

    def _ids(self, text: str) -> list[int]:
        if text not in self._known:
            if len(self._known) > 100_000:
                self._known.clear()
            self._known[text] = self._tokenizer.encode(text)
        return self._known[text]


@dataclass(frozen=True)
class Sample:
    """One scene or clip, ready to be stacked with others of its grid."""

    grid: Grid
    frames: NDArray[np.uint8]  # (temporal patches, F, height_px, width_px, 3)
    dense: NDArray[np.int64]  # (temporal patches, N, len(DENSE))
    row: Row


class Samples(IterableDataset[Batch]):
    """An endless stream of batches, every sample drawn afresh from its own seed."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, batch_size: int, *, seed: int = 0, part: tuple[int, int] = (0, 1)
    ) -> None:
        """Start a stream.

        Args:
            tokenizer: the model's.
            batch_size: samples per batch.
            seed: of the run; runs of different seeds share no sample.
            part: (i, n) of a run in n processes.
        """
        self._dialogues = Dialogues(tokenizer)
        self._batch_size = batch_size
        self._start = TRAINING_SEEDS.start + seed * 2**36
        self._part = part

    def __iter__(self) -> Iterator[Batch]:
        """Fill one bucket per grid, and hand a bucket out when it is full."""
        worker = get_worker_info()
        first, step = self._part
        if worker:
            first, step = first + step * worker.id, step * worker.num_workers
        buckets: dict[Grid, list[Sample]] = {}
        for seed in itertools.count(self._start + first, step):
            sample = self._sample(seed)
            bucket = buckets.setdefault(sample.grid, [])
            bucket.append(sample)
            if len(bucket) == self._batch_size:
                yield collate(buckets.pop(sample.grid))

    def _sample(self, seed: int) -> Sample:
        rng = random.Random(seed)
        if rng.random() < CLIP_SHARE:
            return self._clip(rng, clip(seed))
        return self._scene(rng, scene(seed))

    def _scene(self, rng: random.Random, drawn: Scene) -> Sample:
        source = _recompress(rng, [drawn.picture])
        frames, grid = _fit(source, IMAGE_PIXELS)
        scale = frames.shape[2] / drawn.picture.width, frames.shape[1] / drawn.picture.height
        dense = dense_scene(drawn.shapes, grid, scale)
        return Sample(grid, frames[:, None], dense, self._dialogues.row(rng, drawn, grid))

    def _clip(self, rng: random.Random, drawn: Clip) -> Sample:
        indices = np.linspace(0, drawn.length - 1, FRAMES_PER_CLIP).round().astype(int).tolist()
        source = [drawn.frame(index) for index in indices]
        frames, grid = _fit(_recompress(rng, source), FRAME_PIXELS)
        scale = frames.shape[2] / source[0].width, frames.shape[1] / source[0].height
        pairs = frames.reshape(-1, 2, *frames.shape[1:])
        grid = (len(pairs), *grid[1:])
        dense = dense_clip(drawn, indices, grid, scale)
        return Sample(grid, pairs, dense, self._dialogues.row(rng, drawn, grid))


def _recompress(rng: random.Random, pictures: list[Image.Image]) -> list[Image.Image]:
    if rng.random() > JPEG_SHARE:
        return pictures
    quality, result = rng.randint(70, 95), []
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        result.append(Image.open(buffer).convert("RGB"))
    return result


def _fit(pictures: list[Image.Image], pixels: tuple[int, int]) -> tuple[NDArray[np.uint8], Grid]:
    """Scale as the service does; returns (frames, height_px, width_px, 3) and the grid of one of them."""
    width, height = pictures[0].size
    height, width = smart_resize(height, width, FACTOR_PX, min_pixels=pixels[0], max_pixels=pixels[1])
    frames = np.stack([np.asarray(picture.resize((width, height))) for picture in pictures])
    return frames, (1, height // FACTOR_PX, width // FACTOR_PX)


def collate(samples: list[Sample]) -> Batch:
    """Stack samples of one grid; rows are padded on the right."""
    length = -(-max(len(sample.row.tokens) for sample in samples) // 16) * 16  # few lengths: kernels are cached by shape
    per_sample = samples[0].dense.shape[0] * samples[0].dense.shape[1]

    def pad(values: list[int], filler: int) -> list[int]:
        return values + [filler] * (length - len(values))

    rows = [sample.row for sample in samples]
    offsets = [[slot + i * per_sample if slot >= 0 else -1 for slot in row.slots] for i, row in enumerate(rows)]
    positions = [row.positions + [(0, 0, 0)] * (length - len(row.positions)) for row in rows]
    return Batch(
        frames=torch.from_numpy(np.concatenate([sample.frames for sample in samples])),
        dense=torch.from_numpy(np.concatenate([sample.dense for sample in samples])),
        tokens=torch.tensor([pad(row.tokens, 0) for row in rows]),
        positions=torch.tensor(positions).permute(2, 0, 1).contiguous(),
        branches=torch.tensor([pad(row.branches, -1) for row in rows]),
        slots=torch.tensor([pad(slots, -1) for slots in offsets]),
        labels=torch.tensor([pad(row.labels, IGNORE) for row in rows]),
    )
