"""The tables of scores and of lines, as Parquet files beside the documents they speak of, and the verdicts on their rows.

scores   a row a document: id, language, language_score, Gopher's measures and classifier_score (NaN without a classifier)
lines    a row a document: lists with an entry a line, see `data_prep.quality.lines`; `foreign` is the score of the language of the line's
         paragraph where that is another language than the document's, else 0, and NaN where it was not asked
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from data_prep.documents import read_batches
from data_prep.quality import gopher, lines
from data_prep.quality.lines import Lines
from data_prep.quality.verdicts import Limit, LineRules, Thresholds, limits, missed

if TYPE_CHECKING:
    import numpy
    import pyarrow
    from numpy.typing import NDArray

SCORES = ("language_score", *gopher.SCORES, "classifier_score")
ROW_GROUP_ROWS = 1_000
_BATCH_ROWS = 250  # divides a row group, so batches of both tables hold the same rows


class TableWriter:
    """Writes one Parquet file a row group at a time. To be used in `with`; `records` counts the rows written."""

    def __init__(self, path: str | os.PathLike[str], schema: pyarrow.Schema) -> None:
        import pyarrow.parquet

        self.records = 0
        self._waiting: list[pyarrow.Table] = []
        self._rows = 0
        texts = [field.name for field in schema if field.name == "language"]
        self._parquet = pyarrow.parquet.ParquetWriter(
            os.fspath(path), schema, compression="zstd", use_dictionary=texts, write_statistics=False
        )

    def write(self, table: pyarrow.Table) -> None:
        """Append the rows of a table."""
        self._waiting.append(table)
        self._rows += table.num_rows
        self.records += table.num_rows
        while self._rows >= ROW_GROUP_ROWS:
            self._write_group(ROW_GROUP_ROWS)

    def _write_group(self, rows: int) -> None:
        import pyarrow

        joined = pyarrow.concat_tables(self._waiting)
        self._parquet.write_table(joined.slice(0, rows).combine_chunks(), row_group_size=rows)
        self._rows -= rows
        self._waiting = [joined.slice(rows)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None and self._rows:
                self._write_group(self._rows)
        finally:
            self._parquet.close()


def score_schema(names: Sequence[str] = SCORES, language: bool = True) -> pyarrow.Schema:
    import pyarrow

    texts = [("id", pyarrow.string()), *([("language", pyarrow.string())] if language else [])]
    return pyarrow.schema([*texts, *((name, pyarrow.float64()) for name in names)])


def line_schema() -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema(
        [
            ("id", pyarrow.string()),
            *((name, pyarrow.list_(pyarrow.int32())) for name in lines.COLUMNS),
            ("foreign", pyarrow.list_(pyarrow.float32())),
        ]
    )


def line_table(ids: Sequence[str], measured: Lines) -> pyarrow.Table:
    """The rows of `lines` for some documents."""
    import pyarrow

    offsets = pyarrow.array(measured.texts, pyarrow.int32())
    columns = [
        pyarrow.ListArray.from_arrays(offsets, pyarrow.array(getattr(measured, field.name), field.type.value_type))
        for field in line_schema()
        if field.name != "id"
    ]
    return pyarrow.table([pyarrow.array(ids, pyarrow.string()), *columns], schema=line_schema())


@dataclass(frozen=True, slots=True)
class Rows:
    """Some documents' rows of both tables: ids, languages, scores by name [rows], lines."""

    ids: list[str]
    languages: list[str]
    scores: Mapping[str, list[float]]
    lines: Lines


def read(scores_path: str, lines_path: str) -> Iterator[Rows]:
    """Both tables side by side, in bounded memory."""
    for scores, measured in zip(read_batches(scores_path, rows=_BATCH_ROWS), read_batches(lines_path, rows=_BATCH_ROWS), strict=True):
        ids = scores.column("id").to_pylist()
        if ids != measured.column("id").to_pylist():
            raise ValueError(f"{lines_path}: not of the documents of {scores_path}")
        numbers = {name: scores.column(name).to_pylist() for name in SCORES}
        yield Rows(ids, scores.column("language").to_pylist(), numbers, _lines(measured))


def _lines(batch: pyarrow.RecordBatch) -> Lines:
    import numpy

    names = [name for name in batch.schema.names if name != "id"]
    sizes = batch.column("words").value_lengths().to_numpy(zero_copy_only=False)
    texts = numpy.concatenate((numpy.zeros(1, numpy.int64), numpy.cumsum(sizes)))
    return Lines(texts, **{name: batch.column(name).flatten().to_numpy(zero_copy_only=False) for name in names})


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What becomes of some documents.

    reasons  None for a document to keep, else (reason, detail) of the first threshold that it misses [rows]
    scores   of what stays of their lines, by name [rows]
    stays    which of their lines stay [lines]
    """

    reasons: list[tuple[str, str] | None]
    scores: Mapping[str, NDArray[numpy.float64]]
    stays: NDArray[numpy.bool_]


class Judge:
    """Thresholds made ready for documents in any language."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._languages = thresholds.language.languages
        self._ready: dict[str, tuple[LineRules, tuple[Limit, ...]]] = {}

    def __call__(self, rows: Rows) -> Verdicts:
        """The verdicts on some documents; `classifier.top_fraction` is no part of them."""
        ready = [self._of(language) for language in rows.languages]
        stays, left = lines.judge(rows.lines, [rules for rules, _ in ready])
        columns: dict[str, Any] = {**rows.scores, **{name: values.tolist() for name, values in left.items()}}
        reasons: list[tuple[str, str] | None] = []
        for number, (language, (_, asked)) in enumerate(zip(rows.languages, ready, strict=True)):
            if self._languages and language not in self._languages:
                reasons.append(("language", f"{language}, not {' or '.join(self._languages)}"))
            else:
                scores = {name: values[number] for name, values in columns.items()}
                reasons.append(next(missed(scores, asked), None))
        return Verdicts(reasons, left, stays)

    def cuts(self, language: str) -> bool:
        """Whether lines of documents in this language are cut."""
        return self._of(language)[0].cut

    def _of(self, language: str) -> tuple[LineRules, tuple[Limit, ...]]:
        if language not in self._ready:
            own = self._thresholds.of(language)
            self._ready[language] = own.lines, limits(own)
        return self._ready[language]
