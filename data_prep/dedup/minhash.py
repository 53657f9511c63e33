"""MinHash signatures of shingle sets, and the band keys by which likely near-duplicates meet (Broder 1997; Leskovec et al., ch. 3).

A permutation of the 32-bit hashes is x → a·x modulo 2^32 with an odd a: as the hashes are well mixed, so are the products, and how
often the minima of two sets agree is binomial to within what 1,500 random pairs can show. The signature of a set is its minimum under
each of them; two sets of Jaccard similarity s agree in each with probability s. Signatures agreeing in a whole band of `rows` values
make a pair of candidates: 1 - (1 - s^rows)^bands of all pairs, for 14 bands of 8 rows .05 at s = .5, .56 at .7, .92 at .8, .99 at .85.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from data_prep.dedup.shingles import Shingles, blocks
from data_prep.hashing import mixed

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

BANDS, ROWS = 14, 8  # FineWeb's (Penedo et al. 2024)

_BLOCK_SHINGLES = 100_000  # shingles and their products then stay in a core's cache
_STEP = 0x9E3779B97F4A7C15


def signatures(shingles: Shingles, number: int = BANDS * ROWS) -> NDArray[numpy.uint32]:
    """The minimum of each set under each of `number` permutations, [texts, number]. A set without shingles has 2^32 - 1 throughout."""
    import numpy

    signed = numpy.full((len(shingles), number), 0xFFFFFFFF, numpy.uint32)
    factors = _factors(number)
    for first, last in blocks(shingles.bounds, _BLOCK_SHINGLES):
        texts = first + numpy.flatnonzero(numpy.diff(shingles.bounds[first : last + 1]))
        if not len(texts):
            continue
        begin = shingles.bounds[first]
        hashes, starts = shingles.hashes[begin : shingles.bounds[last]], shingles.bounds[texts] - begin
        minima, products = numpy.empty((number, len(texts)), numpy.uint32), numpy.empty_like(hashes)
        for row, factor in zip(minima, factors, strict=True):
            numpy.multiply(hashes, factor, out=products)
            numpy.minimum.reduceat(products, starts, out=row)
        signed[texts] = minima.T
    return signed


def band_keys(signed: NDArray[numpy.uint32], bands: int = BANDS, rows: int = ROWS) -> NDArray[numpy.uint64]:
    """A key for each band of each signature, [texts, bands]; keys of different bands or minima are equal with probability 2^-64."""
    import numpy

    minima = signed[:, : bands * rows].reshape(len(signed), bands, rows).astype(numpy.uint64)
    keys = numpy.broadcast_to(numpy.arange(1, bands + 1, dtype=numpy.uint64) * numpy.uint64(_STEP), minima.shape[:2]).copy()
    for row in range(rows):
        keys = mixed(keys + minima[:, :, row])
    return keys


def candidate_probability(similarity: float, bands: int = BANDS, rows: int = ROWS) -> float:
    """How likely two sets of this Jaccard similarity share a band."""
    return float(1 - (1 - similarity**rows) ** bands)


def banding(threshold: float, number: int = BANDS * ROWS, recall: float = 0.99) -> tuple[int, int]:
    """(bands, rows) of at most `number` values that find pairs at the threshold with at least this probability, with most rows.

    One row, the most that can be done, where no banding does.
    """
    wide = (rows for rows in range(number, 0, -1) if candidate_probability(threshold, number // rows, rows) >= recall)
    rows = next(wide, 1)
    return number // rows, rows


@functools.cache
def _factors(number: int) -> NDArray[numpy.uint32]:
    """Odd factors, the first ones the same whatever the number."""
    import numpy

    steps = numpy.arange(1, number + 1, dtype=numpy.uint64) * numpy.uint64(_STEP)
    return (mixed(steps) >> numpy.uint64(32)).astype(numpy.uint32) | numpy.uint32(1)
