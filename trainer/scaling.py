"""How loss falls with parameters and tokens: L = E + A / N^a + B / D^b, fitted and asked for sizes that were not run.

The form and the way of fitting are those of Hoffmann et al. (arXiv:2203.15556, approach 3 and appendix D.2): the Huber loss of
the difference of log losses, least over many beginnings. In logarithms the three terms are exponentials of e, α - a ln N and
β - b ln D, so that all of them stay positive.

How sure it is comes from a parametric bootstrap (Efron and Tibshirani 1993, section 6.5; of predictions, Davison and Hinkley 1997,
section 6.3.3): the law is fitted again to losses that it gives itself, each with an error as large as those of the runs. What a
run not yet made will come to has such an error as well. A handful of runs tells the size of these errors badly, so that each draw
has a size of its own, as probable as the runs make it (Gelman et al. 2013, section 14.2).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
HUBER = 1e-3  # beyond this difference of log losses a run counts by its distance, not by its square
# beginnings: e = ln E, α = ln A, β = ln B, a, b
BEGINNINGS = tuple(itertools.product((-1.0, 0.0, 1.0), (0.0, 5.0, 10.0), (0.0, 5.0, 10.0), (0.2, 0.5), (0.2, 0.5)))
STEPS = 200
NUMBERS = 5  # of the law
NO_FLOOR = 1e-3  # of the lowest loss: an E below is none
STEEPEST = 3.0  # exponent: a few runs with errors can look like a step


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


@dataclass(frozen=True)
class Fit:
    """The law of the runs.

    scatter  standard deviation of the runs' log losses around it
    draws    other laws that such runs could come from
    errors   for each draw, of the log loss of a run that is not among these
    """

    law: Law
    scatter: float
    draws: tuple[Law, ...]
    errors: tuple[float, ...]

    def predict(self, parameters: float, tokens: float, confidence: float = 0.8) -> tuple[float, float, float]:
        """Loss of a run: the law's, and the ends of the interval in which it will be with this probability."""
        losses = [law.loss(parameters, tokens) * np.exp(error) for law, error in zip(self.draws, self.errors, strict=True)]
        low, high = np.quantile(losses, [(1 - confidence) / 2, (1 + confidence) / 2])
        return self.law.loss(parameters, tokens), float(low), float(high)


def fit(runs: Sequence[Run], draws: int = 200, seed: int = 0) -> Fit:
    """Fit the law to the runs. ValueError where they cannot tell its five numbers and how far runs are from it."""
    sizes, lengths = {run.parameters for run in runs}, {run.tokens for run in runs}
    if len(runs) <= NUMBERS or len(sizes) < 3 or len(lengths) < 3:
        raise ValueError(
            f"{len(runs)} runs of {len(sizes)} sizes and {len(lengths)} numbers of tokens cannot tell five numbers and their errors; "
            "run at least six, of three sizes and three numbers of tokens"
        )
    best = least(runs, [np.array(beginning) for beginning in BEGINNINGS])
    law, free = law_of(best), len(runs) - NUMBERS
    expected = [law.loss(run.parameters, run.tokens) for run in runs]
    scatter = float(np.sqrt(sum(np.log(run.loss / loss) ** 2 for run, loss in zip(runs, expected, strict=True)) / free))
    lowest, beginnings = min(run.loss for run in runs), [best]
    if NO_FLOOR * lowest > law.E:  # from such a law none with a floor is ever found: what is nothing has no slope
        beginnings.append(np.array([np.log(lowest / 2), *best[1:]]))
    generator = np.random.default_rng(seed)
    found, errors = [], []
    for _ in range(draws):
        size = scatter * np.sqrt(free / generator.chisquare(free))
        *others, error = size * generator.standard_normal(len(runs) + 1)
        drawn = [replace(run, loss=loss * np.exp(other)) for run, loss, other in zip(runs, expected, others, strict=True)]
        found.append(law_of(least(drawn, beginnings)))
        errors.append(float(error))
    return Fit(law, scatter, tuple(found), tuple(errors))


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
        trial[3:] = np.clip(trial[3:], 0.0, STEEPEST)
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
