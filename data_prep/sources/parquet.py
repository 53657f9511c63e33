"""Parquet files of ready texts: rows with a column `text` and, if there, `url`, `id` and `date`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data_prep.sources import Damaged, Outcome, PlainText, Record, Rejected
from pipeline.stage import UserError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

COLUMNS = ("text", "url", "id", "date")

_ROWS = 256  # decoded at once


def row_groups(path: str | os.PathLike[str]) -> list[int]:
    """Bytes of each row group as they lie in the file; empty for a file that cannot be read as Parquet."""
    import pyarrow
    import pyarrow.parquet

    try:
        footer = pyarrow.parquet.read_metadata(os.fspath(path))
    except (pyarrow.ArrowException, OSError) as error:
        if _is_of_the_system(error):
            raise
        return []
    groups = (footer.row_group(number) for number in range(footer.num_row_groups))
    return [sum(group.column(column).total_compressed_size for column in range(group.num_columns)) for group in groups]


def read_parquet(path: str | os.PathLike[str], max_bytes: int, start: int = 0, end: int | None = None) -> Iterator[Outcome]:
    """The rows of the row groups from `start` to before `end`, in order; all by default. Memory is bounded by some pages of the file.

    The location of a row is its number in the file, from 1. A row without text, or a row group that cannot be decoded (from the row
    on where it fails), is `Damaged`. OSError is raised when the file itself cannot be read.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(os.fspath(path), buffer_size=1 << 20, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        if _is_of_the_system(error):
            raise
        yield Damaged(Record("1"), f"not a Parquet file ({error})")
        return
    with file:
        names = [name for name in COLUMNS if name in file.schema_arrow.names]
        if "text" not in names:
            raise UserError(f"{os.fspath(path)}: has no column `text`, only {', '.join(file.schema_arrow.names)[:200]}; rename its column")
        row = 1 + sum(file.metadata.row_group(group).num_rows for group in range(start))
        for group in range(start, file.num_row_groups if end is None else end):
            next_group = row + file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(_ROWS, row_groups=[group], columns=names, use_threads=False):
                    yield from judge_rows(batch, row, max_bytes)
                    row += batch.num_rows
            except (pyarrow.ArrowException, OSError) as error:
                if _is_of_the_system(error):
                    raise
                yield Damaged(Record(str(row)), f"damaged row group {group}, {next_group - row} rows are lost ({error})"[:500])
            row = next_group


def judge_rows(batch: pyarrow.RecordBatch, row: int, max_bytes: int) -> Iterator[Outcome]:
    """The outcomes of a batch whose first row has the number `row`; the columns are some of `COLUMNS`."""
    values = {name: _strings(batch.column(name)) for name in batch.schema.names if name in COLUMNS}
    nothing = [None] * batch.num_rows
    columns = [values.get(name, nothing) for name in COLUMNS]
    for number, (text, url, identity, date) in enumerate(zip(*columns, strict=True), row):
        named = "\0".join("" if value is None else value for value in (identity, url, date))
        key = hashlib.sha256(f"{named}\0{text or ''}".encode("utf-8", "surrogatepass")).digest()
        record = Record(str(number), url or "", date or "", key)
        if text is None:
            yield Damaged(record, "no text in UTF-8")
        elif len(text) > max_bytes or (len(text) * 4 > max_bytes and len(text.encode("utf-8", "surrogatepass")) > max_bytes):
            yield Rejected(record, "too_large", f"text of {len(text)} characters")
        else:
            yield PlainText(record, text)


def _strings(column: Any) -> list[str | None]:
    """The values as strings: dates and numbers in Arrow's way of writing them."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (
        pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type) or pyarrow.types.is_string_view(column.type)
    ):
        column = column.cast(pyarrow.string())
    try:
        values: list[str | None] = column.to_pylist()
    except UnicodeDecodeError:
        return [_decoded(value) for value in column.cast(pyarrow.large_binary()).to_pylist()]
    return values


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _is_of_the_system(error: BaseException) -> bool:
    """Whether the disk failed, not the file's content: Arrow raises OSError for both, but only the system's have a number."""
    return isinstance(error, OSError) and error.errno is not None
