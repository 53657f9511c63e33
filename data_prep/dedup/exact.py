"""Exact duplicates: documents with equal keys, which are their normalised texts or their normalised URLs.

Three steps, so that a new file costs one new table: a table of hashed keys for each file of documents (`write_hashes`); a comparison of
all tables, partition by partition of the keys (`removals`); each file written again without the documents on its list.

Texts are equal when they are after Unicode NFC, case folding (and NFC again, which folding can undo) and every run of white space made
one space, none at the ends. The survivor is the one with the oldest date (or the newest, where that is asked for), then the smallest
id, then the smallest source: nothing of it depends on files or workers, and where the oldest survives, a crawl newer than all before
it removes only documents of its own. Dates are compared as strings, which for ISO 8601 is their order; a document without one comes
after all that have one.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from data_prep.dedup.removals import Removal
from data_prep.documents import Document

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

HASH_BYTES = 16
NO_KEY = bytes(HASH_BYTES)  # of a document that is nobody's duplicate, like one without a URL


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
    return _hash(normalise(text))


def text_key(document: Document) -> bytes:
    """By which documents of one text are found."""
    return text_hash(document.text)


def url_key(document: Document) -> bytes:
    """By which documents of one URL are found."""
    from data_prep.urls import normalise as normalise_url

    return _hash(normalise_url(document.url)) if document.url else NO_KEY


def write_hashes(path: str | os.PathLike[str], documents: Iterable[Document], key: Callable[[Document], bytes] = text_key) -> int:
    """Write the hashed key and the rank (date, id, source) of every document, in order. Returns how many."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, list[Any]] = {"hash": [], "date": [], "id": [], "source": []}
    for document in documents:
        columns["hash"].append(key(document))
        for name in ("date", "id", "source"):
            columns[name].append(getattr(document, name))
    schema = pyarrow.schema(
        [("hash", pyarrow.binary(HASH_BYTES)), ("date", pyarrow.string()), ("id", pyarrow.string()), ("source", pyarrow.string())]
    )
    table = pyarrow.table(columns, schema=schema)
    pyarrow.parquet.write_table(table, os.fspath(path), compression="zstd", use_dictionary=False, write_statistics=False)
    return len(columns["hash"])


def removals(paths: Sequence[str], newest: bool = False, partition: int = 0, partitions: int = 1) -> list[list[Removal]]:
    """For each table of hashes, what to remove from its file, by row, as far as its keys are in one of `partitions` equal ranges.

    Holds 8 bytes of every document of the partition and the rows of those that may be duplicates (the first 8 bytes of their hash
    occur twice).
    """
    import numpy
    import pyarrow.parquet

    heads = [_heads(path) for path in paths]
    low, high = ((number << 64) // partitions for number in (partition, partition + 1))
    inside = [head[(head >= numpy.uint64(low)) & (head <= numpy.uint64(high - 1)) & (head > 0)] for head in heads]
    ordered = numpy.sort(numpy.concatenate([numpy.zeros(0, numpy.uint64), *inside]))
    repeated = numpy.unique(ordered[1:][ordered[1:] == ordered[:-1]])

    groups: dict[bytes, list[tuple[str, str, str, int, int]]] = {}
    for file, (path, head) in enumerate(zip(paths, heads, strict=True)):
        rows = numpy.flatnonzero(numpy.isin(head, repeated))
        if not rows.size:
            continue
        table = pyarrow.parquet.read_table(path, use_threads=False).take(rows)
        hashes, dates, ids, sources = (table.column(name).to_pylist() for name in ("hash", "date", "id", "source"))
        for key, date, identity, source, row in zip(hashes, dates, ids, sources, rows.tolist(), strict=True):
            groups.setdefault(key, []).append((date, identity, source, file, row))

    lists: list[list[Removal]] = [[] for _ in paths]
    for group in groups.values():
        group.sort(key=lambda member: member[1:])
        group.sort(key=lambda member: member[0], reverse=newest)
        group.sort(key=lambda member: not member[0])
        survivor, *rest = group
        for _, identity, _, file, row in rest:
            lists[file].append(Removal(row, identity, survivor[1]))
    return [sorted(entries, key=lambda removal: removal.row) for entries in lists]


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=HASH_BYTES).digest()


def _heads(path: str) -> NDArray[numpy.uint64]:
    """The first 8 bytes of every hash as uint64, [documents]."""
    import numpy
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(path, columns=["hash"], use_threads=False).column("hash")
    data = b"".join(column.to_pylist())
    return numpy.frombuffer(data, numpy.uint64).reshape(-1, HASH_BYTES // 8)[:, 0].copy()
