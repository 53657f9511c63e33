"""Which documents are connected by links: union-find whose table of parents lies in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_CHUNK = 1_000_000  # numbers looked at together


class Clusters:
    """Connected components of the numbers below `size`. A cluster is known by its smallest number, whatever the order of links.

    The file at `path` takes 8 bytes a number and is mapped into memory, so that the system may put it out to disk; besides, memory
    goes with the links given at a time.
    """

    def __init__(self, path: str | os.PathLike[str], size: int) -> None:
        import numpy

        self._parents: NDArray[numpy.int64] = numpy.zeros(0, numpy.int64)
        if size:
            self._parents = numpy.asarray(numpy.memmap(path, numpy.int64, "w+", shape=(size,)))
        for first in range(0, size, _CHUNK):
            self._parents[first : first + _CHUNK] = -1  # not linked to anything

    def join(self, links: NDArray[numpy.int64]) -> None:
        """Connect pairs of numbers, [pairs, 2]."""
        import numpy

        parents = self._parents
        ends = numpy.unique(links)
        new = ends[parents[ends] < 0]
        parents[new] = new
        one, other = links[:, 0], links[:, 1]
        while True:
            one, other = self._roots(one), self._roots(other)
            differ = one != other
            if not differ.any():
                break
            # Larger roots go under smaller ones. Of several smaller ones the smallest wins; the next round joins the rest to it.
            one, other = numpy.minimum(one, other)[differ], numpy.maximum(one, other)[differ]
            numpy.minimum.at(parents, other, one)
        parents[ends] = self._roots(ends)

    def __iter__(self) -> Iterator[tuple[NDArray[numpy.int64], NDArray[numpy.int64]]]:
        """(numbers, the cluster of each) of all that are linked, ascending, some at a time."""
        import numpy

        for first in range(0, len(self._parents), _CHUNK):
            numbers = first + numpy.flatnonzero(self._parents[first : first + _CHUNK] >= 0)
            yield numbers, self._roots(numbers)

    def _roots(self, numbers: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        parents = self._parents
        found = parents[numbers]
        while True:
            above = parents[found]
            if (above == found).all():
                return found
            parents[numbers] = above  # paths are cut to half on the way
            found = above
