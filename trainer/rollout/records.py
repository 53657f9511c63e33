"""Rollouts on disk: a file for each step and rank while training, one table in the artifact."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def records_directory(trajectory: str, fingerprint: str) -> Path:
    """Where a training's rollouts lie until it is published: beside its checkpoints, so that they outlive a crash."""
    return Path(trajectory, f"rollouts.{fingerprint}")


def write_records(directory: Path, step: int, rank: int, world: int, records: Sequence[Mapping[str, Any]]) -> None:
    """The rollouts that one rank of `world` drew in one step, whole or not at all. Drawn again after a crash they are the same bytes;
    those of ranks that there are no more go."""
    if rank == 0:
        for old in directory.glob(f"step-{step:06d}.rank-*.jsonl"):
            if int(old.stem.rpartition("-")[2]) >= world:
                old.unlink()
    path = directory / f"step-{step:06d}.rank-{rank:04d}.jsonl"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    temporary.replace(path)


def merge_records(directory: Path, target: str) -> int:
    """Write all steps' rollouts as one Parquet file, in order of step, prompt and sample; returns how many there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({
        "step": pa.int32(), "prompt": pa.string(), "sample": pa.int32(), "text": pa.string(), "answer": pa.string(),
        "reward": pa.float32(), "advantage": pa.float32(), "finished": pa.bool_(),
        "ids": pa.list_(pa.int32()), "log_probs": pa.list_(pa.float32()),
    })  # fmt: skip
    paths = sorted(directory.glob("step-*.jsonl"))
    rows = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: (row["step"], row["prompt"], row["sample"]))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), target, compression="zstd")
    return len(rows)
