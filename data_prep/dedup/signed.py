"""What near-duplicate detection keeps of documents instead of their texts: band keys, signatures, sketches, and what ranks them.

One file of documents gives five files, each without a header, in the order of the documents unless said otherwise:

.keys      all band keys with the row of their document, see entries.py
.minima    the lowest byte of every value of a document's signature, [documents, bands × rows]
.sketch    the smallest hashes of its shingles as uint32, ascending, one document after the other
.bounds    where its sketch begins and the last one ends, int64 [documents + 1]
.parquet   id, date, source; characters of its text; digest of its shingle set (the sum of the mixed hashes)

A document without shingles has no keys. At 600 words a document the five take some 2.9 KB of it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from data_prep.dedup.entries import mapped, read_entries, write_entries
from data_prep.dedup.minhash import BANDS, ROWS, band_keys, signatures
from data_prep.dedup.shingles import BATCH_CHARACTERS, shingles
from data_prep.documents import Document
from data_prep.hashing import mixed
from data_prep.segment import batches
from pipeline.stage import UserError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_OPEN_FILES = 100

SUFFIXES = (".keys", ".minima", ".sketch", ".bounds", ".parquet")


@dataclass(frozen=True)
class Signing:
    """How documents are signed. Corpora signed alike can be compared without their texts."""

    words: Annotated[int, Meta(ge=1, le=50, description="words of a shingle")] = 5
    characters: Annotated[int, Meta(ge=1, le=100, description="characters of a shingle in scripts without spaces")] = 9
    bands: Annotated[int, Meta(ge=1, le=256, description="bands of a signature; more find less similar pairs")] = BANDS
    rows: Annotated[int, Meta(ge=1, le=64, description="values of a band; more find only more similar pairs")] = ROWS
    sketch: Annotated[int, Meta(ge=64, description="shingle hashes kept of a document to verify with, 4 bytes each")] = 1_024


def write_signed(path: Callable[[str], str], documents: Iterable[Document], signing: Signing) -> int:
    """Sign the documents of one file; `path` gives the path of the file with a suffix. Returns how many there were."""
    import numpy
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [(name, pyarrow.string()) for name in ("id", "date", "source")] + [("characters", pyarrow.int64()), ("digest", pyarrow.uint64())]
    )
    facts: dict[str, list[Any]] = {name: [] for name in schema.names}
    keys, rows, total, end = [numpy.zeros(0, numpy.uint64)], [numpy.zeros(0, numpy.uint32)], 0, 0
    with contextlib.ExitStack() as stack:
        minima, sketch, bounds = (stack.enter_context(open(path(suffix), "wb")) for suffix in (".minima", ".sketch", ".bounds"))
        bounds.write(numpy.zeros(1, "<i8").tobytes())
        for batch in batches(documents, lambda document: document.text, BATCH_CHARACTERS):
            sets = shingles([document.text for document in batch], signing.words, signing.characters)
            signed = signatures(sets, signing.bands * signing.rows)
            counts = numpy.diff(sets.bounds)
            filled = numpy.flatnonzero(counts)
            keys.append(band_keys(signed[filled], signing.bands, signing.rows).ravel())
            rows.append(numpy.repeat(total + filled, signing.bands).astype(numpy.uint32))
            minima.write(signed.astype(numpy.uint8).tobytes())
            places = numpy.arange(len(sets.hashes)) - numpy.repeat(sets.bounds[:-1], counts)
            sketch.write(sets.hashes[places < signing.sketch].astype("<u4").tobytes())
            ends = end + numpy.cumsum(numpy.minimum(counts, signing.sketch))
            bounds.write(ends.astype("<i8").tobytes())
            total, end = total + len(batch), int(ends[-1])
            for name in ("id", "date", "source"):
                facts[name] += [getattr(document, name) for document in batch]
            facts["characters"] += [len(document.text) for document in batch]
            facts["digest"] += _digests(sets.hashes, sets.bounds).tolist()
    table = pyarrow.table(facts, schema=schema)
    pyarrow.parquet.write_table(table, path(".parquet"), compression="zstd", use_dictionary=False, write_statistics=False)
    write_entries(path(".keys"), numpy.concatenate(keys), numpy.concatenate(rows))
    return total


def write_merit(path: str | os.PathLike[str], facts: str, scores: str, column: str) -> int:
    """Write a column of a table of scores for the documents of one signed file (`facts`: its .parquet). Returns how many these are.

    The table may score more documents. UserError where it scores one of these not at all, or has no such column of numbers.
    """
    import numpy
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(scores)
    numbers = [field.name for field in schema if pyarrow.types.is_floating(field.type) or pyarrow.types.is_integer(field.type)]
    if column not in numbers:
        raise UserError(f"rank={column}: no column of the scores; they have {', '.join(numbers)}; or set oldest, newest or longest")
    table = pyarrow.parquet.read_table(scores, columns=["id", column], use_threads=False)
    merits = dict(zip(table.column("id").to_pylist(), table.column(column).to_pylist(), strict=True))
    ids = pyarrow.parquet.read_table(facts, columns=["id"], use_threads=False).column("id").to_pylist()
    missing = next((identity for identity in ids if identity not in merits), None)
    if missing is not None:
        raise UserError(f"{scores} does not score {missing}: needs.scores must have scored what needs.corpus comes from")
    with open(path, "wb") as stream:
        stream.write(numpy.array([merits[identity] for identity in ids], "<f8").tobytes())
    return len(ids)


@dataclass(frozen=True, slots=True)
class Part:
    """A signed file of documents: where its five files are today, by suffix.

    earlier   whether it belongs to an earlier corpus, whose documents stay as they are
    removed   its removal list, "" if there is none; only of earlier ones
    merit     file of float64 [documents] which ranks them, higher before lower; "" where it is not what ranks them
    """

    name: str
    documents: int
    files: Mapping[str, str]
    earlier: bool = False
    removed: str = ""
    merit: str = ""


class Collection:
    """Signed parts as one sequence of documents, numbered through in the order of the parts (earlier ones first)."""

    def __init__(self, parts: Sequence[Part], values: int) -> None:
        import numpy

        self.parts, self._values = tuple(parts), values
        self.offsets = numpy.concatenate(([0], numpy.cumsum([part.documents for part in parts], dtype=numpy.int64)))
        self.first_new = sum(part.documents for part in parts if part.earlier)
        self._places = {(part.earlier, part.name): place for place, part in enumerate(parts)}
        self._opened: dict[tuple[int, str], FileIO] = {}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Collection:
        """The collection that `write` wrote."""
        stored = json.loads(Path(path).read_text())
        return cls([Part(**part) for part in stored["parts"]], stored["values"])

    def write(self, path: str | os.PathLike[str]) -> None:
        Path(path).write_text(json.dumps({"parts": [asdict(part) for part in self.parts], "values": self._values}))

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def entries(self, partition: int, partitions: int) -> tuple[NDArray[numpy.uint64], NDArray[numpy.int64]]:
        """(keys, number of the document that has it) of one of `partitions` equal ranges of keys; all entries of a key are in one range."""
        import numpy

        parts = [read_entries(part.files[".keys"], partition, partitions) for part in self.parts]
        keys = [numpy.zeros(0, numpy.uint64), *(keys for keys, _ in parts)]
        documents = [numpy.zeros(0, numpy.int64), *(rows + offset for (_, rows), offset in zip(parts, self.offsets, strict=False))]
        return numpy.concatenate(keys), numpy.concatenate(documents)

    def minima(self, documents: NDArray[numpy.int64]) -> NDArray[numpy.uint8]:
        """The signatures' lowest bytes, [documents, values]."""
        import numpy

        found = numpy.empty((len(documents), self._values), numpy.uint8)
        places = numpy.searchsorted(self.offsets, documents, "right") - 1
        for place in numpy.unique(places).tolist():
            inside = numpy.flatnonzero(places == place)
            stored = mapped(self.parts[place].files[".minima"], "u1").reshape(-1, self._values)
            found[inside] = stored[documents[inside] - self.offsets[place]]
        return found

    def sketch(self, document: int) -> NDArray[numpy.uint32]:
        """The sketch of one document."""
        import numpy

        place = int(numpy.searchsorted(self.offsets, document, "right")) - 1
        row = document - int(self.offsets[place])
        # Read, not mapped: what was read of a mapped file would count as memory of the process.
        first, last = numpy.frombuffer(os.pread(self._open(place, ".bounds"), 16, row * 8), "<i8").tolist()
        return numpy.frombuffer(os.pread(self._open(place, ".sketch"), (last - first) * 4, first * 4), "<u4")

    def number(self, earlier: bool, name: str, row: int) -> int:
        """The number of a document by its part and row."""
        return int(self.offsets[self._places[earlier, name]]) + row

    def _open(self, place: int, suffix: str) -> int:
        """The descriptor of one file of a part. The last ones opened stay open."""
        if (place, suffix) not in self._opened:
            if len(self._opened) >= _OPEN_FILES:
                self._opened.pop(next(iter(self._opened))).close()
            self._opened[place, suffix] = FileIO(self.parts[place].files[suffix])
        return self._opened[place, suffix].fileno()


def _digests(hashes: NDArray[numpy.uint32], bounds: NDArray[numpy.int64]) -> NDArray[numpy.uint64]:
    """A number for each set of hashes, [sets]; different sets have the same with probability 2^-64."""
    import numpy

    sums = numpy.concatenate((numpy.zeros(1, numpy.uint64), numpy.cumsum(mixed(hashes.astype(numpy.uint64) + numpy.uint64(1)))))
    return sums[bounds[1:]] - sums[bounds[:-1]]
