"""Rows of conversation, preference and prompt files, read through `datasets`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.stage import UserError


def read_records(paths: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """All rows of JSON Lines files, in order. Raises UserError for a file that cannot be read, is empty or lacks a column.

    Nothing is downloaded, and what `datasets` caches goes with the call.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors are raised as well as logged
    rows: list[dict[str, Any]] = []
    for path in paths:
        if Path(path).is_file() and not Path(path).stat().st_size:
            continue  # `datasets` raises StopIteration for it
        with tempfile.TemporaryDirectory(prefix="crawl2chat-") as cache:
            try:
                table = datasets.load_dataset("json", data_files=path, split="train", cache_dir=cache, keep_in_memory=True)
            except (DatasetGenerationError, OSError, ValueError) as error:
                reason = " ".join(str(error.__cause__ or error).split())
                raise UserError(f"{path}: cannot be read as JSON Lines ({reason:.200}); every line must be one object") from None
            missing = [column for column in columns if column not in table.column_names]
            if missing:
                raise UserError(f"{path}: its rows have no {missing[0]!r}; they have {', '.join(table.column_names)}")
            rows += table.to_list()
    if not rows:
        raise UserError(f"{', '.join(paths) or 'no file'}: no rows to train on; give a file that has some")
    return rows
