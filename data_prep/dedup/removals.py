"""Lists of what to remove from files of documents.

What decides about removals looks at many files of documents at once and writes what it found grouped by file (`write_found`). The list
of one file is then gathered from all that was found (`Found`), so that never more than one list is in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, slots=True)
class Removal:
    """A document to remove: its row (from 0) in its file, its id, the id of the document that stays instead, their similarity."""

    row: int
    id: str
    survivor: str
    similarity: float = 1.0


def table_of(removals: Sequence[Removal]) -> pyarrow.Table:
    """Removals as a table, a column for each field."""
    import pyarrow

    schema = pyarrow.schema(
        [("row", pyarrow.int64()), ("id", pyarrow.string()), ("survivor", pyarrow.string()), ("similarity", pyarrow.float64())]
    )
    return pyarrow.table({name: [getattr(removal, name) for removal in removals] for name in schema.names}, schema=schema)


def write_list(path: str | os.PathLike[str], entries: pyarrow.Table) -> None:
    """The list of one file of documents. The same entries give the same bytes."""
    import pyarrow.parquet

    pyarrow.parquet.write_table(entries, os.fspath(path), compression="zstd", use_dictionary=False, write_statistics=False)


def write_removals(path: str | os.PathLike[str], removals: Sequence[Removal]) -> None:
    """The list of documents to remove from one file."""
    write_list(path, table_of(removals))


def read_removals(path: str | os.PathLike[str]) -> dict[int, Removal]:
    """Removals by row."""
    import pyarrow.parquet

    return {entry["row"]: Removal(**entry) for entry in pyarrow.parquet.read_table(path, use_threads=False).to_pylist()}


def write_found(path: str | os.PathLike[str], found: Mapping[str, pyarrow.Table], schema: pyarrow.Schema) -> None:
    """What was found about several files of documents, by the name of the file: a row group for each."""
    import pyarrow.parquet

    names = sorted(name for name, entries in found.items() if entries.num_rows)
    schema = schema.with_metadata({"names": json.dumps(names)})
    with pyarrow.parquet.ParquetWriter(os.fspath(path), schema, compression="zstd", use_dictionary=False, write_statistics=False) as writer:
        for name in names:
            writer.write_table(found[name].replace_schema_metadata(schema.metadata), row_group_size=found[name].num_rows)


class Found:
    """Files written by `write_found`, to be used in `with`."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    def of(self, name: str) -> pyarrow.Table | None:
        """What was found about one file of documents, in the order of its rows; None where nothing was."""
        import pyarrow

        tables = [file.read_row_group(groups[name], use_threads=False) for file, groups in self._files if name in groups]
        if not tables:
            return None
        table = pyarrow.concat_tables(tables)
        return table.sort_by([(column, "ascending") for column in table.column_names]).replace_schema_metadata(None)

    def __enter__(self) -> Self:
        import pyarrow.parquet

        self._files: list[tuple[Any, dict[str, int]]] = []
        with contextlib.ExitStack() as stack:
            for path in self._paths:
                file = stack.enter_context(pyarrow.parquet.ParquetFile(path))
                names = json.loads(file.schema_arrow.metadata[b"names"])
                self._files.append((file, {name: group for group, name in enumerate(names)}))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
