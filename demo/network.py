"""The forward pass of training: a batch in, losses out.

The weights and the language model's code are those of transformers. Only the vision tower's loop is written anew, for
pictures of one grid: all layers attend over the whole picture, so a batch is one call of attention instead of one per
picture, and the order of tokens is free, so windows need no shuffling.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids

from demo.batches import Batch
from demo.checkpoint import PATCH_PX, WIDTH
from demo.dense import DENSE, IGNORE


class Losses(NamedTuple):
    """Mean cross-entropies, and what share of the counted words was right."""

    caption: Tensor
    dense: Tensor
    caption_right: Tensor
    dense_right: Tensor  # (len(DENSE),)


class Trainee(nn.Module):
    """The model, and linear readers of the vision tokens that exist in training only."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.model.model.language_model.config._attn_implementation = "demo_mix"  # noqa: SLF001  no public way per part
        self.readers = nn.Linear(WIDTH, sum(DENSE.values()))

    def forward(self, batch: Batch, *, captions: bool = True) -> Losses:
        """Compute losses.

        Args:
            batch: on the model's device.
            captions: False trains the vision tower alone.

        Returns:
            The losses; caption is 0 without captions.
        """
        seen = self.see(batch.frames)
        dense, dense_right = self._dense(seen, batch.dense)
        if not captions:
            return Losses(dense.new_zeros(()), dense, dense.new_zeros(()), dense_right)
        hidden = self._read(seen.flatten(0, 1), batch)
        learn = batch.labels[:, 1:] != IGNORE
        logits = self.model.lm_head(hidden[:, :-1][learn]).float()
        labels = batch.labels[:, 1:][learn]
        right = (logits.argmax(-1) == labels).float().mean()
        return Losses(functional.cross_entropy(logits, labels), dense, right, dense_right)

    def see(self, frames: Tensor) -> Tensor:
        """Run the vision tower.

        Args:
            frames: (S, F, height_px, width_px, 3) uint8, F 1 or 2.

        Returns:
            (S, N, WIDTH): the tokens that the language model reads, row by row.
        """
        visual = self.model.model.visual
        stacks, _, height, width, _ = frames.shape
        rows, columns = height // PATCH_PX, width // PATCH_PX
        grid = torch.tensor([[1, rows, columns]], device=frames.device)
        where = get_vision_position_ids(grid, visual.spatial_merge_size)
        hidden = self._embed(frames)
        cos, sin = visual.rotary_pos_emb(hidden, where)
        for block in visual.blocks:
            hidden = hidden + _attend(block.attn, block.norm1(hidden), cos, sin)
            hidden = hidden + block.mlp(block.norm2(hidden))
        tokens: Tensor = visual.merger(hidden).view(stacks, -1, WIDTH)
        return tokens

    def _embed(self, frames: Tensor) -> Tensor:
        """Cut frames into patches in merge order and embed them: (S, 4 N, WIDTH)."""
        stacks, count, height, width, _ = frames.shape
        weight = self.model.model.visual.patch_embed.proj.weight  # (WIDTH, 3, 2, PATCH_PX, PATCH_PX)
        if count == 1:  # a picture fills both time steps of a patch with itself
            weight = weight.sum(2, keepdim=True)
        rows, columns = height // PATCH_PX, width // PATCH_PX
        pixels = frames.float() / 127.5 - 1
        cut = pixels.view(stacks, count, rows // 2, 2, PATCH_PX, columns // 2, 2, PATCH_PX, 3)
        patches = cut.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(stacks, rows * columns, -1)
        return functional.linear(patches, weight.flatten(1)).float()

    def _dense(self, seen: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        guesses = self.readers(seen).float().split(list(DENSE.values()), dim=-1)
        losses, shares = [], []
        for column, guess in enumerate(guesses):
            known = truth[..., column] != IGNORE
            if known.any():
                words = truth[..., column][known]
                losses.append(functional.cross_entropy(guess[known], words))
                shares.append((guess[known].argmax(-1) == words).float().mean())
            else:
                shares.append(guess.new_full((), torch.nan))
        return torch.stack(losses).mean(), torch.stack(shares)

    def _read(self, seen: Tensor, batch: Batch) -> Tensor:
        """Run the language model over the rows: (B, L, WIDTH)."""
        embedded = self.model.get_input_embeddings()(batch.tokens)
        here = (batch.slots >= 0).unsqueeze(-1)
        embedded = torch.where(here, seen[batch.slots.clamp(min=0)].to(embedded.dtype), embedded)
        mask = branch_mask(batch.branches)
        read = self.model.model.language_model(
            inputs_embeds=embedded,
            position_ids=batch.positions,
            attention_mask={"full_attention": mask},
            use_cache=False,
        )
        hidden: Tensor = read.last_hidden_state
        return hidden


def branch_mask(branches: Tensor) -> Tensor:
    """Who may look at whom.

    Args:
        branches: (B, L), as in `Batch`.

    Returns:
        (B, 1, L, L) bool: back in time, at the shared beginning and at the own branch.
    """
    length = branches.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=branches.device).tril()
    own = branches[:, :, None] == branches[:, None, :]
    shared = (branches == 0)[:, None, :]
    return (before & (own | shared))[:, None]


def _attend(attention: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One attention of the vision tower over (S, patches, WIDTH), each stack by itself."""
    stacks, patches, width = hidden.shape
    qkv = attention.qkv(hidden).view(stacks, patches, 3, attention.num_heads, -1)
    query, key, value = qkv.unbind(2)
    query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    mixed, _ = mix(attention, query, key, value, None)
    out: Tensor = attention.proj(mixed.reshape(stacks, patches, width))
    return out


def mix(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: object
) -> tuple[Tensor, None]:
    """Attention, in the form in which transformers takes it.

    On a CPU the fused kernel's backward pass is slow, and plain products of matrices take two thirds of its time.

    Args:
        module: whose ``scaling`` counts.
        query: (B, heads, L, head size).
        key: likewise.
        value: likewise.
        attention_mask: bool, broadcast to (B, heads, L, L), or None.

    Returns:
        (B, L, heads, head size), and None for the weights.
    """
    if query.device.type != "cpu":
        mixed = functional.scaled_dot_product_attention(query, key, value, attention_mask)
        return mixed.transpose(1, 2), None
    scores = (query * module.scaling) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    with torch.autocast("cpu", enabled=False):
        weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2), None


AttentionInterface.register("demo_mix", mix)
