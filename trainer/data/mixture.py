"""Which corpus each row of a training comes from: weights, other weights from some row on, and caps on how often a corpus is repeated.

Rows come in cycles. In a cycle every corpus has its share of rows, evenly spread, so that any stretch of the training has nearly the
weights. A corpus whose cap is reached leaves; from that row on the others share by their weights. Which corpus a row comes from,
and which of its rows that is, is thus a function of the row's number alone: a training may be continued for as long as rows last.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256
from math import gcd
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.data.sample_index import Rows

CYCLE = 65_536  # rows of a cycle at most: a weight is right to this fraction


@dataclass(frozen=True)
class _Phase:
    """Rows from `start` on. `cycle` [rows] says whose row each is, `ordinal` [rows] which of the cycle's rows of that corpus.

    taken     [corpora] rows of each corpus that came before
    per_cycle [corpora] rows of each corpus in a cycle
    """

    start: int
    cycle: NDArray[np.int64]
    ordinal: NDArray[np.int64]
    taken: NDArray[np.int64]
    per_cycle: NDArray[np.int64]

    def counts(self, rows: int) -> NDArray[np.int64]:
        """[corpora] rows of each corpus among all before row `rows`, which belongs to this phase or ends it."""
        cycles, rest = divmod(rows - self.start, len(self.cycle))
        counted: NDArray[np.int64] = self.taken + cycles * self.per_cycle + np.bincount(self.cycle[:rest], minlength=len(self.taken))
        return counted


class Mixture:
    """Where each row comes from. `rows` is how many there are before the caps leave none to give, None if there is no end."""

    def __init__(
        self, weights: Sequence[float], max_rows: Sequence[int | None], changes: Sequence[tuple[int, Sequence[float]]] = ()
    ) -> None:
        """For each corpus its weight, which need not add up to 1, and the rows it may give at most (None: any number). `changes` are
        rows, in ascending order and above 0, from which on other weights hold.

        Raises ValueError for a weight that is less than 1/65,536 of all, but not 0.
        """
        self._phases: list[_Phase] = []
        self._corpora = len(weights)
        self._changes = [row for row, _ in changes]
        taken = np.zeros(len(weights), np.int64)
        start: int | None = 0
        while start is not None:
            later = bisect_right(self._changes, start)
            left = [None if limit is None else limit - int(count) for limit, count in zip(max_rows, taken, strict=True)]
            held = changes[later - 1][1] if later else weights
            open_weights = [0.0 if rest == 0 else weight for weight, rest in zip(held, left, strict=True)]
            if not any(open_weights):
                break
            phase = _phase(start, open_weights, taken)
            self._phases.append(phase)
            start = min((end for end in (_end(phase, left), *self._changes[later : later + 1]) if end is not None), default=None)
            taken = phase.counts(start) if start is not None else taken
        self.rows = start
        self._starts = [phase.start for phase in self._phases]

    def place(self, row: int) -> tuple[int, int]:
        """The number of the corpus that gives this row, and the number of the row in it. IndexError beyond the last."""
        if self.rows is not None and row >= self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        phase = self._phases[bisect_right(self._starts, row) - 1]
        cycles, at = divmod(row - phase.start, len(phase.cycle))
        corpus = int(phase.cycle[at])
        return corpus, int(phase.taken[corpus] + cycles * phase.per_cycle[corpus] + phase.ordinal[at])

    def counts(self, rows: int) -> list[int]:
        """How many of the first `rows` rows each corpus gives. IndexError where there are fewer."""
        if rows == 0:
            return [0] * self._corpora
        self.place(rows - 1)
        found: list[int] = self._phases[bisect_right(self._starts, rows - 1) - 1].counts(rows).tolist()
        return found

    def phase(self, row: int) -> int:
        """How often the weights have changed before this row, or with it."""
        return bisect_right(self._changes, row)

    def digest(self, rows: int) -> str:
        """What the first `rows` rows follow from: they are the same in two mixtures where this is."""
        told = [(phase.start, phase.per_cycle.tolist()) for phase in self._phases if phase.start < rows]
        return sha256(repr(told).encode()).hexdigest()


class Index(Protocol):
    """Rows by their number, epoch after epoch."""

    @property
    def rows_per_epoch(self) -> float:
        """Rows until every token was a target once."""

    def rows(self, numbers: Sequence[int]) -> Rows:
        """The rows of these numbers, in the order given."""


class MixedIndex:
    """Rows of several indexes in the order of a mixture."""

    def __init__(self, indexes: Sequence[Index], mixture: Mixture, length: int) -> None:
        self._indexes, self._mixture, self._length = list(indexes), mixture, length

    def rows(self, numbers: Sequence[int]) -> Rows:
        """The rows of these numbers, in the order given."""
        rows = Rows.padding(len(numbers), self._length)
        places = np.array([self._mixture.place(number) for number in numbers], np.int64).reshape(-1, 2)
        for corpus in np.unique(places[:, 0]).tolist():
            chosen = np.flatnonzero(places[:, 0] == corpus)
            rows.put(chosen, self._indexes[corpus].rows(places[chosen, 1].tolist()))
        return rows


def _phase(start: int, weights: Sequence[float], taken: NDArray[np.int64]) -> _Phase:
    per_cycle = _in_whole_rows(weights)
    corpora = np.repeat(np.arange(len(weights)), per_cycle)
    ordinals = np.concatenate([np.arange(rows) for rows in per_cycle])
    order = np.argsort((ordinals + 0.5) / per_cycle[corpora], kind="stable")
    return _Phase(start, corpora[order], ordinals[order], taken, per_cycle)


def _in_whole_rows(weights: Sequence[float]) -> NDArray[np.int64]:
    """[corpora] rows in a cycle, in proportion to the weights by largest remainders, in lowest terms."""
    exact = np.array(weights) / sum(weights) * CYCLE
    rows: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    most = np.argsort(rows - exact, kind="stable")[: CYCLE - int(rows.sum())]
    rows[most] += 1
    if any(weight > 0 and not count for weight, count in zip(weights, rows, strict=True)):
        raise ValueError(f"a weight is less than 1/{CYCLE:,} of all weights")
    rows //= reduce(gcd, rows.tolist())
    return rows


def _end(phase: _Phase, left: Sequence[int | None]) -> int | None:
    """The first row for which a corpus would have to give more than it has left."""
    ends = []
    for corpus, rest in enumerate(left):
        if rest is not None and phase.per_cycle[corpus]:
            cycles, ordinal = divmod(rest, int(phase.per_cycle[corpus]))
            place = int(np.flatnonzero(phase.cycle == corpus)[ordinal])
            ends.append(phase.start + cycles * len(phase.cycle) + place)
    return min(ends, default=None)
