"""Hugging Face data sets, read by `datasets` as a stream: the `.arrow` files that `save_to_disk` leaves, and data sets of the hub.

A data set of the hub is named by a small JSON file among the sources, `<name>.dataset.json`:

    {"path": "HuggingFaceFW/fineweb", "name": "sample-10BT", "split": "train", "revision": "<commit, 40 hex digits>"}

The commit is required: with it the file's bytes say what is read, today and later. The columns are those of Parquet files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.sources import Damaged, Outcome, Record
from data_prep.sources.parquet import COLUMNS, judge_rows
from pipeline.stage import UserError

_KEYS = frozenset(["path", "name", "split", "revision"])
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ROWS = 256


def read_arrow(path: str | os.PathLike[str], max_bytes: int) -> Iterator[Outcome]:
    """The rows of one `.arrow` file of a data set, in order; their location is their number, from 1."""
    return read_dataset({"path": "arrow", "data_files": [os.fspath(path)], "split": "train"}, max_bytes)


def read_dataset(load: Mapping[str, Any], max_bytes: int, shard: int = 0, shards: int = 1) -> Iterator[Outcome]:
    """The rows of one of `shards` shards of what `datasets.load_dataset(**load)` names, in order, without a copy on this machine.

    A row without text is `Damaged`, and so is the rest of a file from where it cannot be decoded on.
    """
    import pyarrow

    rows = _stream(load)
    if shards > 1:
        rows = rows.shard(num_shards=shards, index=shard)
    number = 1
    try:
        for table in rows.with_format("arrow").iter(batch_size=_ROWS):
            names = [name for name in COLUMNS if name in table.column_names]
            if "text" not in names:
                raise UserError(f"data set {load['path']}: has no column `text`, only {', '.join(table.column_names)[:200]}")
            for batch in table.select(names).combine_chunks().to_batches():
                yield from judge_rows(batch, number, max_bytes)
                number += batch.num_rows
    except pyarrow.ArrowException as error:
        yield Damaged(Record(str(number)), f"damaged data set ({error})"[:500])


def shards_of(load: Mapping[str, Any]) -> int:
    """How many shards the data set has: they can be read apart from each other."""
    return max(1, int(_stream(load).num_shards))


def read_descriptor(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a `.dataset.json` names. UserError for one that does not name a split of a data set of the hub at one commit."""
    try:
        named = json.loads(Path(path).read_bytes())
        good = isinstance(named, dict) and all(isinstance(value, str) for value in named.values())
    except ValueError:
        good = False
    if not good or not {"path", "split", "revision"} <= named.keys() <= _KEYS:
        raise UserError(f"{path}: expected a JSON object with path, split, revision and, if the data set has several, name")
    if not _COMMIT.fullmatch(named["revision"]):
        raise UserError(f"{path}: revision {named['revision']!r} may come to mean something else; give the commit, 40 hex digits")
    if os.path.exists(named["path"]):
        raise UserError(f"{path}: {named['path']} is a folder here; give its files as sources, so that their content is known")
    return dict(named)


def _stream(load: Mapping[str, Any]) -> Any:
    import datasets

    return datasets.load_dataset(**load, streaming=True)
