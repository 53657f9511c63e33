"""Near-duplicates: texts whose sets of shingles have a Jaccard similarity of at least a threshold.

`near_duplicates` finds the pairs of a list of texts. A corpus is done in steps of which each looks at a part:

links       within a bucket (the documents that share a band key), which documents look alike by their signatures
clusters    what links connect: no document is compared outside its cluster, so clusters can be settled one by one
survivors   a cluster in order of rank: a document goes if it is verified similar to one that stays, otherwise it stays

So a document is only ever removed for a kept document of higher rank which is similar to it itself: chains (A like B, B like C, A not
like C) cost B, not C. Verified means by the Jaccard similarity of the shingle sets, or of their sketches where these are cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from data_prep.dedup.minhash import band_keys, banding, signatures
from data_prep.dedup.shingles import blocks, shingles

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

THRESHOLD = 0.7  # of a corpus, about where half of all pairs are found with 14 bands of 8 rows
MARGIN = 0.15  # by which a signature's estimate (standard error at most .047 for 112 values) may fall short of the threshold
LEADERS = 64  # of a bucket, to which its other documents are compared
COMPARED = 1 << 16  # kept documents of a cluster, the highest in rank, to which a further one is compared
TRIES = 16  # of those, the most alike, for which it is verified

_CHUNK = 50_000  # documents of buckets whose signatures are held at once


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> list[tuple[int, int, float]]:
    """All pairs (i, j, similarity) with i < j whose shingle sets have a Jaccard similarity of at least `threshold`, in order.

    Similarities are exact. A pair is missed with a probability below 1 % at the threshold and far below above it (for thresholds
    of at least .05: bands are chosen for the threshold). Texts without a letter or digit have no shingles and are like nothing.

    >>> story = "It was late when the ferry came in, and nobody on the quay had expected it to bring so many of them home"
    >>> near_duplicates([story, "Something else entirely is told here.", story + " again"], 0.8)
    [(0, 2, 0.95)]
    """
    import numpy

    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold}: a Jaccard similarity above 0 and at most 1 is expected")
    bands, rows = banding(threshold)
    sets = shingles(texts)
    filled = numpy.flatnonzero(numpy.diff(sets.bounds))
    keys = band_keys(signatures(sets, bands * rows), bands, rows)[filled]
    pairs = numpy.zeros(0, numpy.int64)
    for band in range(bands):
        pairs = numpy.union1d(pairs, _pairs(keys[:, band], filled) @ numpy.array([len(texts), 1]))
    found = []
    for i, j in zip((pairs // max(1, len(texts))).tolist(), (pairs % max(1, len(texts))).tolist(), strict=True):
        similarity = jaccard(sets[i], sets[j])
        if similarity >= threshold:
            found.append((i, j, similarity))
    return found


def jaccard(one: NDArray[numpy.uint32], other: NDArray[numpy.uint32], size: int | None = None) -> float:
    """The Jaccard similarity of two sets of hashes (ascending, distinct); 0 where one is empty.

    With `size`, the sets are sketches: at most the `size` smallest hashes of each. Then only hashes are compared that both sketches
    would hold, which are a fair sample of the union. Exact where both sets have fewer than `size` shingles; else unbiased but for
    terms of 1/size, with a standard error of at most sqrt(s (1 - s) / size): .014 at s = .7 for 1,024 hashes.
    """
    import numpy

    if size is not None:
        for sketch in (one, other):
            if len(sketch) >= size:
                one, other = (part[: numpy.searchsorted(part, sketch[-1], "right")] for part in (one, other))
    if not len(one) or not len(other):
        return 0.0
    both = numpy.concatenate((one, other))
    both.sort()
    shared = int(numpy.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(both) - shared)


def links(
    keys: NDArray[numpy.uint64],
    documents: NDArray[numpy.int64],
    minima: Callable[[NDArray[numpy.int64]], NDArray[numpy.uint8]],
    threshold: float,
    first_new: int = 0,
) -> NDArray[numpy.int64]:
    """Pairs of documents that look alike, enough of them to connect what belongs together, [pairs, 2], ascending and distinct.

    keys, documents   [entries]: which document has which band key; all entries of a key must be among them
    minima            gives the signatures of documents, [documents, values]: of each value the lowest byte
    first_new         documents from this number on are new: keys without any are passed over

    In each bucket all are compared to the first (in the order of their signatures, so that nothing depends on where a document
    stands), those that are not like it to the first of themselves, and so on, until none or `LEADERS` were first.
    """
    import numpy

    order = numpy.argsort(keys, kind="stable")
    keys, documents = keys[order], documents[order]
    begins = numpy.flatnonzero(numpy.append(True, keys[1:] != keys[:-1])[: len(keys)])
    sizes = numpy.diff(numpy.append(begins, len(keys)))
    wanted = sizes > 1
    if first_new and len(keys):
        wanted &= numpy.maximum.reduceat(documents, begins) >= first_new
    documents = documents[numpy.repeat(wanted, sizes)]
    bounds = numpy.append(0, numpy.cumsum(sizes[wanted]))
    found = [numpy.zeros((0, 2), numpy.int64)]
    for first, last in blocks(bounds, _CHUNK):
        part = documents[bounds[first] : bounds[last]]
        buckets = numpy.repeat(numpy.arange(first, last), numpy.diff(bounds[first : last + 1]))
        found.append(_alike(buckets, part, minima(part), threshold))
    return numpy.unique(numpy.concatenate(found), axis=0)


def survivors(
    minima: NDArray[numpy.uint8], sketch: Callable[[int], NDArray[numpy.uint32]], threshold: float, size: int | None = None, kept: int = 0
) -> list[tuple[int, int, float]]:
    """Which members of a cluster go: (member, the member that stays instead, their similarity), in order.

    minima   [members, values], the highest rank first
    sketch   gives the (sketch of the) shingle set of a member; `size` as for `jaccard`
    kept     the first members that stay in any case: those of earlier corpora
    """
    import numpy

    floor = _floor(threshold, minima.shape[1])
    stay = list(range(min(kept, COMPARED)))
    signed = numpy.empty((min(len(minima), COMPARED), minima.shape[1]), numpy.uint8)
    signed[: len(stay)] = minima[: len(stay)]
    found = []
    for member in range(kept, len(minima)):
        agreement = numpy.count_nonzero(signed[: len(stay)] == minima[member], axis=1)
        likely = numpy.flatnonzero(agreement >= floor)
        likely = likely[numpy.argsort(-agreement[likely], kind="stable")][:TRIES]
        for place in likely.tolist():
            similarity = jaccard(sketch(member), sketch(stay[place]), size)
            if similarity >= threshold:
                found.append((member, stay[place], similarity))
                break
        else:
            if len(stay) < COMPARED:
                signed[len(stay)] = minima[member]
                stay.append(member)
    return found


def _floor(threshold: float, values: int) -> int:
    """In how many of its values a signature must agree to be looked at."""
    return max(1, math.ceil((threshold - MARGIN) * values))


def _alike(
    buckets: NDArray[numpy.int64], documents: NDArray[numpy.int64], minima: NDArray[numpy.uint8], threshold: float
) -> NDArray[numpy.int64]:
    """The links of whole buckets, [pairs, 2]. buckets [entries] ascending, documents [entries], minima [entries, values]."""
    import numpy

    floor = _floor(threshold, minima.shape[1])
    padded = numpy.zeros((len(minima), -(-minima.shape[1] // 8) * 8), numpy.uint8)
    padded[:, : minima.shape[1]] = minima
    order = numpy.lexsort((documents, *padded.view(numpy.uint64).T, buckets))
    found = []
    for _ in range(LEADERS):
        buckets, documents, minima = buckets[order], documents[order], minima[order]
        begins = numpy.flatnonzero(numpy.append(True, buckets[1:] != buckets[:-1]))
        leaders = numpy.repeat(begins, numpy.diff(numpy.append(begins, len(buckets))))
        others = numpy.flatnonzero(leaders != numpy.arange(len(leaders)))
        if not len(others):
            break
        leaders = leaders[others]
        like = numpy.count_nonzero(minima[others] == minima[leaders], axis=1) >= floor
        found.append(numpy.sort(numpy.stack((documents[leaders[like]], documents[others[like]]), axis=1), axis=1))
        order = others[~like]
        if not len(order):
            break
    return numpy.concatenate([numpy.zeros((0, 2), numpy.int64), *found])


def _pairs(keys: NDArray[numpy.uint64], texts: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """All pairs of texts with equal keys, [pairs, 2], the smaller number first. texts ascending."""
    import numpy

    order = numpy.argsort(keys, kind="stable")
    keys, texts = keys[order], texts[order]
    found = [numpy.zeros((0, 2), numpy.int64)]
    places = numpy.arange(len(keys))
    for distance in range(1, len(keys)):
        places = places[places + distance < len(keys)]
        places = places[keys[places] == keys[places + distance]]
        if not len(places):
            break
        found.append(numpy.stack((texts[places], texts[places + distance]), axis=1))
    return numpy.concatenate(found)
