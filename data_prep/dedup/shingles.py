"""Texts as sets of hashed shingles, by which near-duplicates are compared.

unit      a word: letters, digits and underscores (`\\w`) with their marks, in lower case, Unicode NFC. Scripts written without spaces
          (Han, kana, Thai, Lao, Burmese, Khmer) have one unit a character and its marks. Everything else only separates.
shingle   consecutive units, one beginning at every unit: 5 of them where it is a word, 9 where it is a character of an unspaced
          script (about as much meaning). A text too short for any has one shingle of all its units, a text without units has none.

The set is held as 32-bit hashes, ascending and distinct. Two different shingles are taken for one with probability 2^-32: in a text
of 10,000 shingles it happens once in 86 texts. Nothing but the text decides the hashes: no seed, no `hash()`, no machine; only a letter
that Python's version of Unicode does not know yet separates words until it does.

Fast because there is no work in Python for a single word: a batch of texts becomes one array of code points, words are sums of
random numbers times powers of their place (a polynomial modulo 2^64), shingles are polynomials of words.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from data_prep.hashing import mixed
from data_prep.segment import batches

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

BATCH_CHARACTERS = 200_000  # arrays of a batch then fit into a core's cache

_MASK = (1 << 64) - 1
_BASE = 0x9E3779B97F4A7C15  # of the polynomials over characters; odd, so that powers can be divided by
_WORD_BASE = 0xD6E8FEB86659FD93
_BLOCK = 1 << 16  # characters for which powers are held ready
_JOINERS = "\u200c\u200d"  # stand inside words of Persian and Indic scripts
_POINTS = 0x32400  # letters of Unicode 15 end below, only private use and tags follow

# When a character begins a unit (low bits), given what the character before it was (high bits).
_AFTER_SEPARATOR, _AFTER_UNSPACED, _ALWAYS = 1, 2, 4
_SEPARATOR = (_AFTER_SEPARATOR | _ALWAYS) << 4
_LETTER = _AFTER_SEPARATOR | _AFTER_UNSPACED | _ALWAYS << 4
_MARK = _AFTER_SEPARATOR | _ALWAYS << 4
_CHARACTER = _ALWAYS | (_AFTER_UNSPACED | _ALWAYS) << 4
_CHARACTER_MARK = _AFTER_SEPARATOR | (_AFTER_UNSPACED | _ALWAYS) << 4

_UNSPACED = (  # Thai, Lao; Burmese; Khmer; iteration marks; kana; Han and its extensions; half-width kana
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x323AF),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shingles:
    """The shingles of some texts.

    hashes   uint32 [shingles of all texts], ascending and distinct within a text
    bounds   int64 [texts + 1]: those of text i are hashes[bounds[i]:bounds[i + 1]]
    """

    hashes: NDArray[numpy.uint32]
    bounds: NDArray[numpy.int64]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, text: int) -> NDArray[numpy.uint32]:
        return self.hashes[self.bounds[text] : self.bounds[text + 1]]


def shingles(texts: Sequence[str], words: int = 5, characters: int = 9) -> Shingles:
    """The shingles of each text: `words` words long, `characters` characters in scripts without spaces."""
    import numpy

    parts = [_batch(batch, words, characters) for batch in batches(texts, str, BATCH_CHARACTERS)]
    if len(parts) == 1:
        return parts[0]
    hashes = numpy.concatenate([numpy.zeros(0, numpy.uint32), *(part.hashes for part in parts)])
    counts = numpy.concatenate([numpy.zeros(1, numpy.int64), *(numpy.diff(part.bounds) for part in parts)])
    return Shingles(hashes, numpy.cumsum(counts))


def blocks(bounds: NDArray[numpy.int64], size: int) -> Iterator[tuple[int, int]]:
    """Ranges (first, last) of consecutive groups that hold at most `size` members together, or a single group of more.

    Group i holds bounds[i + 1] - bounds[i] members.
    """
    import numpy

    first, groups = 0, len(bounds) - 1
    while first < groups:
        last = max(first + 1, int(numpy.searchsorted(bounds, bounds[first] + size, "right")) - 1)
        yield first, last
        first = last


def _batch(texts: Sequence[str], words: int, characters: int) -> Shingles:
    import numpy

    units, unspaced, bounds = _units(texts)
    ends = numpy.repeat(bounds[1:], numpy.diff(bounds))  # where the text of each unit ends
    hashes, lengths = _polynomials(units, words), numpy.full(len(units), words)
    if unspaced.any():
        lengths[unspaced] = characters
        hashes = numpy.where(unspaced, _polynomials(units, characters), hashes)
    whole = numpy.arange(len(units)) + lengths <= ends
    numbers = numpy.repeat(numpy.arange(len(texts), dtype=numpy.uint64), numpy.diff(bounds))
    keys = numbers[whole] << numpy.uint64(32) | mixed(hashes[whole]) >> numpy.uint64(32)

    counts = numpy.diff(numpy.searchsorted(keys, numpy.arange(len(texts) + 1, dtype=numpy.uint64) << numpy.uint64(32)))
    for text in numpy.flatnonzero((counts == 0) & (numpy.diff(bounds) > 0)).tolist():
        first, last = int(bounds[text]), int(bounds[text + 1])
        alone = mixed(_polynomials(units[first:last], last - first)[:1]) >> numpy.uint64(32)
        keys = numpy.append(keys, numpy.uint64(text << 32) | alone)

    keys.sort()
    if keys.size:
        keys = keys[numpy.append(True, keys[1:] != keys[:-1])]
    limits = numpy.searchsorted(keys, numpy.arange(len(texts) + 1, dtype=numpy.uint64) << numpy.uint64(32))
    return Shingles(keys.astype(numpy.uint32), limits.astype(numpy.int64))


def _polynomials(units: NDArray[numpy.uint64], length: int) -> NDArray[numpy.uint64]:
    """A number for each run of `length` units, [units]; meaningless for the last ones, which have no room for a run."""
    import numpy

    values = units.copy()
    base = numpy.uint64(_WORD_BASE)
    for offset in range(1, length):
        values *= base
        values[: max(0, len(units) - offset)] += units[offset:]
    return values


def _units(texts: Sequence[str]) -> tuple[NDArray[numpy.uint64], NDArray[numpy.bool_], NDArray[numpy.int64]]:
    """(hash of every unit, whether it is a character of an unspaced script, where the units of each text begin, [texts + 1])."""
    import numpy

    tables = _tables()
    composed = [text if text.isascii() else unicodedata.normalize("NFC", text) for text in texts]
    points = numpy.frombuffer("\n".join([*composed, ""]).encode("utf-32-le", "surrogatepass"), "<u4").astype(numpy.intp)
    kinds = tables.kinds.take(points, mode="clip")
    begins = numpy.empty_like(kinds)
    begins[:1] = kinds[:1] & _SEPARATOR >> 4
    numpy.bitwise_and(kinds[1:], kinds[:-1] >> 4, out=begins[1:])
    starts = numpy.flatnonzero(begins != 0)
    offsets = numpy.fromiter(itertools.accumulate((len(text) + 1 for text in composed), initial=0), numpy.int64, len(texts) + 1)
    bounds = numpy.searchsorted(starts, offsets)
    if not starts.size:
        return numpy.zeros(0, numpy.uint64), numpy.zeros(0, bool), bounds

    values = tables.values.take(points, mode="clip")
    power, inverse, inverses = 1, 1, []
    for first in range(0, len(values), _BLOCK):
        block = values[first : first + _BLOCK]
        block *= tables.powers[: len(block)]
        if first:
            block *= numpy.uint64(power)
        inverses.append(inverse)
        power, inverse = power * tables.next_power & _MASK, inverse * tables.next_inverse & _MASK
    # A unit's sum runs up to the next unit: separators count for nothing. Dividing by its first power makes it the same anywhere.
    units = numpy.add.reduceat(values, starts)
    units *= tables.inverses.take(starts & (_BLOCK - 1))
    if len(inverses) > 1:
        units *= numpy.array(inverses, numpy.uint64).take(starts // _BLOCK)
    return mixed(units), kinds.take(starts) & 7 == _ALWAYS, bounds


class _Tables(NamedTuple):
    kinds: NDArray[numpy.uint8]  # of every code point
    values: NDArray[numpy.uint64]  # a random number for every letter, the same for both cases; 0 for separators
    powers: NDArray[numpy.uint64]  # of the base, one block
    inverses: NDArray[numpy.uint64]
    next_power: int  # what takes the powers of one block to those of the next
    next_inverse: int


@functools.cache
def _tables() -> _Tables:
    import numpy

    kinds = numpy.full(_POINTS, _SEPARATOR, numpy.uint8)
    folded = numpy.arange(_POINTS, dtype=numpy.uint64)
    for point, character in enumerate(map(chr, range(_POINTS))):
        if character.isalnum() or character == "_":
            kinds[point] = _LETTER
            folded[point] = ord(character.lower()[0])
        elif unicodedata.category(character)[0] == "M" or character in _JOINERS:
            kinds[point] = _MARK
    for first, last in _UNSPACED:
        block = kinds[first : last + 1]
        digits = [chr(point).isdecimal() for point in range(first, last + 1)]
        block[(block == _LETTER) & ~numpy.array(digits)] = _CHARACTER
        block[block == _MARK] = _CHARACTER_MARK
    values = mixed((folded + numpy.uint64(1)) * numpy.uint64(_BASE))
    values[kinds == _SEPARATOR] = 0

    inverse = pow(_BASE, -1, 1 << 64)
    powers, inverses = (numpy.full(_BLOCK, base, numpy.uint64) for base in (_BASE, inverse))
    powers[0] = inverses[0] = 1
    numpy.multiply.accumulate(powers, out=powers)
    numpy.multiply.accumulate(inverses, out=inverses)
    return _Tables(kinds, values, powers, inverses, pow(_BASE, _BLOCK, 1 << 64), pow(inverse, _BLOCK, 1 << 64))
