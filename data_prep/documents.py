"""Documents and rejects, and the Parquet files that hold them.

A document stage writes what it keeps to `documents/<unit>.parquet` and what it drops to `rejects/<unit>.parquet`. All columns
are strings without nulls ("" where nothing is known). The same rows in the same order give the same bytes, whatever the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP_ROWS = 1_000
ROW_GROUP_CHARACTERS = 16_000_000  # a row group is closed by whichever comes first, so that memory is bounded


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one page.

    id      32 hex digits, a function of the source record alone: stable under another division into files or shards
    url     as the source gives it; "" if it gives none
    text    the main text, paragraphs and list items separated by newlines
    date    of the crawl or publication, ISO 8601 as the source gives it; "" if it gives none
    source  "<file name>#<offset>": byte offset of a WARC record, line number (from 1) of a JSONL file
    extractor      whose text it is of those in `data_prep.extract`; "" if the source held the text itself
    title          in one line
    published      when the page says it was published, `YYYY-MM-DD`
    language_hint  the language the page says it is in, a language tag (BCP 47) in the page's spelling; not to be trusted
    """

    id: str
    url: str
    text: str
    date: str
    source: str
    extractor: str = ""
    title: str = ""
    published: str = ""
    language_hint: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that was dropped. `reason` is one snake_case word, `detail` whatever helps to judge it."""

    id: str
    url: str
    source: str
    reason: str
    detail: str = ""


Row = TypeVar("Row", Document, Reject)


class _RowWriter(Generic[Row]):
    """Writes rows to one Parquet file, a row group at a time. To be used in `with`; `records` counts the rows written."""

    row: type[Row]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import pyarrow
        import pyarrow.parquet

        self.records = 0
        self._names = [field.name for field in fields(self.row)]
        self._schema = pyarrow.schema([pyarrow.field(name, pyarrow.string(), nullable=False) for name in self._names])
        # Neither dictionaries nor statistics: ids, URLs and texts hardly ever repeat, and zstd finds what does.
        self._parquet = pyarrow.parquet.ParquetWriter(
            os.fspath(path), self._schema, compression="zstd", compression_level=3, use_dictionary=False, write_statistics=False
        )
        self._clear()

    def write(self, row: Row) -> None:
        """Append one row. Raises UnicodeEncodeError, when its group is written, for text that is not valid Unicode."""
        for name, column in self._columns.items():
            value = getattr(row, name)
            column.append(value)
            self._characters += len(value)
        self.records += 1
        self._rows += 1
        if self._rows >= ROW_GROUP_ROWS or self._characters >= ROW_GROUP_CHARACTERS:
            self._write_group()

    def _clear(self) -> None:
        self._columns: dict[str, list[str]] = {name: [] for name in self._names}
        self._rows = self._characters = 0

    def _write_group(self) -> None:
        import pyarrow

        self._parquet.write_table(pyarrow.table(self._columns, schema=self._schema), row_group_size=self._rows)
        self._clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None and self._rows:
                self._write_group()
        finally:
            self._parquet.close()


class DocumentWriter(_RowWriter[Document]):
    row = Document


class RejectWriter(_RowWriter[Reject]):
    row = Reject


def read_documents(path: str | os.PathLike[str]) -> Iterator[Document]:
    """The documents of one file in order, in bounded memory."""
    return _read(path, Document)


def read_rejects(path: str | os.PathLike[str]) -> Iterator[Reject]:
    """The rejects of one file in order, in bounded memory."""
    return _read(path, Reject)


def _read(path: str | os.PathLike[str], row: type[Row]) -> Iterator[Row]:
    names = [field.name for field in fields(row)]
    for batch in read_batches(path, names):
        columns: list[list[Any]] = [batch.column(name).to_pylist() for name in names]
        yield from map(row, *columns)


def read_batches(path: str | os.PathLike[str], columns: Sequence[str] | None = None, rows: int = 256) -> Iterator[pyarrow.RecordBatch]:
    """Arrow batches of at most `rows` rows, with only the named columns: the fast way when few columns are wanted."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(os.fspath(path)) as file:
        yield from file.iter_batches(batch_size=rows, columns=None if columns is None else list(columns), use_threads=False)


def count_rows(path: str | os.PathLike[str]) -> int:
    """The number of rows, read from the file's footer alone."""
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(os.fspath(path)).num_rows)
