"""What each stage's artifact is called, in which state it is, and why. Nothing here starts or changes anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.config import Config, Node
from pipeline.errors import PlanOnly, UserError
from pipeline.files import File
from pipeline.identity import fingerprint, identity_of_params
from pipeline.lease import holder
from pipeline.provenance import changed_since
from pipeline.sources import Found, HashCache, expand
from pipeline.store import Store

State = Literal["DONE", "STALE", "RUNNING", "FAILED", "PARTIAL", "MISSING"]
HASHED_BY_A_LOOK = 64 * 2**20  # bytes of new sources that `plan` hashes on its way; more is only named


@dataclass(frozen=True)
class Reason:
    """Why an artifact is not there, or no longer right. `remedy` is empty where running is all it takes.

    `stage` is the one where the cause lies, and `roles` those of the inputs that lead there; "" and none for the artifact's own.
    """

    what: str
    was: Any = None
    now: Any = None
    remedy: str = ""
    stage: str = ""
    roles: tuple[str, ...] = ()

    def __str__(self) -> str:
        through = f"{', '.join(f'inputs.{role}' for role in self.roles)}: {self.stage} " if self.stage else ""
        change = f": {_short(self.was)} → {_short(self.now)}" if self.was is not None or self.now is not None else ""
        return through + self.what + change + (f" ({self.remedy})" if self.remedy else "")


@dataclass(frozen=True)
class Status:
    """One stage of the recipe. `spec` is None while a fingerprint cannot be known (sources not hashed yet)."""

    node: Node
    spec: Mapping[str, Any] | None
    fingerprint: str | None
    state: State
    why: tuple[Reason, ...] = ()
    notes: tuple[Reason, ...] = ()


class Survey:
    """The states of all stages of a configuration, looked at once."""

    def __init__(self, config: Config, store: Store, hash_sources: bool) -> None:
        self.config, self.store = config, store
        self.cache = HashCache(config.root)
        self.hash_sources = hash_sources
        self._sources: dict[str, list[File] | None] = {}
        self._found: dict[str, list[Found]] = {}
        self._changed: dict[tuple[str, str, str], list[Reason]] = {}
        self.closure = closure(config)
        self.statuses: dict[str, Status] = {}
        for node in config.nodes.values():
            self.statuses[node.name] = self.look(node)
            if node.stage.check is not None and node.pin is None and node.name in self.closure:
                sources = [file.name for file in self._found.get(node.name, ())]
                roles = {role: self._roles(upstream) for role, upstream in node.needs.items()}
                try:
                    node.stage.check(node.name, node.params, node.run, sources, roles)
                except PlanOnly:
                    if hash_sources:  # a run is about to begin
                        raise

    def look(self, node: Node) -> Status:
        """The state of one stage now, given the states of those before it."""
        if node.pin is not None:
            return self._pinned(node)
        sources = self.sources(node)
        inputs = {role: self.statuses[upstream].fingerprint for role, upstream in node.needs.items()}
        if sources is None or None in inputs.values():
            waiting = (
                [f"{node.name}'s sources"]
                if sources is None
                else [f"{up}" for up in node.needs.values() if self.statuses[up].fingerprint is None]
            )
            return Status(node, None, None, "MISSING", (Reason(f"{', '.join(waiting)} not hashed yet"),))
        spec: dict[str, Any] = {
            "stage": node.stage.name,
            "version": node.stage.version,
            "params": identity_of_params(node.params),
            "inputs": inputs,
            "sources": [[file.name, file.bytes, file.sha256] for file in sources],
        }
        known = [str(value) for value in inputs.values()]
        mark = fingerprint(
            spec["stage"], spec["version"], spec["params"], dict(zip(inputs, known, strict=True)), [tuple(s) for s in spec["sources"]]
        )
        return self._judged(node, spec, mark)

    def _roles(self, name: str) -> Collection[str]:
        """The roles of what a stage reads, or, if it is pinned, has read."""
        node, spec = self.config.nodes[name], self.statuses[name].spec
        return tuple(spec["inputs"] if node.pin is not None and spec is not None else node.needs)

    def sources(self, node: Node) -> list[File] | None:
        """The stage's source files with hashes; None where there is too much new to hash at a look."""
        if node.name not in self._sources:
            self._sources[node.name] = self._hashed(node)
        return self._sources[node.name]

    def stamps(self, node: Node) -> dict[str, str]:
        """Path → stamp of the stage's source files as they were hashed."""
        return {file.path: file.stamp for file in self._found.get(node.name, ())}

    def _hashed(self, node: Node) -> list[File] | None:
        if node.sources is None:
            return []
        if node.name not in self.closure:
            return None
        if not node.sources:
            raise UserError(f"{node.sources_key}: empty, {node.name} has nothing to read; set {node.sources_key}=[/path/to/files*]")
        found = expand(f"{node.name}.sources", node.sources)
        self._found[node.name] = found
        new = sum(file.bytes for file in self.cache.unhashed(found))
        if new > HASHED_BY_A_LOOK and not self.hash_sources:
            return None
        return self.cache.files(found)

    def _pinned(self, node: Node) -> Status:
        matches = [
            mark
            for mark in self.store.fingerprints(node.stage.name)
            if mark.startswith(node.pin or "") and self.store.manifest(node.stage.name, mark) is not None
        ]
        if len(matches) != 1:
            found = "none of that name is published" if not matches else f"{len(matches)} begin like that"
            raise UserError(f"{node.name}.pin={node.pin}: {found}; `crawl2chat ls` shows the fingerprints there are")
        return Status(node, self.store.spec(node.stage.name, matches[0]), matches[0], "DONE", (), (Reason("pinned"),))

    def _judged(self, node: Node, spec: dict[str, Any], mark: str) -> Status:
        name = node.stage.name
        manifest = self.store.manifest(name, mark)
        if manifest is not None:
            stale = tuple(self._stale(node, manifest))
            if not stale:
                return Status(node, spec, mark, "DONE", (), tuple(changed_since(manifest, node.stage, node.name)))
            return Status(node, spec, mark, "STALE", stale)
        owner = holder(self.store.directory(name, mark))
        if owner is not None:
            return Status(node, spec, mark, "RUNNING", (Reason(f"being built by {owner}"),))
        error = self.store.error(name, mark)
        if error is not None:
            return Status(node, spec, mark, "FAILED", (Reason(f"it failed the last time: {error['error']}"),))
        if self.store.spec(name, mark) is not None:
            return Status(node, spec, mark, "PARTIAL", (Reason("begun and not finished", remedy="goes on from what is there"),))
        return Status(node, spec, mark, "MISSING", tuple(self._causes(node, difference(self.store, spec))))

    def _stale(self, node: Node, manifest: Mapping[str, Any]) -> list[Reason]:
        found = []
        for role, upstream in node.needs.items():
            status = self.statuses[upstream]
            if status.state == "STALE":
                found += [(role, reason) for reason in status.why]
                continue
            current = self.store.manifest(status.node.stage.name, str(status.fingerprint))
            made_from = manifest["inputs"].get(role, {}).get("digest")
            if current is not None and current["digest"] != made_from:
                found.append((role, Reason("was built again with other bytes", made_from, current["digest"], stage=upstream)))
        return _joined(found)

    def _causes(self, node: Node, reasons: Iterable[Reason]) -> list[Reason]:
        """The reasons, with what made an input another instead of its two fingerprints, as far as the older one is known."""
        own: list[Reason] = []
        found: list[tuple[str, Reason]] = []
        for reason in reasons:
            role = reason.what.removeprefix("inputs.")
            causes = self._changed_since(node.needs[role], reason.was, reason.now) if role != reason.what and role in node.needs else ()
            found += [(role, cause) for cause in causes]
            own += [] if causes else [reason]
        return own + _joined(found)

    def _changed_since(self, name: str, was: str, now: str) -> list[Reason]:
        """What makes a stage's fingerprint another one; nothing where the older artifact is not known."""
        status = self.statuses[name]
        if (name, was, now) not in self._changed:
            before = self.store.spec(status.node.stage.name, str(was))
            causes = []
            if before is not None and status.spec is not None and status.fingerprint == now:
                causes = self._causes(status.node, _changes(before, status.spec))
            self._changed[name, was, now] = [cause if cause.stage else replace(cause, stage=name) for cause in causes]
        return self._changed[name, was, now]

    def refresh(self, name: str) -> Status:
        """Look at one stage again, after those before it were built."""
        self.statuses[name] = self.look(self.config.nodes[name])
        return self.statuses[name]


def targets(config: Config) -> list[str]:
    """What is asked for: `only`, or `target`, or every stage of the recipe."""
    settings = config.settings
    return list(settings.only) or ([settings.target] if settings.target else list(config.nodes))


def closure(config: Config) -> set[str]:
    """The targets and all they need."""
    wanted = targets(config)
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted.extend(config.nodes[name].needs.values())
    return found


def to_build(survey: Survey) -> list[str]:
    """The stages a run would build, in order: what is not done of the target and of what that needs, and what is forced."""
    config, settings = survey.config, survey.config.settings
    forced = set(settings.force)
    for name in sorted(forced - survey.closure):
        raise UserError(f"force=[{name}]: {', '.join(targets(config))} does not need it; leave it out, or set target={name}")
    needed: set[str] = set()

    def visit(name: str) -> None:
        if name in needed or (survey.statuses[name].state == "DONE" and name not in forced):
            return
        needed.add(name)
        if name not in settings.only:
            for upstream in config.nodes[name].needs.values():
                visit(upstream)

    for target in [*targets(config), *forced]:
        visit(target)
    order = [name for name in config.nodes if name in needed]
    _require_upstream(survey, order)
    return order


def _require_upstream(survey: Survey, order: Sequence[str]) -> None:
    """`start` and `only` build nothing before themselves: what they need has to be done."""
    settings, nodes = survey.config.settings, survey.config.nodes
    if settings.start:
        allowed = {settings.start}
        for name in nodes:
            if allowed & set(nodes[name].needs.values()):
                allowed.add(name)
        early = [name for name in order if name not in allowed]
        if early:
            raise UserError(
                f"start={settings.start}: {early[0]} stands before it and is {survey.statuses[early[0]].state}; "
                f"leave start out, or run target={early[0]} first"
            )
    for name in settings.only:
        for upstream in nodes[name].needs.values():
            status = survey.statuses[upstream]
            if status.state != "DONE" and upstream not in settings.only:
                raise UserError(f"only=[{name}]: it needs {upstream}, which is {status.state}; run target={upstream} first")


def difference(store: Store, spec: Mapping[str, Any]) -> list[Reason]:
    """The exact difference from the nearest published artifact of the same stage (of equally near ones, the youngest)."""
    found = []
    for mark in store.fingerprints(spec["stage"]):
        other, manifest = store.spec(spec["stage"], mark), store.manifest(spec["stage"], mark)
        if other is not None and manifest is not None:
            found.append((list(_changes(other, spec)), manifest["started"]))
    fewest = min((len(changes) for changes, _ in found), default=0)
    nearest = [(started, changes) for changes, started in found if len(changes) == fewest]
    return max(nearest, key=lambda pair: pair[0])[1] if nearest else [Reason("never built")]


def _changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Reason]:
    if was["version"] != now["version"]:
        yield Reason("version", was["version"], now["version"])
    flat_was, flat_now = dict(_flat(was["params"])), dict(_flat(now["params"]))
    for key in sorted({*flat_was, *flat_now}):
        if flat_was.get(key) != flat_now.get(key):
            yield Reason(f"params.{key}", flat_was.get(key), flat_now.get(key))
    for role in sorted({*was["inputs"], *now["inputs"]}):
        before, after = was["inputs"].get(role), now["inputs"].get(role)
        if before != after:
            yield Reason(f"inputs.{role}", before, after)
    old = {name: (size, sha256) for name, size, sha256 in was["sources"]}
    new = {name: (size, sha256) for name, size, sha256 in now["sources"]}
    for name in sorted({*old, *new}):
        if name not in old:
            yield Reason(f"source {name} added")
        elif name not in new:
            yield Reason(f"source {name} removed")
        elif old[name] != new[name]:
            yield Reason(f"source {name} has other bytes")


def _joined(causes: Iterable[tuple[str, Reason]]) -> list[Reason]:
    """Causes that inputs (by their roles) lead to, each once."""
    found: dict[str, Reason] = {}
    for role, cause in causes:
        alone = replace(cause, roles=())
        known = found.get(repr(alone), alone)
        found[repr(alone)] = replace(alone, roles=(*known.roles, *{role}.difference(known.roles)))
    return list(found.values())


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


def row(status: Status, store: Store) -> dict[str, Any]:
    """A status as plain JSON, the form that `plan`, `status` and `why` answer in."""
    path = str(store.directory(status.node.stage.name, status.fingerprint)) if status.fingerprint else None
    return {
        "stage": status.node.name,
        "fingerprint": status.fingerprint,
        "state": status.state,
        "path": path,
        "why": [dataclasses.asdict(reason) | {"text": str(reason)} for reason in status.why],
        "notes": [dataclasses.asdict(reason) | {"text": str(reason)} for reason in status.notes],
    }
