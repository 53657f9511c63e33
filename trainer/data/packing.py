"""Best-fit packing: short documents share rows, and none is cut that fits into one.

The plan of a token shard says which piece of which document stands in which row. A document longer than a row is cut into whole rows
and a rest; rests and short documents are packed by best-fit decreasing, a window of documents at a time (arXiv:2404.10830). No token is
dropped; what stays free of a row is padding. A plan depends on the documents' lengths and the rows' length alone, so that it is made
once for each shard; the order of an epoch's rows is keyed by seed and epoch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.token_shards import TokenShard
from pipeline.stage import Shard, ShardResult
from trainer.data.sample_index import Rows, keyed_permutation, keyed_places

WINDOW = 65_536  # documents packed together


@dataclass(frozen=True)
class PackParams:
    """What a plan depends on beside the shard."""

    length: int  # tokens of a row
    window: int = WINDOW


def pack_shard(shard: Shard) -> ShardResult:
    """Write `packing/<unit>.npy`, the plan of the token shard whose `.bin` and `.idx` are the unit's paths; its records are rows."""
    lengths = TokenShard.open(*shard.unit.paths).lengths
    plan = planned(lengths, shard.params.length, shard.params.window)
    np.save(shard.path("packing", ".npy"), plan)
    return ShardResult(records={"packing": rows_of(plan)})


def planned(lengths: NDArray[np.int64], length: int, window: int = WINDOW) -> NDArray[np.uint32]:
    """The plan of documents of these lengths: [4, segments] uint32, for each segment its row, its document, and the first token and
    number of tokens in that; in ascending order of rows."""
    parts, rows = [np.zeros((4, 0), np.uint32)], 0
    order = keyed_permutation(len(lengths))
    for at in range(0, len(order), window):
        documents = order[at : at + window]
        part = _planned(documents, lengths[documents], length)
        part[0] += rows
        rows = rows_of(part) or rows
        parts.append(part.astype("<u4"))
    return np.concatenate(parts, axis=1)


def rows_of(plan: NDArray[np.integer]) -> int:
    """How many rows a plan has."""
    return int(plan[0, -1]) + 1 if plan.shape[1] else 0


def _planned(documents: NDArray[np.int64], lengths: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """The plan of one window, its rows counted from 0: first those that are shared, then those that one document fills."""
    full, rest = np.divmod(lengths, length)
    short = np.flatnonzero(rest)
    shared = best_fit(rest[short], length)
    whole = np.repeat(np.arange(len(documents)), full)
    nth = np.arange(len(whole)) - np.repeat(np.cumsum(full) - full, full)  # of its document's whole rows
    filled = np.arange(len(whole)) + (int(shared.max()) + 1 if len(shared) else 0)
    plan = np.stack(
        [
            np.concatenate([shared, filled]),
            documents[np.concatenate([short, whole])],
            np.concatenate([full[short], nth]) * length,
            np.concatenate([rest[short], np.full(len(whole), length)]),
        ]
    )
    return plan[:, np.argsort(plan[0], kind="stable")]


def best_fit(sizes: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """[n] the row of each segment of these sizes, 1 … length, by best-fit decreasing: the longest first, each into the row with the
    least room that holds it. Segments of one size, and rows with the same room, are dealt with at once."""
    order = np.argsort(-sizes, kind="stable")
    found = np.empty(len(sizes), np.int64)
    rooms: dict[int, list[NDArray[np.int64]]] = {}  # rows by the room they have left
    open_rooms: list[int] = []  # these rooms in ascending order
    rows = placed = 0

    def leave(room: int, left: NDArray[np.int64]) -> None:
        if room and len(left):
            if not rooms.setdefault(room, []):
                insort(open_rooms, room)
            rooms[room].append(left)

    values, counts = np.unique(sizes, return_counts=True)
    for size, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        end = placed + count
        while placed < end:
            at = bisect_left(open_rooms, size)
            room = open_rooms[at] if at < len(open_rooms) else length
            each = room // size  # a row takes as many of this size as it holds: with each its room fits better
            wanted = -(-(end - placed) // each)
            if at < len(open_rooms):
                there = rooms[room].pop()
                if not rooms[room]:
                    open_rooms.pop(at)
                taken = there[:wanted]
                leave(room, there[wanted:])
            else:
                taken = np.arange(rows, rows + wanted)
                rows += wanted
            number = min(end - placed, each * len(taken))
            found[order[placed : placed + number]] = np.repeat(taken, each)[:number]
            placed += number
            last = number - each * (len(taken) - 1)
            leave(room - each * size, taken[:-1])
            leave(room - last * size, taken[-1:])
    return found


class PackedIndex:
    """The rows of planned shards, epoch after epoch, each epoch's in an order of its own. Plans and tokens stay in the mapped files."""

    def __init__(self, shards: Sequence[TokenShard], plans: Sequence[str], *, end_id: int, length: int, seed: int) -> None:
        """`plans`: the file of each shard's plan, made for rows of `length`. Raises ValueError where there are no rows."""
        self._shards, self._end_id, self._length, self._seed = list(shards), end_id, length, seed
        self._plans = [np.asarray(np.load(path, mmap_mode="r")) for path in plans]
        self._first = np.cumsum([0, *(rows_of(plan) for plan in self._plans)])
        self.rows_per_epoch = int(self._first[-1])
        if not self.rows_per_epoch:
            raise ValueError("the token shards hold no token")

    def rows(self, numbers: Sequence[int]) -> Rows:
        """The rows of these numbers, in the order given."""
        rows = Rows.padding(len(numbers), self._length)
        epochs, places = np.divmod(np.asarray(numbers, np.int64), self.rows_per_epoch)
        for epoch in np.unique(epochs).tolist():
            chosen = np.flatnonzero(epochs == epoch)
            found = keyed_places(places[chosen], self.rows_per_epoch, self._seed, epoch)
            for place, row in zip(chosen.tolist(), found.tolist(), strict=True):
                self._fill(rows, place, row)
        return rows

    def _fill(self, rows: Rows, place: int, row: int) -> None:
        shard = int(np.searchsorted(self._first, row, side="right")) - 1
        plan, local = self._plans[shard], row - int(self._first[shard])
        # in the plan's own type: with another the whole plan would be converted
        begin, end = plan[0].searchsorted(np.array([local, local + 1], plan.dtype)).tolist()
        at = 0
        for number, (document, first, size) in enumerate(plan[1:, begin:end].T.tolist()):
            rows.lay(place, at, self._shards[shard].document(document), slice(first, first + size), number, self._end_id)
            at += size
