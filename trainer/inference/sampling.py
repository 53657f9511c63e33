"""Drawing the next token from logits: temperature, nucleus, and random numbers that depend on (seed, position) only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 takes the most likely token (its log-probability is then that at temperature 1)."""

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; set 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; set a share of probability above 0, up to 1")


def derive_seed(*parts: int | str) -> int:
    """A 64-bit seed from plain values, the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def uniforms(seeds: np.ndarray, position: int) -> np.ndarray:
    """A number in [0, 1) for each seed (uint64 [rows]) at one position of its row: SplitMix64 (Steele et al. 2014).

    40 bits: few enough that, times a cumulative probability, the number stays below it.
    """
    import numpy as np

    z = seeds + np.uint64((position + 1) * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(24)) * 2.0**-40


def seed_array(seeds: Sequence[int]) -> np.ndarray:
    """Seeds as the uint64 array `uniforms` takes."""
    import numpy as np

    return np.array([seed & 0xFFFFFFFFFFFFFFFF for seed in seeds], dtype=np.uint64)


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Next tokens and their log-probabilities under the distribution they were drawn from.

    `logits` [rows, vocabulary], `uniform` [rows] in [0, 1). The token is where the cumulative distribution passes the
    uniform number, so equal logits and numbers give equal tokens, whatever else is in the batch. Returns ids [rows]
    int64 and log-probabilities [rows] float32.
    """
    import torch

    logits = logits.float()
    if sampling.temperature == 0:
        ids = logits.argmax(-1)
        return ids, logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    log_probs = (logits / sampling.temperature).log_softmax(-1)
    if sampling.top_p < 1:
        log_probs = nucleus(log_probs, sampling.top_p).log_softmax(-1)
    cumulative = log_probs.double().exp().cumsum(-1)
    target = uniform.to(cumulative.dtype)[:, None] * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, target, right=True)
    return ids[:, 0], log_probs.gather(1, ids)[:, 0]


def nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """Log-probabilities [rows, vocabulary] with −inf outside the smallest set that holds `top_p` (Holtzman et al. 2020)."""
    import torch

    ordered, order = log_probs.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.exp()
    outside = probabilities.cumsum(-1) - probabilities >= top_p
    outside[:, 0] = False
    return log_probs.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), float("-inf"))
