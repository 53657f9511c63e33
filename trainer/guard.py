"""Whether a step of a training went wrong: a loss or gradient that is no number, or that is far above those of the steps before.

Losses and norms are compared as logarithms, so that a spike is a multiple of what was usual, whatever that was. Usual is the median of
the last `WINDOW` good steps; how far they stray from it is their median absolute deviation, scaled to a standard deviation as of a
normal distribution (Rousseeuw and Croux 1993), and at least `FLOOR`, or steady trainings would alarm at nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated

from msgspec import Meta

WINDOW = 64  # steps
ENOUGH = 16  # steps before the first verdict: a training's first steps fall steeply, which is no spike
FLOOR = 0.05  # of a logarithm: five percent
_SCALE = 1.4826


@dataclass(frozen=True)
class Guard:
    """When a step counts as a spike, and how often one is undone."""

    deviations: Annotated[
        float, Meta(ge=0, description="how many deviations above the usual a step's loss or gradient norm may lie; 0: any")
    ] = 10.0
    rollbacks: Annotated[int, Meta(ge=0, description="spikes that are undone, their samples skipped; one more ends the training")] = 5


def problem(values: Mapping[str, float], recent: Sequence[Mapping[str, float]], deviations: float) -> str | None:
    """What is wrong with a step's values, in words, or None. `recent`: values of the last good steps, oldest first.

    >>> steady = [{"loss": 2.0 + number % 3 / 10} for number in range(20)]
    >>> problem({"loss": 2.4}, steady, deviations=10)
    >>> problem({"loss": 9.0}, steady, deviations=10)
    'loss is 9, usual is 2.1'
    >>> problem({"loss": float("nan")}, [], deviations=10)
    'loss is nan'
    """
    for name, value in values.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
        known = [math.log(before[name]) for before in recent if before.get(name, 0.0) > 0.0]
        if deviations and value > 0 and len(known) >= ENOUGH:
            usual = median(known)
            spread = max(FLOOR, _SCALE * median(abs(one - usual) for one in known))
            if math.log(value) - usual > deviations * spread:
                return f"{name} is {value:.4g}, usual is {math.exp(usual):.4g}"
    return None
