"""The kernel's commands besides `run`: each looks at the store and prints; only `gc apply=true` removes anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.config import Config, imported
from pipeline.errors import UserError
from pipeline.files import File
from pipeline.lease import holder, living
from pipeline.outlooks import outlooks
from pipeline.progress import describe
from pipeline.runs import Run, last_events, used
from pipeline.states import Survey, row, to_build
from pipeline.store import Artifact, Store

YEAR_S = 365.25 * 86400


def plan(config: Config) -> None:
    """What a run would build and why, what it will need, and how long it takes; nothing is started."""
    survey = _survey(config)
    order, found = to_build(survey), outlooks(survey)
    rows = []
    for name, status in survey.statuses.items():
        if name in survey.closure:
            outlook = found.get(name)
            rows.append(
                {
                    **row(status, survey.store),
                    "build": name in order,
                    "forced": name in config.settings.force,
                    "expected_s": outlook.seconds if outlook and outlook.seconds else _expected(survey.store, status.node.stage.name),
                    "derived": status.node.derived,
                    **(outlook.figures if outlook else {}),
                }
            )
    if config.settings.format == "json":
        return _print_json(rows)
    for entry in rows:
        took = f"  about {_duration(entry['expected_s'])}" if entry["build"] and entry["expected_s"] else ""
        action = "forced" if entry["forced"] else "build" if entry["build"] else "-"
        print(f"{entry['stage']:<13} {entry['state']:<8} {action:<7} {(entry['fingerprint'] or '?')[:12]:<13}{_words(entry)}{took}")
        outlook = found.get(entry["stage"])
        for line in (*entry["derived"], *(outlook.lines if outlook else ())) if entry["build"] else ():
            print(f"{'':<13} {line}")
    known = [entry["expected_s"] or 0 for entry in rows if entry["build"]]
    total = f", about {_duration(sum(known))} as measured before or planned" if any(known) else ""
    print(f"{len(order)} of {len(rows)} stages to build{total}")


def why(config: Config) -> None:
    """The exact difference of the target (or of every stage that is not done) from the nearest artifact that exists."""
    survey = _survey(config)
    target = config.settings.target
    names = [target] if target else [name for name in survey.closure if survey.statuses[name].state != "DONE"]
    rows = [row(survey.statuses[name], survey.store) for name in config.nodes if name in names]
    if config.settings.format == "json":
        return _print_json(rows)
    if not rows:
        print("every stage is done")
    for entry in rows:
        print(
            f"{entry['stage']} {(entry['fingerprint'] or '?')[:12]} is {entry['state']}" + (":" if entry["why"] or entry["notes"] else "")
        )
        for reason in entry["why"] + entry["notes"]:
            print(f"  {reason['text']}")


def status(config: Config) -> None:
    """The state of every stage of the run, and how far the running one is."""
    survey = _survey(config)
    latest = last_events(Run.of(config).events)
    rows = []
    for name, one in survey.statuses.items():
        manifest = survey.store.manifest(one.node.stage.name, one.fingerprint) if one.fingerprint else None
        facts = {"counts": manifest["counts"], "elapsed_s": manifest["elapsed_s"], "metrics": manifest["metrics"]} if manifest else {}
        rows.append({**row(one, survey.store), "event": latest.get(name), **facts})
    if config.settings.format == "json":
        return _print_json(rows)
    for entry in rows:
        detail = _words(entry)
        if entry["state"] == "RUNNING" and entry["event"]:
            detail = describe(entry["event"])
        elif entry["state"] == "DONE":
            counts = entry["counts"]
            kept = f", kept {counts['kept']:,} of {counts['in']:,}" if counts else ""
            detail = f"{entry['elapsed_s']:.1f} s{kept}" + (f"; {detail}" if detail else "")
        print(f"{entry['stage']:<13} {entry['state']:<8} {(entry['fingerprint'] or '?')[:12]:<13}{detail}")


def ls(config: Config) -> None:
    """Every artifact of the store, the runs that use it, and its size."""
    store = Store(config.root)
    users: dict[str, set[str]] = {}
    for run, _, mark in used(config.root):
        users.setdefault(mark, set()).add(run)
    rows: list[dict[str, Any]] = []
    for stage in store.stages():
        for mark in store.fingerprints(stage):
            manifest = store.manifest(stage, mark)
            directory = store.directory(stage, mark)
            state = "DONE" if manifest else "RUNNING" if holder(directory) else "FAILED" if store.error(stage, mark) else "PARTIAL"
            rows.append(
                {
                    "stage": stage,
                    "fingerprint": mark,
                    "state": state,
                    "path": str(directory),
                    "why": [],
                    "bytes": sum(file["bytes"] for file in manifest["files"]) if manifest else None,
                    "started": manifest["started"] if manifest else None,
                    "runs": sorted(users.get(mark, ())),
                }
            )
    if config.settings.format == "json":
        return _print_json(rows)
    for entry in rows:
        size = f"{entry['bytes'] / 1e6:,.1f} MB" if entry["bytes"] is not None else ""
        print(f"{entry['stage']:<13} {entry['state']:<8} {entry['fingerprint'][:12]}  {size:>14}  {', '.join(entry['runs']) or 'no run'}")
    if not rows:
        print(f"nothing in {config.root / 'store'} yet")


def verify(config: Config) -> None:
    """Hash every file of every published artifact again. UserError where one is not as its manifest says."""
    store = Store(config.root)
    hashed: dict[str, File | None] = {}
    damaged: list[str] = []
    artifacts = 0
    for stage in store.stages():
        for mark in store.fingerprints(stage):
            artifact = store.artifact(stage, mark)
            if artifact is None:
                continue
            artifacts += 1
            for file in artifact.files:
                if file.path not in hashed:
                    hashed[file.path] = File.of(file.name, file.path) if Path(file.path).is_file() else None
                now = hashed[file.path]
                if now is None or now.sha256 != file.sha256:
                    damaged.append(file.path)
                    print(f"{stage} {mark[:12]}: {file.name}: {'missing' if now is None else 'other bytes than published'}: {file.path}")
    print(f"{artifacts} artifacts, {len(hashed)} files hashed, {len(damaged)} damaged")
    if damaged:
        raise UserError(f"verify: {len(damaged)} files are damaged; remove them and run force=[<stage>] for the stages named above")


def of_run(config: Config) -> dict[str, Artifact]:
    """What the run has built, in the order of its recipe, as its plan names it: its sources may be gone by now."""
    run, store = Run.of(config), Store(config.root)
    found = {}
    for entry in run.planned():
        artifact = store.artifact(entry["kind"], entry["fingerprint"])
        if artifact is not None:
            found[entry["stage"]] = artifact
    if not found:
        raise UserError(f"{run.directory}: nothing has been built by this run yet; run crawl2chat first, or say which with root= and name=")
    wanted = config.settings.artifact
    if wanted is not None:
        if wanted not in found:
            raise UserError(f"artifact={wanted}: not built yet; built are: {', '.join(found)}")
        return {wanted: found[wanted]}
    return found


def outside(config: Config, words: Sequence[str]) -> None:
    """Run a command that lives outside the kernel on the run's artifacts."""
    name = config.settings.command
    function: Callable[[Mapping[str, Artifact], Sequence[str], Any], None] = imported(config.settings.commands[name], f"commands.{name}")
    function(of_run(config), words, config.commands[name])


def gc(config: Config) -> None:
    """List (with apply=true remove) what no run uses: artifacts, shards, checkpoints, and what cut processes left."""
    store = Store(config.root)
    if config.settings.apply:
        alive = living([store.directory(stage, mark) for stage in store.stages() for mark in store.fingerprints(stage)])
        if alive:
            raise UserError(f"gc: {alive[0]} is being built by {holder(alive[0])}; wait for it or stop it, then run gc again")
    garbage = list(_garbage(config.root, store))
    total = 0
    for path in garbage:
        size = sum(file.stat().st_size for file in storage.walk(path)) if path.is_dir() else path.stat().st_size
        total += size
        print(f"{size / 1e6:>12,.1f} MB  {path}")
        if config.settings.apply:
            storage.remove_tree(path) if path.is_dir() else storage.delete(path)
    print(
        f"{len(garbage)} entries, {total / 1e6:,.1f} MB {'removed' if config.settings.apply else 'to remove; gc apply=true removes them'}"
    )


def _garbage(root: Path, store: Store) -> list[Path]:
    """Marked from what the runs plan and show. A stage that a run has begun and not finished keeps its whole pool."""
    marked = {(stage, mark) for _, stage, mark in used(root)}
    found: list[Path] = []
    for stage in store.stages():
        found += store.stage_directory(stage).glob(".*.removed")  # others there are nobody's
        shards: set[str] = set()
        trajectories: set[str] = set()
        unfinished = False
        for mark in store.fingerprints(stage):
            directory = store.directory(stage, mark)
            if (stage, mark) not in marked:
                found.append(directory)
                continue
            manifest = store.manifest(stage, mark)
            if manifest is None:
                unfinished = True
                continue
            trajectories.add(manifest["trajectory"])
            shards |= {file["path"] for file in manifest["files"]}
            current = Path(manifest["directory"]).name
            found += [directory / name for name in storage.names(directory) if name.startswith(("files-", ".")) and name != current]
        if unfinished:
            continue
        pool = store.pool(stage)
        for key in storage.names(pool):
            files = storage.names(pool / key)
            kept = [name for name in files if (pool / key / name).relative_to(root).as_posix() in shards]
            if not kept:
                found.append(pool / key)
            else:
                found += [pool / key / name for name in files if name.startswith(".")]
        found += [
            store.trajectory(stage, key) for key in storage.names(store.stage_directory(stage) / "trajectories") if key not in trajectories
        ]
    return found


def _survey(config: Config) -> Survey:
    return Survey(config, Store(config.root), hash_sources=False)


def _expected(store: Store, stage: str) -> float | None:
    """How long the stage's latest published artifact took, in seconds."""
    manifests = store.manifests(stage)
    return manifests[-1]["elapsed_s"] if manifests else None


def _duration(seconds: float) -> str:
    return f"{seconds / YEAR_S:,.1f} years" if seconds >= YEAR_S else str(timedelta(seconds=round(seconds)))


def _words(entry: Mapping[str, Any]) -> str:
    return "; ".join(reason["text"] for reason in [*entry["why"], *entry["notes"]])


def _print_json(rows: Sequence[Mapping[str, Any]]) -> None:
    print(json.dumps(rows, indent=1, ensure_ascii=False))


COMMANDS: Mapping[str, Callable[[Config], None]] = {"plan": plan, "why": why, "status": status, "ls": ls, "verify": verify, "gc": gc}
