"""64-bit hashes of host names, of one or of many and all their parent domains at once: the same numbers by either way.

Simple tabulation (Zobrist 1970; Pătraşcu and Thorup 2012): the sum, modulo 2^64, of a random number for each letter, drawn by
the letter and its distance from the name's end. Any two different names have the same hash with probability 2^-64 over the draw.
As the distance is counted from the end, a parent domain's hash is a difference of running sums, so that a whole batch takes a few
passes over its letters. The numbers come from SHAKE-256 of a constant: the same on every machine.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

MAX_NAME = 253  # letters of a host name (RFC 1035); longer ones have no hash
NAME_HASH, WITNESS = "host names", "witness"  # two independent draws; the second only tells collisions from repetitions

_LETTERS = 128
_MASK = (1 << 64) - 1
_DOT = ord(".")


@functools.cache
def table(draw: str = NAME_HASH) -> NDArray[numpy.uint64]:
    """[distance from the end × letter] random numbers; capitals have those of small letters."""
    size = (MAX_NAME + 3) * _LETTERS
    numbers = numpy.frombuffer(hashlib.shake_256(f"crawl2chat {draw}".encode()).digest(8 * size), "<u8").reshape(-1, _LETTERS)
    numbers = numbers.astype(numpy.uint64)
    numbers[:, ord("A") : ord("Z") + 1] = numbers[:, ord("a") : ord("z") + 1]
    return numbers.reshape(-1)


@functools.cache
def _numbers() -> memoryview:
    return table().data


def is_hashable(name: str) -> bool:
    return name.isascii() and 0 < len(name) <= MAX_NAME


def name_hashes(name: str) -> list[int]:
    """The hashes of one name of at most 253 ASCII letters and of all its parent domains, the name's own first."""
    numbers = _numbers()
    hashes = []
    total = row = 0
    for letter in reversed(name.encode("ascii")):
        if letter == _DOT:
            hashes.append(total & _MASK)
        total += numbers[row + letter]
        row += _LETTERS
    hashes.append(total & _MASK)
    hashes.reverse()
    return hashes


def text_hash(text: str) -> int:
    """The hash of any text, for URL prefixes: the first 8 bytes of its BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Names:
    """A batch of names, one behind the other.

    letters  uint8 [total letters]   ASCII
    ends     int64 [names]           where each name ends in `letters`; an empty name is allowed and has no hash of meaning
    """

    letters: NDArray[numpy.uint8]
    ends: NDArray[numpy.int64]

    @classmethod
    def cut(cls, data: NDArray[numpy.uint8], starts: NDArray[numpy.int64], lengths: NDArray[numpy.int64]) -> Names:
        """Names that stand anywhere in `data`."""
        ends = numpy.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        return cls(data[numpy.arange(total) + numpy.repeat(starts - (ends - lengths), lengths)], ends)

    def hashes(self, draw: str = NAME_HASH) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint64], NDArray[numpy.int64]]:
        """Hashes of the names [names], of their parent domains [parents], and whose parents these are [parents].

        The parents of a name stand in order, the nearest first. No name may be longer than 253 letters.
        """
        total = len(self.letters)
        starts = numpy.concatenate([self.ends[:1] * 0, self.ends[:-1]])
        distance = numpy.repeat(self.ends - 1, self.ends - starts)
        distance -= numpy.arange(total)
        distance *= _LETTERS
        distance += self.letters & (_LETTERS - 1)
        sums = numpy.zeros(total + 1, numpy.uint64)
        numpy.cumsum(table(draw)[distance], out=sums[1:])
        dots = numpy.flatnonzero(self.letters == _DOT)
        rows = numpy.searchsorted(self.ends, dots, side="right")
        ends = sums[self.ends]
        return ends - sums[starts], ends[rows] - sums[dots + 1], rows
