"""Files of entries (key, row of the document that has it), sorted by key, so that a range of keys is read from one place.

A file holds all keys as uint64, ascending, and after them the rows as uint32. Keys are hashes, so equal ranges hold about equally many.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_KEY_BYTES, _ENTRY_BYTES = 8, 12


def write_entries(path: str | os.PathLike[str], keys: NDArray[numpy.uint64], rows: NDArray[numpy.uint32]) -> None:
    """Write entries, in whatever order they are; the same entries give the same bytes."""
    import numpy

    order = numpy.lexsort((rows, keys))
    with open(path, "wb") as stream:
        stream.write(keys[order].astype("<u8").tobytes())
        stream.write(rows[order].astype("<u4").tobytes())


def read_entries(path: str, partition: int, partitions: int) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint32]]:
    """(keys, rows) of one of `partitions` equal ranges of keys: all entries of a key are in one of them."""
    import numpy

    total = os.path.getsize(path) // _ENTRY_BYTES
    keys = mapped(path, "<u8", total)
    low, high = ((number << 64) // partitions for number in (partition, partition + 1))
    first = int(numpy.searchsorted(keys, numpy.uint64(low)))
    last = int(numpy.searchsorted(keys, numpy.uint64(high - 1), "right"))
    return numpy.array(keys[first:last]), numpy.fromfile(path, "<u4", last - first, offset=total * _KEY_BYTES + first * 4)


def mapped(path: str, kind: str, count: int = -1) -> NDArray[Any]:
    """The first `count` numbers of a file (all of them by default), mapped into memory."""
    import numpy

    if not count or not os.path.getsize(path):
        return numpy.zeros(0, kind)
    return numpy.asarray(numpy.memmap(path, kind, "r", shape=None if count < 0 else (count,)))
