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
ROUNDS = 6  # of the Feistel network


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

    @classmethod
    def padding(cls, rows: int, length: int) -> Rows:
        """Rows that hold nothing yet."""
        shape = (rows, length)
        return cls(np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64), np.full(shape, IGNORED, np.int64))

    def take(self, rows: slice) -> Rows:
        return Rows(self.inputs[rows], self.targets[rows], self.documents[rows])

    def put(self, places: NDArray[np.int64], rows: Rows) -> None:
        """Write rows to these places."""
        self.inputs[places], self.targets[places], self.documents[places] = rows.inputs, rows.targets, rows.documents

    def lay(self, row: int, at: int, document: NDArray[Any], span: slice, number: int, end_id: int) -> None:
        """Write the tokens `span` of a document into a row from place `at` on, as the row's document `number`."""
        part, places = document[span], slice(at, at + span.stop - span.start)
        self.targets[row, places] = part
        self.inputs[row, at] = document[span.start - 1] if span.start else end_id
        self.inputs[row, at + 1 : places.stop] = part[:-1]
        self.documents[row, places] = number


def row_numbers(step: int, rows_per_step: int, skipped: Sequence[int] = ()) -> list[int]:
    """The numbers of the rows of a step's global batch. `skipped` rows, in ascending order, belong to no batch: later rows move up."""
    places = np.arange(step * rows_per_step, (step + 1) * rows_per_step)
    stay = np.asarray(skipped, np.int64) - np.arange(len(skipped))  # the place from which on each skipped row is passed over
    numbers: list[int] = (places + np.searchsorted(stay, places, side="right")).tolist()
    return numbers


def keyed_permutation(size: int, *key: int) -> NDArray[np.int64]:
    """0…size-1 in an order that depends on nothing but `size` and the key: each number is mixed with the key and the results are sorted."""
    words = np.arange(size, dtype=np.uint64)
    for part in (*key, len(key)):
        words = _mix(words, part)
    return np.argsort(words).astype(np.int64)


def keyed_places(places: NDArray[np.int64], size: int, *key: int) -> NDArray[np.int64]:
    """What stands at these places of a keyed permutation of 0…size-1, in constant memory.

    A Feistel network (Luby and Rackoff 1988) over the even number of bits that holds `size`; what falls outside walks on until it is
    inside (Black and Rogaway 2002).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64(2 ** int(half) - 1)
    secret = 0
    for part in (*key, len(key)):
        secret = int(_mix(np.array([secret], np.uint64), part)[0])
    words = places.astype(np.uint64)
    outside = np.arange(len(words))
    while len(outside):
        walked = words[outside]
        for turn in range(ROUNDS):
            left, right = walked >> half, walked & mask
            walked = right << half | (left ^ (_mix(right, secret + turn) & mask))
        words[outside] = walked
        outside = outside[walked >= size]
    return words.astype(np.int64)


def _mix(words: NDArray[np.uint64], part: int) -> NDArray[np.uint64]:
    """A bijection of 64-bit words that depends on `part` (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        words = words + np.uint64((part * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return words ^ (words >> np.uint64(31))


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
        self.rows_per_epoch = self.tokens / length  # where one row ends an epoch and begins the next, it belongs to both
        self._epoch = -1
        self._order = self._ends = np.zeros(0, np.int64)

    def rows(self, numbers: Sequence[int]) -> Rows:
        """The rows of these numbers, in the order given."""
        rows = Rows.padding(len(numbers), self._length)
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
            size = min(self._length - filled, len(document) - offset)
            rows.lay(place, filled, document, slice(offset, offset + size), segment, self._end_id)
            filled, segment = filled + size, segment + 1

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


def padded(packed: Sequence[Sequence[Segment]], width: int = 0) -> Rows:
    """Rows of segments as arrays of this width, 0: as wide as the widest row; the rest is padding with targets and documents IGNORED."""
    rows = Rows.padding(len(packed), width or max((sum(len(segment.inputs) for segment in row) for row in packed), default=0))
    for place, segments in enumerate(packed):
        at = 0
        for number, segment in enumerate(segments):
            span = slice(at, at + len(segment.inputs))
            rows.inputs[place, span], rows.targets[place, span], rows.documents[place, span] = segment.inputs, segment.targets, number
            at = span.stop
    return rows
