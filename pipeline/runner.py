"""Build what is not done, in order, one lease at a time; say what failed and which command goes on."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.config import Config, Node
from pipeline.errors import UserError, mendable
from pipeline.identity import digest, plain
from pipeline.lease import Fence, Lease, LeaseLost, acquire
from pipeline.outlooks import outlooks
from pipeline.progress import Console, Progress
from pipeline.provenance import provenance
from pipeline.runs import Run
from pipeline.sources import require_unchanged
from pipeline.stage import Counts, StageContext
from pipeline.states import Status, Survey, to_build
from pipeline.store import Artifact, Store
from pipeline.trajectory import Trajectory


class StageFailed(UserError):
    """A stage could not be built. `bug` holds the traceback of what no user can mend."""

    def __init__(self, message: str, bug: str | None) -> None:
        super().__init__(message)
        self.bug = bug


def run(config: Config, overrides: Sequence[str]) -> Survey:
    """Bring the target up to date. StageFailed names the stage; every finished shard and checkpoint stays."""
    store = Store(config.root)
    survey = Survey(config, store, hash_sources=True)
    order = to_build(survey)
    if order:
        outlooks(survey, building=order)  # what cannot be made is refused before what it is made from is
        _require_room(config, order)
    current = Run.of(config)
    current.begin(survey, overrides)
    with Console(current.events):
        for name in config.nodes:
            if name not in order and not (order and _made_stale(survey, name)):
                continue
            node = config.nodes[name]
            survey.refresh(name)
            progress = Progress(str(current.events), name)
            try:
                _build(survey, node, progress)
            except Exception as error:
                with contextlib.suppress(OSError):  # a full disk must not hide the error that is being reported
                    progress.event("failed", text=f"failed: {first_line(error)}")
                bug = traceback.format_exc() if mendable(error) is None else None
                said = first_line(error)
                raise StageFailed(said if said.startswith((f"{name}:", f"{name}.")) else f"{name}: {said}", bug) from error
            survey.refresh(name)
            current.show(survey, name)
    return survey


def _require_room(config: Config, order: Sequence[str]) -> None:
    """UserError for a stage that needs more than this machine has, before the first one begins. GPUs and memory are Ray's to find, so it is
    started where some are needed. Other clusters may grow until then."""
    cluster = config.settings.cluster
    if cluster.kind != "local":
        return

    def require(there: Mapping[str, float]) -> None:
        for name in order:
            require_room = getattr(config.nodes[name].run, "require_room", None)
            if require_room is not None:
                require_room(name, there)

    cpus = float(cluster.cpus or os.cpu_count() or 1)
    require({"CPU": cpus, "GPU": math.inf, "memory": math.inf})
    try:
        require({"CPU": cpus})
    except UserError:
        from pipeline.cluster import connect

        require(connect(cluster))


def _made_stale(survey: Survey, name: str) -> bool:
    """Whether a stage that was done is to be built again, since this run gave it other bytes to read."""
    return name in survey.closure and not survey.config.settings.only and survey.refresh(name).state == "STALE"


def closing_words(survey: Survey) -> str:
    """What a finished run says: that all is up to date, and the `summary.txt` of its last stage that has one."""
    asked = [survey.statuses[name] for name in survey.config.nodes if name in survey.closure]
    done = [status for status in asked if status.state == "DONE"]
    words = f"{len(done)} stages are up to date in {survey.config.root}"
    if len(done) < len(asked):
        others = ", ".join(f"{status.node.name} ({status.state})" for status in asked if status.state != "DONE")
        words += f"; not needed for them, and not there: {others}"
    for status in reversed(done):
        artifact = survey.store.artifact(status.node.stage.name, str(status.fingerprint))
        for file in artifact.files if artifact else ():
            if file.name == "summary.txt":
                return f"{words}\n\n{Path(file.path).read_text().rstrip()}"
    return words


def first_line(error: BaseException) -> str:
    """What went wrong in one line."""
    text = str(error).strip() or type(error).__name__
    return mendable(error) or f"{type(error).__name__}: {text.splitlines()[0]}"


def _build(survey: Survey, node: Node, progress: Progress) -> None:
    """Build one artifact under its lease, unless another driver did so while this one waited."""
    store, status = survey.store, survey.statuses[node.name]
    forced = node.name in survey.config.settings.force
    directory = store.directory(node.stage.name, str(status.fingerprint))
    lease = acquire(directory, lambda owner: progress.event("waiting", text=f"{owner} is building this; waiting for it"))
    try:
        store.sweep(lease.fence)
        if survey.refresh(node.name).state == "DONE" and not forced:
            progress.event("reused")
            return
        assert status.spec is not None
        storage.create(directory / "spec.json", json.dumps(status.spec, indent=1, sort_keys=True, ensure_ascii=False).encode())
        why = "forced" if forced else "; ".join(map(str, status.why[:3]))
        progress.event("start", why=why, fingerprint=status.fingerprint)
        for line in node.derived:
            progress.event("note", text=line)
        _build_leased(survey, node, status, lease, progress)
    finally:
        lease.release()


def _build_leased(survey: Survey, node: Node, status: Status, lease: Lease, progress: Progress) -> None:
    store, started = survey.store, time.time()
    ctx = _context(survey, node, status, lease.fence, progress)
    try:
        metrics = node.stage(ctx, node.params)
        require_unchanged(ctx.stamps)
        _require_conservation(node, ctx)
    except LeaseLost:
        raise
    except Exception as error:
        _record_error(Path(lease.fence.directory), error)
        raise
    elapsed = time.time() - started
    manifest = {
        **dict(status.spec or {}),
        "fingerprint": status.fingerprint,
        "inputs": {
            role: {"stage": artifact.stage, "fingerprint": artifact.fingerprint, "digest": artifact.digest}
            for role, artifact in ctx.inputs.items()
        },
        "lineage": lineage(ctx),
        "trajectory": Path(ctx.trajectory.directory).name,
        "counts": _counts(ctx.counts),
        "metrics": dict(metrics),
        "reproducible": ctx.reproducible and all(a.manifest["reproducible"] for a in ctx.inputs.values()),
        "shards": {"computed": ctx.shards_computed, "reused": ctx.shards_reused},
        "cpus": ctx.cpus,  # that could work on its shards; 0 where none was computed
        "run": plain(node.run),
        "provenance": provenance(node.stage),
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "elapsed_s": round(elapsed, 3),
    }
    store.publish(lease.fence, manifest, ctx.published)
    for text in ctx.errors:
        progress.event("note", text=f"errored: {text}")
    if ctx.counts is not None and not ctx.counts.kept:
        progress.event("note", text=_kept_nothing(ctx.counts))
    progress.event("done", elapsed_s=round(elapsed, 1), summary=_summary(ctx, metrics))


def _context(survey: Survey, node: Node, status: Status, fence: Fence, progress: Progress) -> StageContext:
    config, store = survey.config, survey.store
    inputs: dict[str, Artifact] = {}
    for role, upstream in node.needs.items():
        before = survey.statuses[upstream]
        artifact = store.artifact(before.node.stage.name, str(before.fingerprint))
        if artifact is None:
            raise UserError(f"{node.name}: needs {upstream}, which has no artifact; run target={upstream} first")
        _require_whole(upstream, artifact)
        inputs[role] = artifact
    own = store.own_files(node.stage.name, str(status.fingerprint), fence.epoch)
    if own.exists():  # an earlier process with this epoch cannot be: epochs are taken exclusively
        raise UserError(f"{own}: exists although this epoch is new; remove it")
    own.mkdir(parents=True)

    forced = node.name in config.settings.force

    def connect() -> None:
        from pipeline.cluster import connect as connect_ray

        connect_ray(config.settings.cluster)

    trajectory = Trajectory(
        str(store.trajectory(node.stage.name, trajectory_key(status.spec or {}, node.stage.extendable))),
        str(status.fingerprint)[:16],
        fence,
        alone=forced,
    )
    trajectory.sweep()
    return StageContext(
        stage=node.stage,
        fingerprint=str(status.fingerprint),
        inputs=inputs,
        sources=survey.sources(node) or (),
        stamps=survey.stamps(node),
        forced=forced,
        run=node.run,
        directory=str(own),
        pool=store.pool(node.stage.name),
        fence=fence,
        trajectory=trajectory,
        progress=progress,
        connect=connect,
    )


def _require_whole(name: str, artifact: Artifact) -> None:
    """UserError where a published file is gone or cut: said here once, rather than by whatever would read it."""
    for file in artifact.files:
        try:
            there = os.stat(file.path).st_size
        except FileNotFoundError:
            there = -1
        if there != file.bytes:
            found = "is missing" if there < 0 else f"has {there:,} bytes instead of {file.bytes:,}"
            raise UserError(f"{name}: its published file {file.path} {found}; run force=[{name}], which makes it anew")


def lineage(ctx: StageContext) -> dict[str, str]:
    """Name → hash of all this artifact comes from: every artifact before it by its digest, and every source file."""
    found = {file.name: file.sha256 for file in ctx.sources}
    for artifact in ctx.inputs.values():
        found |= artifact.manifest["lineage"]
        found[artifact.stage] = artifact.digest
    return dict(sorted(found.items()))


def trajectory_key(spec: Mapping[str, Any], extendable: Sequence[str]) -> str:
    """What decides a training but not how long it goes on."""
    params = {key: value for key, value in spec["params"].items() if key not in extendable}
    return digest({**spec, "params": params})[:32]


def _require_conservation(node: Node, ctx: StageContext) -> None:
    """Nothing a document stage read may be lost: it was kept, rejected for a reason, or errored, and that within bounds."""
    counts = ctx.counts
    if counts is None:
        return
    if not counts.balanced:
        raise AssertionError(f"{node.name}: its counts do not add up: {counts}")
    rows = sum(file.records for file in ctx.published if file.name.startswith(node.stage.keeps + "/"))
    if rows != counts.kept:
        raise AssertionError(f"{node.name}: kept {counts.kept} records but its files under {node.stage.keeps}/ hold {rows}")
    if node.stage.reads is not None:
        upstream = ctx.inputs[node.stage.reads].manifest["counts"]
        if upstream is not None and upstream["kept"] != counts.total:
            raise AssertionError(f"{node.name}: read {counts.total} records of the {upstream['kept']} that {node.stage.reads} kept")
    if counts.errored > ctx.run.error_budget * counts.total:
        raise UserError(
            f"{node.name}: {counts.errored} of {counts.total} records are errored, over its error budget of {ctx.run.error_budget:.1%}: "
            f"{'; '.join(ctx.errors)}; mend the input, or set {node.name}.run.error_budget"
        )


def _kept_nothing(counts: Counts) -> str:
    if not counts.total:
        return "kept nothing: there was no record to read"
    reasons = {**counts.rejected, "errored": counts.errored}
    most = max(sorted(reasons), key=lambda reason: reasons[reason])
    return f"kept nothing: all {counts.total:,} records were dropped, most often as {most} ({reasons[most]:,})"


def _counts(counts: Counts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    rejected = dict(sorted(counts.rejected.items()))
    return {"in": counts.total, "kept": counts.kept, "rejected": rejected, "errored": counts.errored}


def _summary(ctx: StageContext, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers a console line has room for."""
    summary: dict[str, Any] = {}
    if ctx.counts is not None:
        summary = {"in": ctx.counts.total, "kept": ctx.counts.kept}
        if ctx.counts.errored:
            summary["errored"] = ctx.counts.errored
    summary |= {name: value for name, value in metrics.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    return dict(list(summary.items())[:5])


def _record_error(directory: Path, error: Exception) -> None:
    facts = {
        "error": first_line(error),
        "traceback": traceback.format_exc() if mendable(error) is None else None,
        "failures": list(getattr(error, "failures", [])),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "pid": os.getpid(),
    }
    with contextlib.suppress(OSError):
        storage.put(directory / "error.json", json.dumps(facts, indent=1, ensure_ascii=False).encode())
