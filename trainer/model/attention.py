"""Attention: positions by rotation, documents that share a row kept apart, and the kernel that the device does best.

Shapes: b rows, s tokens, h query heads, k key-value heads, e head width, r how much of it turns (all but for Glm4Moe).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from trainer.model.by_hand import spans
from trainer.model.config import ModelConfig, RopeScaling

QUERIES_AT_ONCE = 128  # on CPUs
TOGETHER = 64  # tokens up to which short documents share a span: one call for all takes less time than what they do not see


@dataclass(frozen=True)
class Spans:
    """What attention goes over on a CPU, row after row: spans that no document leaves, each a long document or several short ones.

    lengths  tokens of each span
    masks    of each span, some queries at a time: [queries, keys of the span up to their last], added to the scores: 0 where attention is
             allowed, else -inf
    """

    lengths: tuple[int, ...]
    masks: tuple[tuple[Tensor, ...], ...]


Mask = Tensor | BlockMask | Spans


def document_positions(document_ids: Tensor) -> Tensor:
    """[b, s] → [b, s]: positions that start again at 0 with every document."""
    columns = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    return columns - torch.where(_begins(document_ids), columns, 0).cummax(dim=1).values


def _begins(document_ids: Tensor) -> Tensor:
    """[b, s] → [b, s]: whether a row or a document begins here."""
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return begins


def document_mask(document_ids: Tensor, dtype: torch.dtype) -> BlockMask | Spans:
    """[b, s] → what `attend` takes as a mask: a query sees the keys of its own document that are not after it. What lies in other
    documents is computed nowhere, but for the rest of a block on a GPU and for short documents that share a span on a CPU, whose masks are
    of `dtype`."""
    return block_mask(document_ids) if document_ids.is_cuda else spans_of(document_ids, dtype)


def spans_of(document_ids: Tensor, dtype: torch.dtype) -> Spans:
    """The same mask by spans."""
    begins = _begins(document_ids).flatten()
    starts = begins.nonzero()[:, 0].tolist()
    lengths: list[int] = []
    for start, end in pairwise([*starts, len(begins)]):
        if start % document_ids.shape[1] == 0 or lengths[-1] + end - start > TOGETHER:
            lengths.append(end - start)
        else:
            lengths[-1] += end - start
    masks = []
    for numbers in begins.cumsum(0).split(lengths):
        same = numbers[:, None] == numbers
        parts = (same[some, : some.stop].tril(some.start) for some in spans(len(numbers), QUERIES_AT_ONCE))
        masks.append(tuple(torch.zeros(part.shape, dtype=dtype).masked_fill_(~part, -math.inf) for part in parts))
    return Spans(tuple(lengths), tuple(masks))


def block_mask(document_ids: Tensor) -> BlockMask:
    """The same mask by blocks of 128 queries and keys."""

    def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document_ids[row, query] == document_ids[row, key])

    b, s = document_ids.shape
    make = _compiled(create_block_mask) if document_ids.is_cuda else create_block_mask
    mask: BlockMask = make(allowed, b, None, s, s, device=document_ids.device)
    return mask


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
    """Scaled dot-product attention of [b, h, s, e] on [b, k, t, e] → [b, h, s, e].

    mask  of `document_mask`, or [b, 1, s, t], True where attention is allowed; None: causal, or nothing hidden from a single query
    """
    grouped = q.shape[1] != k.shape[1]
    if isinstance(mask, Spans):
        return _attend_in_spans(q, k, v, mask, grouped)
    if isinstance(mask, BlockMask):
        flexible = _compiled(flex_attention) if q.is_cuda else flex_attention
        attended: Tensor = flexible(q, k, v, block_mask=mask, enable_gqa=grouped)
        return attended
    if mask is None or q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1, enable_gqa=grouped)
    # a CPU's kernel computes what a mask hides as well: queries go some at a time, with no keys that are after them
    parts, before = [], k.shape[2] - q.shape[2]
    for some in spans(q.shape[2], QUERIES_AT_ONCE):
        seen = slice(before + some.stop)
        part = F.scaled_dot_product_attention(
            q[:, :, some], k[:, :, seen], v[:, :, seen], attn_mask=mask[:, :, some, seen], enable_gqa=grouped
        )
        parts.append(part)
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the spans of each batch are others
def _attend_in_spans(q: Tensor, k: Tensor, v: Tensor, over: Spans, grouped: bool) -> Tensor:
    b, h, s, e = q.shape
    parts = []
    for queries, keys, values, masks in zip(*(_cut(heads, over.lengths) for heads in (q, k, v)), over.masks, strict=True):
        for some, mask in zip(queries.split(QUERIES_AT_ONCE, dim=2), masks, strict=True):
            seen = slice(mask.shape[1])
            part = F.scaled_dot_product_attention(some, keys[:, :, seen], values[:, :, seen], attn_mask=mask, enable_gqa=grouped)
            parts.append(part.transpose(1, 2))
    return torch.cat(parts, dim=1).view(b, s, h, e).transpose(1, 2)


def _cut(heads: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """[b, h, s, e] → [1, h, length, e] each, row after row."""
    return heads.transpose(0, 1).flatten(1, 2).unsqueeze(0).split(lengths, dim=2)


@functools.cache
def _compiled(function: Any) -> Any:
    return torch.compile(function)


def rotary(config: ModelConfig, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [b, 1, s, r/2] (RoFormer, arXiv:2104.09864), computed in fp32 whatever the model's precision."""
    exponents = torch.arange(0, config.rotary_dim, 2, device=positions.device, dtype=torch.float32) / config.rotary_dim
    angles = positions[:, None, :, None].float() * stretched(config.rope_theta**-exponents, config)
    factor = cosine_factor(config.rope_scaling)
    if factor == 1:
        return angles.cos().to(dtype), angles.sin().to(dtype)
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def stretched(frequencies: Tensor, config: ModelConfig) -> Tensor:
    """Rotary frequencies [r/2], radians a token, for sequences longer than those the model first learned, as transformers has them.

    linear  all of them divided by the factor: position interpolation (arXiv:2306.15595)
    llama3  waves longer than the old context are divided, those much shorter kept, between them a blend (Llama 3.1)
    yarn    the same idea by planes: those that turn often within the old context are kept (arXiv:2309.00071)
    """
    scaling = config.rope_scaling
    old = scaling.original_max_position_embeddings or config.max_position_embeddings
    match scaling.rope_type:
        case "default":
            return frequencies
        case "linear":
            return frequencies / scaling.factor
        case "llama3":
            turns = old * frequencies / (2 * math.pi)
            kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            kept = kept.clamp(0, 1)
        case "yarn":
            planes = torch.arange(len(frequencies), device=frequencies.device, dtype=torch.float32)
            first, last = (_plane(turns, config, old) for turns in (scaling.beta_fast, scaling.beta_slow))
            first, last = max(math.floor(first), 0), min(math.ceil(last), config.rotary_dim - 1)
            # one plane apart at least: the blend would divide by zero
            kept = 1 - ((planes - first) / max(last - first, 1e-3)).clamp(0, 1)
    return frequencies * kept + frequencies / scaling.factor * (1 - kept)


def _plane(turns: float, config: ModelConfig, context: int) -> float:
    """The number of the plane that turns so often within the context."""
    return config.rotary_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))


def cosine_factor(scaling: RopeScaling) -> float:
    """What YaRN multiplies cosines and sines by, so that the attention over more tokens stays as sharp; otherwise 1."""
    if scaling.rope_type != "yarn":
        return 1.0
    return scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1
