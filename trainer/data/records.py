"""Rows of conversation, preference, prompt and question files, read through `datasets`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.stage import UserError


def read_records(paths: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """All rows of JSON Lines files, packed or not, and of Parquet files, in order.

    Raises UserError for a file that cannot be read, is empty or lacks a column. Nothing is downloaded, and what `datasets` caches
    goes with the call.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors are raised as well as logged
    rows: list[dict[str, Any]] = []
    for path in paths:
        if Path(path).is_file() and not Path(path).stat().st_size:
            continue  # `datasets` raises StopIteration for it
        kind = "parquet" if path.endswith(".parquet") else "json"
        with tempfile.TemporaryDirectory(prefix="crawl2chat-") as cache:
            try:
                table = datasets.load_dataset(kind, data_files=path, split="train", cache_dir=cache, keep_in_memory=True)
            except (DatasetGenerationError, OSError, ValueError) as error:
                reason = " ".join(str(error.__cause__ or error).split())
                raise UserError(
                    f"{path}: cannot be read as {'Parquet' if kind == 'parquet' else 'JSON Lines'} ({reason:.200}); mend it or leave it out"
                ) from None
            missing = [column for column in columns if column not in table.column_names]
            if missing:
                raise UserError(f"{path}: its rows have no {missing[0]!r}; they have {', '.join(table.column_names)}")
            rows += table.to_list()
    if not rows:
        raise UserError(f"{', '.join(paths) or 'no file'}: no rows; give a file that has some")
    return rows
