"""Records of evaluation sets, from the files in which they are handed on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pyarrow

from pipeline.stage import UserError

ENDINGS = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt")
PACKED = (".gz", ".zst", ".bz2")


def read_evaluation(path: str | os.PathLike[str], name: str) -> Iterator[Any]:
    """The records of one file, in order, whose format is told by `name`.

    .jsonl      one JSON value a line
    .json       a list of values, or one mapping
    .parquet    rows; .csv and .tsv: rows, with the names of the columns in the first line
    .txt        a text a line

    each but Parquet also with .gz, .zst or .bz2 behind it; empty lines are no records. Raises UserError, naming the line.
    """
    plain = next((name.removesuffix(ending) for ending in PACKED if name.endswith(ending)), name).lower()
    ending = next((ending for ending in ENDINGS if plain.endswith(ending)), None)
    if ending is None or (ending == ".parquet" and plain != name.lower()):
        raise UserError(f"evaluation set {name}: no kind of file that is read ({', '.join(ENDINGS)}, packed with {', '.join(PACKED)})")
    try:
        if ending == ".parquet":
            yield from _rows(path)
            return
        compression = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}.get(name[len(plain) :].lower())
        with pyarrow.input_stream(os.fspath(path), compression=compression) as stream:
            content = stream.read().decode("utf-8-sig")
    except (OSError, pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        raise UserError(f"evaluation set {name}: cannot be read ({' '.join(str(error).split())[:200]}); mend it or leave it out") from error
    yield from _records(content, ending, name)


def _records(content: str, ending: str, name: str) -> Iterator[Any]:
    if ending == ".json":
        value = _value(content, name, 1)
        yield from value if isinstance(value, list) else [value]
    elif ending in (".csv", ".tsv"):
        import csv

        yield from csv.DictReader(content.splitlines(keepends=True), delimiter="," if ending == ".csv" else "\t")
    else:
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                yield line if ending == ".txt" else _value(line, name, number)


def _value(text: str, name: str, line: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"evaluation set {name}, line {line}: no JSON ({error}); mend it or leave it out") from None


def _rows(path: str | os.PathLike[str]) -> Iterator[Any]:
    from data_prep.documents import read_batches

    for batch in read_batches(path):
        yield from batch.to_pylist()
