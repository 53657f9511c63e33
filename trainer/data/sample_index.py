"""Which tokens make up the batch of step N: a pure function of the token shards, a seed, the row length and N.

Documents are laid end to end, in an order keyed by the epoch, epoch after epoch; row r of that endless stream holds its
tokens r·length … (r+1)·length - 1 as **targets**. The input at each place is the token before the target in its document,
and the end-of-document token before a document's first. So every token of an epoch is predicted exactly once, however
many ranks share the work, and none is predicted from another document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.token_shards import TokenShard

IGNORED = -1  # a target that is not trained on, and the document id of padding


@dataclass(frozen=True)
class Rows:
    """Training rows as arrays of [rows, length] int64: what the model reads, what it should say, and whose tokens they are.

    A target of IGNORED is not trained on. Document ids differ between neighbours in a row and mean nothing else.
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    documents: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: slice) -> Rows:
        return Rows(self.inputs[rows], self.targets[rows], self.documents[rows])


def keyed_permutation(size: int, *key: int) -> NDArray[np.int64]:
    """0…size-1 in an order that depends on nothing but `size` and the key: each number is mixed with the key by a
    bijection of 64-bit words (splitmix64, Steele et al. 2014) and the results are sorted."""
    words = np.arange(size, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in (*key, len(key)):
            words += np.uint64((part * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
            words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            words ^= words >> np.uint64(31)
    return np.argsort(words).astype(np.int64)


class SampleIndex:
    """The endless stream over token shards. Holds 24 bytes a document; tokens stay in the memory-mapped files."""

    def __init__(self, shards: Sequence[TokenShard], *, end_id: int, length: int, seed: int) -> None:
        """`length`: tokens in a row; `end_id`: the end-of-document token. Raises ValueError where there are no tokens."""
        self._shards, self._end_id, self._length, self._seed = list(shards), end_id, length, seed
        self._sizes = np.concatenate([np.zeros(0, np.int64), *(shard.lengths for shard in shards)])
        self._first = np.cumsum([0, *(len(shard) for shard in shards)])
        self.tokens = int(self._sizes.sum())
        if not self.tokens:
            raise ValueError("the token shards hold no token")
        self._epoch = -1
        self._order = self._ends = np.zeros(0, np.int64)

    def rows(self, numbers: Sequence[int]) -> Rows:
        """The rows of these numbers, in the order given."""
        shape = (len(numbers), self._length)
        rows = Rows(np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape, np.int64))
        for place, number in enumerate(numbers):
            self._fill(rows, place, number)
        return rows

    def _fill(self, rows: Rows, place: int, number: int) -> None:
        filled, segment = 0, 0
        while filled < self._length:
            epoch, position = divmod(number * self._length + filled, self.tokens)
            self._open(epoch)
            rank = int(np.searchsorted(self._ends, position, side="right"))
            document = self._document(int(self._order[rank]))
            offset = position - (int(self._ends[rank]) - len(document))
            span = slice(filled, min(self._length, filled + len(document) - offset))
            part = document[offset : offset + span.stop - filled]
            rows.targets[place, span] = part
            rows.inputs[place, filled] = document[offset - 1] if offset else self._end_id
            rows.inputs[place, filled + 1 : span.stop] = part[:-1]
            rows.documents[place, span] = segment
            filled, segment = span.stop, segment + 1

    def _open(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._order = keyed_permutation(len(self._sizes), self._seed, epoch)
            self._ends = np.cumsum(self._sizes[self._order])
            self._epoch = epoch

    def _document(self, number: int) -> NDArray[Any]:
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        return self._shards[shard].document(number - int(self._first[shard]))


@dataclass(frozen=True)
class Segment:
    """Tokens that see only each other: inputs and targets [tokens] int64, targets IGNORED where not trained."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]


def document_segments(document: NDArray[Any], end_id: int, length: int) -> list[Segment]:
    """A document as segments of at most `length` tokens in which each of its tokens is a target once."""
    targets = document.astype(np.int64)
    inputs = np.concatenate(([end_id], targets[:-1]))
    return [Segment(inputs[at : at + length], targets[at : at + length]) for at in range(0, len(targets), length)]


def pack(segments: Sequence[Segment], length: int) -> list[list[Segment]]:
    """Spread segments over rows of at most `length` tokens: first-fit, longest first, ties in the order given."""
    rows: list[list[Segment]] = []
    free: list[int] = []
    for segment in sorted(segments, key=lambda segment: -len(segment.inputs)):
        size = len(segment.inputs)
        if size > length:
            raise ValueError(f"a segment of {size} tokens does not fit into rows of {length}")
        for place, room in enumerate(free):
            if size <= room:
                rows[place].append(segment)
                free[place] -= size
                break
        else:
            rows.append([segment])
            free.append(length - size)
    return rows


def padded(packed: Sequence[Sequence[Segment]]) -> Rows:
    """Rows of segments as arrays as wide as the widest row; the rest is padding with targets and documents IGNORED."""
    width = max((sum(len(segment.inputs) for segment in row) for row in packed), default=0)
    shape = (len(packed), width)
    rows = Rows(np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64), np.full(shape, IGNORED, np.int64))
    for place, segments in enumerate(packed):
        at = 0
        for number, segment in enumerate(segments):
            span = slice(at, at + len(segment.inputs))
            rows.inputs[place, span], rows.targets[place, span], rows.documents[place, span] = segment.inputs, segment.targets, number
            at = span.stop
    return rows
