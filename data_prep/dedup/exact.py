"""Exact duplicates: documents whose normalised texts are equal.

Three steps, so that a new shard costs one new shard: a hash table for each shard of documents (`write_hashes`); one reduction over
all tables to a list of removals for each shard (`removals`); each shard rewritten without the documents on its list.

Texts are equal when they are after Unicode NFC, case folding (and NFC again, which folding can undo) and every run of white space made
one space, none at the ends. The survivor is the one with the oldest date, then the smallest id, then the smallest source: nothing of
it depends on shards or workers, and a crawl newer than all before it removes only documents of its own. Dates are compared as
strings, which for ISO 8601 is their order; a document without one is younger than all that have one.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_prep.documents import Document

if TYPE_CHECKING:
    import numpy
    import pyarrow
    from numpy.typing import NDArray

HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class Removal:
    """A document to remove: its row (from 0) in its shard, its id, and the id of the document that stays instead."""

    row: int
    id: str
    survivor: str


def normalise(text: str) -> str:
    """The form whose equality makes two texts duplicates."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def text_hash(text: str) -> bytes:
    """BLAKE2b of the normalised text, 16 bytes: two different texts collide with probability 2^-128."""
    return hashlib.blake2b(normalise(text).encode(), digest_size=HASH_BYTES).digest()


def write_hashes(path: str | os.PathLike[str], documents: Iterable[Document]) -> int:
    """Write the hash and the rank (date, id, source) of every document, in order. Returns how many."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, list[Any]] = {"hash": [], "date": [], "id": [], "source": []}
    for document in documents:
        columns["hash"].append(text_hash(document.text))
        for name in ("date", "id", "source"):
            columns[name].append(getattr(document, name))
    schema = pyarrow.schema(
        [("hash", pyarrow.binary(HASH_BYTES)), ("date", pyarrow.string()), ("id", pyarrow.string()), ("source", pyarrow.string())]
    )
    _write(path, pyarrow.table(columns, schema=schema))
    return len(columns["hash"])


def removals(paths: Sequence[str]) -> list[list[Removal]]:
    """For each hash table, what to remove from its shard, by row.

    Holds 8 bytes of every document and the rows of those that may be duplicates (the first 8 bytes of their hash occur twice).
    """
    import numpy
    import pyarrow.parquet

    heads = [_heads(path) for path in paths]
    ordered = numpy.sort(numpy.concatenate([numpy.zeros(0, numpy.uint64), *heads]))
    repeated = numpy.unique(ordered[1:][ordered[1:] == ordered[:-1]])

    groups: dict[bytes, list[tuple[bool, str, str, str, int, int]]] = {}
    for shard, (path, head) in enumerate(zip(paths, heads, strict=True)):
        rows = numpy.flatnonzero(numpy.isin(head, repeated))
        if not rows.size:
            continue
        table = pyarrow.parquet.read_table(path, use_threads=False).take(rows)
        hashes, dates, ids, sources = (table.column(name).to_pylist() for name in ("hash", "date", "id", "source"))
        for key, date, identity, source, row in zip(hashes, dates, ids, sources, rows.tolist(), strict=True):
            groups.setdefault(key, []).append((not date, date, identity, source, shard, row))

    lists: list[list[Removal]] = [[] for _ in paths]
    for group in groups.values():
        survivor, *rest = sorted(group)
        for *_, identity, _, shard, row in rest:
            lists[shard].append(Removal(row, identity, survivor[2]))
    return [sorted(entries, key=lambda removal: removal.row) for entries in lists]


def write_removals(path: str | os.PathLike[str], entries: Sequence[Removal]) -> None:
    """The same removals give the same bytes."""
    import pyarrow

    schema = pyarrow.schema([("row", pyarrow.int64()), ("id", pyarrow.string()), ("survivor", pyarrow.string())])
    _write(path, pyarrow.table({name: [getattr(entry, name) for entry in entries] for name in schema.names}, schema=schema))


def read_removals(path: str | os.PathLike[str]) -> dict[int, Removal]:
    """Removals by row."""
    import pyarrow.parquet

    return {entry["row"]: Removal(**entry) for entry in pyarrow.parquet.read_table(path, use_threads=False).to_pylist()}


def _heads(path: str) -> NDArray[numpy.uint64]:
    """The first 8 bytes of every hash as uint64, [documents]."""
    import numpy
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(path, columns=["hash"], use_threads=False).column("hash")
    data = b"".join(column.to_pylist())
    return numpy.frombuffer(data, numpy.uint64).reshape(-1, HASH_BYTES // 8)[:, 0].copy()


def _write(path: str | os.PathLike[str], table: pyarrow.Table) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, os.fspath(path), compression="zstd", use_dictionary=False, write_statistics=False)
