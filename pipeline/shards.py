"""map_shards: one Ray task for each shard that the pool does not hold yet.

<pool>/<shard key>/<folder>.<hash><suffix>   record.json (last)

The pool has no owner. A task writes into a private folder, renames each finished file to a name made of its hash and
creates `record.json` exclusively; who finds one already there uses that one. Nothing of a task travels but the record.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline import storage
from pipeline.errors import MENDABLE, PASSING, UserError, mendable
from pipeline.files import File
from pipeline.identity import digest, plain
from pipeline.sources import require_unchanged

if TYPE_CHECKING:
    from pipeline.stage import Mapped, MapRun, Shard, ShardResult, StageContext, Unit

NAMED = 5  # failed shards named in the one-line message; error.json has them all


class ShardsFailed(UserError):
    """Some shards failed. `failures` holds unit, error and traceback of each."""

    def __init__(self, message: str, failures: Sequence[Mapping[str, str]]) -> None:
        super().__init__(message)
        self.failures = failures


@dataclass(frozen=True)
class ShardTask:
    """All a worker needs to compute one shard."""

    function: Callable[[Shard], ShardResult]
    unit: Unit
    params: Any
    side: Mapping[str, File]
    folder: str  # <pool>/<shard key>
    writer: str  # names the private folder: fingerprint and lease epoch
    stamps: Mapping[str, str]  # of those paths that are sources
    replaces: bool  # a forced shard: its record takes the place of an older one


def shard_key(stage: str, version: int, function: Callable[..., Any], params: Any, unit: Unit, side_inputs: Mapping[str, File]) -> str:
    """The identity of a shard: all that decides its bytes, and nothing else."""
    return digest(
        {
            "stage": stage,
            "version": version,
            "function": function.__qualname__,
            "params": plain(params),
            "content": unit.content,
            "argument": unit.argument,
            "side": {role: file.sha256 for role, file in side_inputs.items()},
        }
    )


def map_shards(
    ctx: StageContext,
    function: Callable[[Shard], ShardResult],
    units: Sequence[Unit],
    params: Any,
    side_inputs: Mapping[str, File],
) -> Mapped:
    """See `StageContext.map_shards`."""
    _require_distinct_names(units)
    stage = ctx.stage
    records: dict[str, bytes] = {}
    missing: dict[str, ShardTask] = {}
    keys = []
    for unit in units:
        key = shard_key(stage.name, stage.version, function, params, unit, side_inputs)
        keys.append(key)
        if key in records or key in missing:
            continue
        record = None if ctx.forced else finished(ctx.pool / key)
        if record is not None:
            records[key] = record
        else:
            writer = f".{ctx.fingerprint[:12]}.{ctx.fence.epoch}"
            stamps = {path: ctx.stamps[path] for path in unit.paths if path in ctx.stamps}
            missing[key] = ShardTask(function, unit, params, side_inputs, str(ctx.pool / key), writer, stamps, ctx.forced)
    ctx.progress(len(records), len(keys))
    failures: list[dict[str, str]] = []
    if missing:
        ctx.connect()
        for key, outcome in _computed(ctx, missing):
            if isinstance(outcome, bytes):
                records[key] = outcome
            else:
                failures.append({"unit": missing[key].unit.name, **outcome})
            ctx.progress(len(records), len(keys))
    ctx.shards_computed += len(missing) - len(failures)
    ctx.shards_reused += len(units) - len(missing)
    if failures:
        raise ShardsFailed(_message(ctx.name, failures, len(units)), failures)
    return _mapped(ctx.pool, units, keys, records)


def finished(folder: Path) -> bytes | None:
    """The record of a finished shard whose files are all there, or None; a damaged record, or one that lost a file, is removed."""
    data = storage.read(folder / "record.json")
    if data is None:
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError, FileNotFoundError):
        if all(os.stat(folder / entry["file"]).st_size == entry["bytes"] for entry in json.loads(data)["files"]):
            return data
    storage.delete(folder / "record.json")
    return None


def compute(task: ShardTask) -> bytes:
    """In a worker: run the function in a private folder, move its files to their names, write the record last."""
    from pipeline.stage import Shard

    folder = Path(task.folder)
    private = folder / f"{task.writer}.{uuid.uuid4().hex[:8]}"
    private.mkdir(parents=True)
    try:
        result = task.function(Shard(task.unit, task.params, task.side, str(private)))
        require_unchanged(task.stamps)  # or the pool would hold another content under this key, for good
        entries = _adopted(private, folder, task.unit.name, result)
        storage.sync_directory(folder)
        record = {
            "unit": task.unit.name,
            "files": entries,
            "counts": plain(result.counts),
            "metrics": dict(result.metrics),
            "reproducible": result.reproducible,
            "errors": list(result.errors),
        }
        data = json.dumps(record, sort_keys=True).encode()
        if task.replaces:
            storage.put(folder / "record.json", data)
            return data
        if storage.create(folder / "record.json", data):
            return data
        return finished(folder) or compute(task)
    except OSError as error:
        if error.errno in MENDABLE.keys() - PASSING:  # a full disk stays full: a UserError is not tried again
            raise UserError(mendable(error)) from error
        raise
    finally:
        storage.remove_tree(private)


def _adopted(private: Path, folder: Path, unit: str, result: ShardResult) -> list[dict[str, Any]]:
    """Move the outputs to names made of their bytes' hash; files of one output (`.bin`, `.idx`) stay siblings."""
    outputs: dict[str, list[File]] = {}
    for path in storage.walk(private):
        output = path.relative_to(private).parent.as_posix()
        suffix = path.name.removeprefix(unit)
        records = result.records.get(output + suffix, result.records.get(output, 0))
        outputs.setdefault(output, []).append(File.of(suffix, path, records))
    entries = []
    for output, files in outputs.items():
        stem = f"{output.replace('/', '-')}.{digest([file.sha256 for file in files])[:16]}"
        for file in files:
            storage.adopt(file.path, folder / (stem + file.name))
            entry = {"folder": output, "suffix": file.name, "file": stem + file.name}
            entries.append(entry | {"records": file.records, "bytes": file.bytes, "sha256": file.sha256})
    return entries


def _computed(ctx: StageContext, tasks: Mapping[str, ShardTask]) -> Iterator[tuple[str, bytes | dict[str, str]]]:
    """Each task's record or error, in order of arrival, with a bounded number in flight.

    A task that loses its worker more often than `retries` allows, for memory or otherwise, gets one more try with double memory.
    """
    import ray
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

    from pipeline.stage import MapRun

    run: MapRun = ctx.run if isinstance(ctx.run, MapRun) else MapRun()  # a stage whose own work is something else maps as others do
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    run.require_room(ctx.name, *nodes)
    remote = ray.remote(compute).options
    options: dict[str, Any] = {
        "name": ctx.name,
        "num_cpus": run.cpus,
        "num_gpus": run.gpus,
        "memory": run.memory_gb * 2**30 or None,
        "max_retries": run.retries,
        "retry_exceptions": [OSError],
    }
    ctx.cpus = max(ctx.cpus, float(ray.cluster_resources().get("CPU", 1)))
    limit = run.in_flight or max(2, 2 * int(ctx.cpus))
    waiting = iter(tasks.items())
    running: dict[Any, str] = {}
    double = _double_memory(run, [node for node in nodes if run.fits(node)])
    doubled: set[str] = set()
    checked = time.monotonic()
    while True:
        for key, task in itertools.islice(waiting, limit - len(running)):
            running[remote(**options).remote(task)] = key
        if not running:
            return
        done, _ = ray.wait(list(running), num_returns=1, timeout=1)
        if time.monotonic() - checked > 1:
            ctx.fence.check()
            checked = time.monotonic()
        for reference in done:
            key = running.pop(reference)
            try:
                outcome: bytes | dict[str, str] = ray.get(reference)
            except RayTaskError as error:
                outcome = _described(error.cause if isinstance(error.cause, BaseException) else error, str(error))
            except (OutOfMemoryError, WorkerCrashedError) as error:
                if key not in doubled:
                    doubled.add(key)
                    running[remote(**{**options, "memory": double, "max_retries": 0}).remote(tasks[key])] = key
                    continue
                advice = f"set {ctx.name}.run.memory_gb above the {double / 2**30:.3g} of the last try, or a lower in_flight"
                outcome = {"error": f"its worker was killed each time, as it is for memory; {advice}", "traceback": str(error)}
            except RayError as error:
                outcome = _described(error, str(error))
            yield key, outcome


def _double_memory(run: MapRun, nodes: Sequence[Mapping[str, float]]) -> int:
    """Bytes to reserve for another try: double what a task has, by its settings or as its CPUs' share of a node; at most a whole node's."""
    share = max((node.get("memory", 0) * min(1, run.cpus / node.get("CPU", 1)) for node in nodes), default=0)
    most = max((node.get("memory", 0) for node in nodes), default=0)
    return int(min(2 * (run.memory_gb * 2**30 or share), most))


def _described(error: BaseException, trace: str) -> dict[str, str]:
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return {"error": mendable(error) or f"{type(error).__name__}: {first}", "traceback": trace}


def _message(stage: str, failures: Sequence[Mapping[str, str]], total: int) -> str:
    named = "; ".join(f"{failure['unit']} ({failure['error']})" for failure in failures[:NAMED])
    more = f"; and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
    return f"{stage}: {len(failures)} of {total} shards failed: {named}{more}. The others are kept."


def _require_distinct_names(units: Sequence[Unit]) -> None:
    seen: set[str] = set()
    for unit in units:
        if unit.name in seen:
            raise UserError(f"two inputs are both named {unit.name!r}, their shards could not be told apart: rename one of them")
        seen.add(unit.name)


def _mapped(pool: Path, units: Sequence[Unit], keys: Sequence[str], records: Mapping[str, bytes]) -> Mapped:
    from pipeline.stage import Counts, Mapped

    files: list[File] = []
    counts: Counts | None = None
    metrics: dict[str, float] = {}
    reproducible = True
    errors: list[str] = []
    for unit, key in zip(units, keys, strict=True):
        record = json.loads(records[key])
        for entry in record["files"]:
            name = f"{entry['folder']}/{unit.name}{entry['suffix']}"
            files.append(File(name, str(pool / key / entry["file"]), entry["records"], entry["bytes"], entry["sha256"]))
        if record["counts"] is not None:
            shard_counts = msgspec.convert(record["counts"], Counts)
            counts = shard_counts if counts is None else counts + shard_counts
        for metric, value in record["metrics"].items():
            metrics[metric] = metrics.get(metric, 0) + value
        reproducible &= record["reproducible"]
        errors += record.get("errors", ())
    return Mapped(tuple(files), counts, metrics, reproducible, tuple(errors[:NAMED]))
