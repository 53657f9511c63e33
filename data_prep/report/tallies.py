"""How often each of many keys occurs, in bounded memory: tables sorted by the keys' hashes, counted one range of hashes at a time.

A key is a host, or a document for which others were removed. A table has a row for each key of one file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.report.statistics import sums, two_digits

PARTITION_ROWS = 5_000_000  # rows of tables a task counts at once, some 1 GB
_BITS = 62
_COLUMNS = ("hash", "kind", "key", "number", "of", "example")
_ROW_GROUP_ROWS = 50_000


@dataclass(frozen=True)
class Tally:
    """The keys of one kind.

    keys   how many there are
    total  how often they occur together
    of     how often they occurred before
    sizes  how many occur so often (rounded down to two digits)
    top    the most frequent ones: key, how often it occurs and occurred, the smallest of its examples
    """

    keys: int = 0
    total: int = 0
    of: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    top: tuple[tuple[str, int, int, str], ...] = ()

    @property
    def kept(self) -> int:
        """Keys that still occur."""
        return self.keys - self.sizes.get(0, 0)


Row = tuple[int, int, str]  # how often a key occurs, how often it did before, an example of it


def write_tallies(path: str | os.PathLike[str], tallies: Mapping[str, Mapping[str, Row]]) -> int:
    """Write a table of rows by kind and key. Returns how many they are."""
    import pyarrow
    import pyarrow.parquet

    rows = sorted((_hash(key), kind, key, *row) for kind, counts in tallies.items() for key, row in counts.items())
    schema = pyarrow.schema([(name, pyarrow.int64() if name in ("hash", "number", "of") else pyarrow.string()) for name in _COLUMNS])
    columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in schema]
    table = pyarrow.table(dict(zip(schema.names, columns, strict=True)), schema=schema)
    # the statistics of the hashes are what lets a reader skip the row groups of other ranges
    pyarrow.parquet.write_table(table, os.fspath(path), compression="zstd", row_group_size=_ROW_GROUP_ROWS, write_statistics=["hash"])
    return len(rows)


def count_tallies(paths: Sequence[str | os.PathLike[str]], partition: int, partitions: int, top: int) -> dict[str, Tally]:
    """By kind, the keys whose hashes are in one of `partitions` equal ranges, over all tables."""
    import pyarrow
    import pyarrow.parquet

    first, last = ((number << _BITS) // partitions for number in (partition, partition + 1))
    chosen = [("hash", ">=", first), ("hash", "<", last)]
    tables = [pyarrow.parquet.read_table(os.fspath(path), columns=list(_COLUMNS[1:]), filters=chosen, use_threads=False) for path in paths]
    table = pyarrow.concat_tables(tables)
    table = table.group_by(["kind", "key"], use_threads=False).aggregate([("number", "sum"), ("of", "sum"), ("example", "min")])
    found = {}
    for kind in sorted(set(table["kind"].to_pylist())):
        own = table.filter(pyarrow.compute.equal(table["kind"], kind))
        numbers = own["number_sum"].to_pylist()
        best = own.sort_by([("number_sum", "descending"), ("of_sum", "descending"), ("key", "ascending")]).slice(0, top)
        rows = zip(*(best[name].to_pylist() for name in ("key", "number_sum", "of_sum", "example_min")), strict=True)
        found[kind] = Tally(
            len(numbers), sum(numbers), sum(own["of_sum"].to_pylist()), sums({two_digits(number): 1} for number in numbers), tuple(rows)
        )
    return found


def joined_tallies(parts: Iterable[Mapping[str, Tally]], top: int) -> dict[str, Tally]:
    """The tallies of all partitions."""
    parts = list(parts)
    found = {}
    for kind in sorted({kind for part in parts for kind in part}):
        same = [part[kind] for part in parts if kind in part]
        best = sorted((row for one in same for row in one.top), key=lambda row: (-row[1], -row[2], row[0]))[:top]
        keys, total, of = (sum(getattr(one, name) for one in same) for name in ("keys", "total", "of"))
        found[kind] = Tally(keys, total, of, sums(one.sizes for one in same), tuple(best))
    return found


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> (64 - _BITS)
