"""How loss falls with parameters and tokens: L = E + A / N^a + B / D^b, fitted and asked for sizes that were not run.

The form and the way of fitting are those of Hoffmann et al. (arXiv:2203.15556, approach 3 and appendix D.2): the Huber loss of
the difference of log losses, least over many beginnings. In logarithms the three terms are exponentials of e, α - a ln N and
β - b ln D, so that all of them stay positive.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
HUBER = 1e-3  # beyond this difference of log losses a run counts by its distance, not by its square
# beginnings: e = ln E, α = ln A, β = ln B, a, b
BEGINNINGS = tuple(itertools.product((-1.0, 0.0, 1.0), (0.0, 5.0, 10.0), (0.0, 5.0, 10.0), (0.2, 0.5), (0.2, 0.5)))
STEPS = 200


@dataclass(frozen=True)
class Run:
    """One training: its parameters N, the tokens D it saw and the loss it came to."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^a + B / D^b."""

    E: float
    A: float
    a: float
    B: float
    b: float

    def loss(self, parameters: float, tokens: float) -> float:
        return float(self.E + self.A / parameters**self.a + self.B / tokens**self.b)

    def best_size(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the lowest loss for `flops` = 6 N D."""
        ratio = (self.a * self.A / (self.b * self.B)) ** (1 / (self.a + self.b))
        parameters = ratio * (flops / 6) ** (self.b / (self.a + self.b))
        return parameters, flops / 6 / parameters


@dataclass(frozen=True)
class Fit:
    """The law of all runs, and those of as many draws of them with replacement, which say how sure it is."""

    law: Law
    draws: tuple[Law, ...]

    def predict(self, parameters: float, tokens: float, confidence: float = 0.8) -> tuple[float, float, float]:
        """Loss of a size: the law's, and the ends of the interval that holds this share of the draws' losses."""
        losses = [law.loss(parameters, tokens) for law in self.draws]
        low, high = np.quantile(losses, [(1 - confidence) / 2, (1 + confidence) / 2])
        return self.law.loss(parameters, tokens), float(low), float(high)


def fit(runs: Sequence[Run], draws: int = 100, seed: int = 0) -> Fit:
    """Fit the law to the runs. ValueError where they cannot tell its five numbers."""
    sizes, lengths = {run.parameters for run in runs}, {run.tokens for run in runs}
    if len(runs) < 5 or len(sizes) < 3 or len(lengths) < 3:
        raise ValueError(
            f"{len(runs)} runs of {len(sizes)} sizes and {len(lengths)} numbers of tokens cannot tell five numbers; "
            "run at least five, of three sizes and three numbers of tokens"
        )
    best = least(runs, [np.array(beginning) for beginning in BEGINNINGS])
    generator = np.random.default_rng(seed)
    found = [law_of(best)]
    while len(found) <= draws:
        drawn = [runs[index] for index in generator.integers(len(runs), size=len(runs))]
        if len({run.parameters for run in drawn}) > 1 and len({run.tokens for run in drawn}) > 1:
            found.append(law_of(least(drawn, [best])))
    return Fit(found[0], tuple(found[1:]))


def law_of(theta: Array) -> Law:
    e, alpha, beta, a, b = (float(value) for value in theta)
    return Law(float(np.exp(e)), float(np.exp(alpha)), a, float(np.exp(beta)), b)


def least(runs: Sequence[Run], beginnings: Sequence[Array]) -> Array:
    """The parameters (e, α, β, a, b) of the least Huber loss that any of the beginnings leads to."""
    sizes = np.log([run.parameters for run in runs])
    lengths = np.log([run.tokens for run in runs])
    losses = np.log([run.loss for run in runs])
    ends = [descend(sizes, lengths, losses, beginning) for beginning in beginnings]
    return min(ends, key=lambda end: end[0])[1]


def descend(sizes: Array, lengths: Array, losses: Array, beginning: Array) -> tuple[float, Array]:
    """Levenberg and Marquardt's method, each run weighted as Huber's loss wants it. Returns the loss and where it is."""
    theta, damping = beginning.copy(), 1e-2
    value, slopes, differences = huber_at(theta, sizes, lengths, losses)
    for _ in range(STEPS):
        weights = np.minimum(1.0, HUBER / np.maximum(np.abs(differences), 1e-300))
        curvature = slopes.T @ (weights[:, None] * slopes)
        gradient = slopes.T @ (weights * differences)
        scale = np.diag(np.maximum(np.diag(curvature), 1e-12))
        trial = theta - np.linalg.lstsq(curvature + damping * scale, gradient, rcond=None)[0]
        found = huber_at(trial, sizes, lengths, losses)
        if found[0] < value:
            done = value - found[0] <= 1e-12 * value
            theta, (value, slopes, differences), damping = trial, found, max(damping / 3, 1e-12)
            if done:
                break
        else:
            damping *= 4
            if damping > 1e12:
                break
    return value, theta


def huber_at(theta: Array, sizes: Array, lengths: Array, losses: Array) -> tuple[float, Array, Array]:
    """Huber's loss at `theta`, the slopes [n, 5] of the predicted log losses, and their differences [n] from those that were met."""
    e, alpha, beta, a, b = theta
    terms = np.stack([np.full_like(sizes, e), alpha - a * sizes, beta - b * lengths])
    highest = terms.max(axis=0)
    predicted = highest + np.log(np.exp(terms - highest).sum(axis=0))
    shares = np.exp(terms - predicted)
    slopes = np.stack([shares[0], shares[1], shares[2], -shares[1] * sizes, -shares[2] * lengths], axis=1)
    differences = predicted - losses
    far = np.abs(differences)
    value = np.where(far <= HUBER, far**2 / 2, HUBER * (far - HUBER / 2)).sum()
    return (float(value) if np.isfinite(value) else np.inf), slopes, differences
