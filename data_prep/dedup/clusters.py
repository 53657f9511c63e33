"""Clusters of documents: what links connect, and which of their members are removed."""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from data_prep.dedup.near import survivors
from data_prep.dedup.removals import Removal, read_removals
from data_prep.dedup.signed import Collection, Part

if TYPE_CHECKING:
    import numpy
    import pyarrow
    from numpy.typing import NDArray

_ROWS = 1_000  # members of a file held until they are written


class Clusters:
    """Connected components of the numbers below `size`. A cluster is known by its smallest number, whatever the order of links.

    The file at `path` takes 8 bytes a number and is mapped into memory, so that the system may put it out to disk; besides, memory
    goes with the links given at a time.
    """

    def __init__(self, path: str | os.PathLike[str], size: int) -> None:
        self._parents = _table(path, size)  # -1 for what is not linked to anything

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

    def of(self, first: int, last: int) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
        """(numbers from first to before last that are linked, the cluster of each)."""
        import numpy

        numbers = first + numpy.flatnonzero(self._parents[first:last] >= 0)
        return numbers, self._roots(numbers)

    def _roots(self, numbers: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        parents = self._parents
        found = parents[numbers]
        while True:
            above = parents[found]
            if (above == found).all():
                return found
            parents[numbers] = above  # paths are cut to half on the way
            found = above


def write_members(paths: Sequence[str], links: Sequence[str], collection: Collection, rank: str, scratch: str) -> list[int]:
    """Write the members of all clusters, those of a cluster to one of `paths`: what ranks them, and a digest of their shingles.

    links     files of int64 [pairs, 2]
    rank      `oldest`, `newest`, `longest`, or anything else for the merit of the collection's parts
    scratch   a folder for 16 bytes a document, freed at the end

    Documents that an earlier corpus removed are left out. Which path a cluster goes to, and all that is written, depends on its
    members alone. Returns how many members went to each path; no file is written for none.
    """
    import numpy
    import pyarrow

    counts, pending = numpy.zeros(len(paths), numpy.int64), _Pending(paths)
    written = numpy.zeros(len(paths), numpy.int64)
    with tempfile.TemporaryDirectory(dir=scratch) as folder, pending:
        clusters = Clusters(os.path.join(folder, "parents"), len(collection))
        for path in links:
            clusters.join(numpy.fromfile(path, "<i8").reshape(-1, 2))
        labels = _table(os.path.join(folder, "labels"), len(collection))
        for part, offset in zip(collection.parts, collection.offsets.tolist(), strict=False):
            numbers, roots = clusters.of(offset, offset + part.documents)
            if not len(numbers):
                continue
            rows = numbers - offset
            table = _facts(part, rows, rank)
            # A cluster's first member decides where the cluster goes; its label is a number among the clusters that go there.
            own = numpy.flatnonzero(numbers == roots)
            chosen = (table.column("digest").to_numpy()[own] % numpy.uint64(len(paths))).astype(numpy.int64)
            for number in numpy.unique(chosen).tolist():
                new = numbers[own[chosen == number]]
                labels[new] = (counts[number] + numpy.arange(len(new))) * len(paths) + number
                counts[number] += len(new)
            label, gone = labels[roots], list(read_removals(part.removed)) if part.removed else []
            stays = ~numpy.isin(rows, numpy.array(gone, numpy.int64))
            table = table.append_column("cluster", pyarrow.array(label // len(paths)))
            for number in numpy.unique(label[stays] % len(paths)).tolist():
                members = numpy.flatnonzero(stays & (label % len(paths) == number))
                pending.add(number, table.take(members))
                written[number] += len(members)
    return written.tolist()


def settled(path: str, collection: Collection, newest: bool, threshold: float, sketch: int) -> dict[str, list[Removal]]:
    """What is removed of the clusters of one file that `write_members` wrote, by the name of the part."""
    import numpy
    import pyarrow.compute
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, use_threads=False)
    keys = [("cluster", "ascending"), ("earlier", "descending"), ("merit", "descending"), ("dated", "descending")]
    keys += [("date", "descending" if newest else "ascending"), *((name, "ascending") for name in ("id", "source", "part", "row"))]
    table = table.take(pyarrow.compute.sort_indices(table, keys))
    clusters, earlier = (table.column(name).to_numpy() for name in ("cluster", "earlier"))
    parts, rows, ids = (table.column(name).to_pylist() for name in ("part", "row", "id"))
    places = zip(earlier.tolist(), parts, rows, strict=True)
    numbers = numpy.array([collection.number(bool(old), part, row) for old, part, row in places], numpy.int64)
    minima = collection.minima(numbers)

    found: dict[str, list[Removal]] = {}
    bounds = [*numpy.flatnonzero(numpy.append(True, clusters[1:] != clusters[:-1])).tolist(), len(clusters)]
    for first, last in itertools.pairwise(bounds):
        kept = int(earlier[first:last].sum())
        sketches = functools.partial(_sketch, collection, numbers[first:last])
        for member, survivor, similarity in survivors(minima[first:last], sketches, threshold, sketch, kept):
            entry = Removal(rows[first + member], ids[first + member], ids[first + survivor], similarity)
            found.setdefault(parts[first + member], []).append(entry)
    return found


class _Pending:
    """Tables on their way to several files, a row group of some size at a time."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._tables: dict[int, list[pyarrow.Table]] = {}
        self._writers: dict[int, Any] = {}

    def add(self, number: int, table: pyarrow.Table) -> None:
        tables = self._tables.setdefault(number, [])
        tables.append(table)
        if sum(part.num_rows for part in tables) >= _ROWS:
            self._write(number)

    def _write(self, number: int) -> None:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.concat_tables(self._tables.pop(number)).combine_chunks()
        if number not in self._writers:
            path = self._paths[number]
            self._writers[number] = pyarrow.parquet.ParquetWriter(
                path, table.schema, compression="zstd", use_dictionary=["part"], write_statistics=False
            )
        self._writers[number].write_table(table, row_group_size=max(1, table.num_rows))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                for number in sorted(self._tables):
                    self._write(number)
        finally:
            for writer in self._writers.values():
                writer.close()


def _facts(part: Part, rows: NDArray[numpy.int64], rank: str) -> pyarrow.Table:
    """What ranks some documents of a part, whatever ranks them; and which they are."""
    import numpy
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(part.files[".parquet"], use_threads=False).take(pyarrow.array(rows))
    merit = numpy.zeros(len(rows))
    if rank == "longest" and not part.earlier:
        merit = table.column("characters").to_numpy().astype(numpy.float64)
    elif part.merit:
        merit = numpy.fromfile(part.merit, "<f8")[rows]
    columns = {
        "part": pyarrow.array([part.name] * len(rows), pyarrow.string()),
        "row": pyarrow.array(rows),
        "earlier": pyarrow.array(numpy.full(len(rows), part.earlier, numpy.int8)),
        "merit": pyarrow.array(numpy.where(numpy.isnan(merit), -numpy.inf, merit)),
        "dated": pyarrow.array(numpy.array([bool(date) for date in table.column("date").to_pylist()], numpy.int8)),
    }
    return pyarrow.table(columns | {name: table.column(name) for name in ("date", "id", "source", "digest")})


def _sketch(collection: Collection, numbers: NDArray[numpy.int64], member: int) -> NDArray[numpy.uint32]:
    return collection.sketch(int(numbers[member]))


def _table(path: str | os.PathLike[str], size: int) -> NDArray[numpy.int64]:
    """int64 [size] of -1 in a file that is mapped into memory."""
    import numpy

    table = numpy.asarray(numpy.memmap(path, numpy.int64, "w+", shape=(size,))) if size else numpy.zeros(0, numpy.int64)
    for first in range(0, size, 1_000_000):
        table[first : first + 1_000_000] = -1
    return table
