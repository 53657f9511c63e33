"""Lines or paragraphs that occur again and again: of all occurrences in a corpus one stays, in the text of the others it is cut out.

line        what stands between newlines; paragraph: what stands between lines of white space only
equal       after the normalisation of exact duplicates (exact.py): letter case, white space and Unicode composition do not count
stays       the first occurrence in the document with the oldest date (or the newest, where that is asked for), compared by its first 16
            characters; of one date, in the document with the smallest hash of id and source

C4 does this with spans of three sentences (Raffel et al. 2020), CCNet with paragraphs, which are lines there (Wenzek et al. 2020);
neither knows a rank. Pieces shorter than a limit are left alone: headings, braces, the lines of a poem. Keys are 64-bit hashes: of a
billion different pieces, one in 40 corpora has a pair that is taken for equal.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from data_prep.dedup.entries import mapped, read_entries, write_entries
from data_prep.dedup.exact import normalise
from data_prep.documents import Document

if TYPE_CHECKING:
    import numpy
    import pyarrow
    from numpy.typing import NDArray

SEPARATORS = {"line": re.compile(r"(\n)"), "paragraph": re.compile(r"(\n[^\S\n]*\n\s*)")}
SUFFIXES = (".keys", ".order")

_GAP = re.compile(r"\n{3,}")
_WORDS = 3  # of 8 bytes, in the order of a document: 16 characters of its date, a hash
_UNDATED = b"\xff" * 16


def piece_key(piece: str, min_characters: int) -> int | None:
    """The key of a line or paragraph; None for one that is too short to be looked at (in normalised characters)."""
    text = normalise(piece)
    if len(text) < max(1, min_characters):
        return None
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def write_pieces(path: Mapping[str, str], documents: Iterable[Document], unit: str, min_characters: int) -> int:
    """Write the keys of all pieces of one file of documents and the order of its documents; `path` by suffix. Returns their number."""
    import numpy

    keys: list[int] = []
    counts: list[int] = []
    with open(path[".order"], "wb") as order:
        for document in documents:
            own = {piece_key(piece, min_characters) for piece in SEPARATORS[unit].split(document.text)[::2]} - {None}
            keys.extend(key for key in own if key is not None)
            counts.append(len(own))
            date = document.date[:16].encode()[:16].ljust(16, b"\0") if document.date else _UNDATED
            order.write(date + hashlib.blake2b(f"{document.id}\0{document.source}".encode(), digest_size=8).digest())
    rows = numpy.repeat(numpy.arange(len(counts), dtype=numpy.uint32), counts)
    write_entries(path[".keys"], numpy.array(keys, numpy.uint64), rows)
    return len(counts)


def repeated(
    files: Sequence[Mapping[str, str]], newest: bool = False, partition: int = 0, partitions: int = 1
) -> list[tuple[NDArray[numpy.uint32], NDArray[numpy.uint64]]]:
    """What to cut out of each file of documents, as far as keys are in one of `partitions` equal ranges: rows and keys, both [cuts]."""
    import numpy

    entries = [read_entries(file[".keys"], partition, partitions) for file in files]
    numbers = numpy.repeat(numpy.arange(len(files)), [len(keys) for keys, _ in entries])
    keys = numpy.concatenate([numpy.zeros(0, numpy.uint64), *(keys for keys, _ in entries)])
    rows = numpy.concatenate([numpy.zeros(0, numpy.uint32), *(rows for _, rows in entries)])
    ordered = numpy.sort(keys)
    inside = numpy.isin(keys, ordered[1:][ordered[1:] == ordered[:-1]])
    keys, rows, numbers = keys[inside], rows[inside], numbers[inside]

    orders = numpy.empty((len(keys), _WORDS), numpy.uint64)
    for number in numpy.unique(numbers).tolist():
        own = numbers == number
        orders[own] = mapped(files[number][".order"], ">u8").reshape(-1, _WORDS)[rows[own]]
    if newest:
        dated = orders[:, 0] != numpy.uint64(0xFFFFFFFFFFFFFFFF)
        orders[dated, :2] = ~orders[dated, :2]
    order = numpy.lexsort((rows, numbers, *orders.T[::-1], keys))
    again = order[numpy.append(False, keys[order][1:] == keys[order][:-1])[: len(order)]]
    return [(rows[own], keys[own]) for own in (again[numbers[again] == number] for number in range(len(files)))]


def without(text: str, cuts: frozenset[int] | set[int], unit: str, min_characters: int) -> str:
    """The text without the pieces whose keys are in `cuts`, and without those that came before in the text itself."""
    parts = SEPARATORS[unit].split(text)
    met = set(cuts)
    kept, cut = [], False
    for piece, separator in zip(parts[::2], [*parts[1::2], ""], strict=True):
        key = piece_key(piece, min_characters)
        if key in met:
            cut = True
            continue
        if key is not None:
            met.add(key)
        kept.append(piece + separator)
    return _GAP.sub("\n\n", "".join(kept)).strip() if cut else text


def cuts_table(rows: NDArray[numpy.uint32], keys: NDArray[numpy.uint64]) -> pyarrow.Table:
    """Cuts as a table with the columns `row` and `key`."""
    import pyarrow

    return pyarrow.table({"row": pyarrow.array(rows, pyarrow.int64()), "key": pyarrow.array(keys, pyarrow.uint64())})


def read_cuts(path: str | os.PathLike[str]) -> dict[int, set[int]]:
    """The keys to cut out, by row."""
    import pyarrow.parquet

    cuts: dict[int, set[int]] = {}
    table = pyarrow.parquet.read_table(path, use_threads=False)
    for row, key in zip(table.column("row").to_pylist(), table.column("key").to_pylist(), strict=True):
        cuts.setdefault(row, set()).add(key)
    return cuts
