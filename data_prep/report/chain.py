"""The stages a report speaks of, in their order, as their manifests tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.stage import Artifact, File, UserError, stem

CORPUS_ROLES = ("corpus", "pages")
COMPARING = ("dedup_url", "dedup", "near_dedup")  # stages whose `removals` name a survivor for each document removed


@dataclass(frozen=True)
class Step:
    """One stage of the recipe. `reads` is the step whose documents it read, "" where that is not among the report's inputs."""

    name: str
    artifact: Artifact
    reads: str

    @property
    def kind(self) -> str:
        return self.artifact.stage

    @property
    def counts(self) -> Mapping[str, Any] | None:
        counts: Mapping[str, Any] | None = self.artifact.manifest.get("counts")
        return counts


@dataclass(frozen=True)
class Chain:
    """All steps, and the names of those whose documents are the corpus as it came in (`first`) and as it is in the end (`last`)."""

    steps: tuple[Step, ...]
    first: str
    last: str

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    @property
    def documents(self) -> tuple[Step, ...]:
        """The steps that publish documents."""
        return tuple(step for step in self.steps if step.artifact.select("documents"))


def chain(inputs: Mapping[str, Artifact]) -> Chain:
    """The steps in an order in which each comes after all it read, whatever the order of `inputs` (name of the stage → artifact).

    UserError where none of them has documents.
    """
    names = {artifact.fingerprint: name for name, artifact in sorted(inputs.items(), reverse=True)}
    upstream = {
        name: {role: names.get(entry["fingerprint"], "") for role, entry in artifact.manifest.get("inputs", {}).items()}
        for name, artifact in inputs.items()
    }
    ordered: list[str] = []
    waiting = sorted(inputs)
    while waiting:
        name = next(name for name in waiting if not {*upstream[name].values()} & {*waiting})
        ordered.append(name)
        waiting.remove(name)
    steps = tuple(
        Step(name, inputs[name], next((upstream[name][role] for role in CORPUS_ROLES if role in upstream[name]), "")) for name in ordered
    )
    holding = [step for step in steps if step.artifact.select("documents")]
    if not holding:
        raise UserError("report: none of its inputs holds documents; name the stages that do in report.needs")
    known = {step.name: step for step in holding}
    first = last = holding[-1]
    while first.reads in known:
        first = known[first.reads]
    return Chain(steps, first.name, last.name)


def groups(steps: Chain) -> dict[str, list[tuple[Step, str, File]]]:
    """By the name of each file of the first corpus, all files (step, folder, file) that speak of its documents.

    Where a stage divides a file (`pages-00` into `pages-00-en` and `pages-00-fr`), its parts belong to the file they come from.
    """
    found: dict[str, list[tuple[Step, str, File]]] = {stem(file.name): [] for file in steps[steps.first].artifact.select("documents")}
    for step in steps.steps:
        for folder in ("documents", "rejects", "removals", "scores"):
            for file in step.artifact.select(folder):
                whole = _whole(stem(file.name), found)
                if whole is not None:
                    found[whole].append((step, folder, file))
    return found


def _whole(name: str, known: Mapping[str, Any]) -> str | None:
    parts = name.split("-")
    prefixes = ("-".join(parts[:number]) for number in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in known), None)


def wanted(steps: Chain, files: Sequence[tuple[Step, str, File]]) -> list[tuple[Step, str, File]]:
    """Those of a group's files that statistics read."""
    return [
        (step, folder, file)
        for step, folder, file in files
        if (folder == "documents" and step.name in (steps.first, steps.last))
        or folder == "rejects"
        or (folder == "removals" and step.kind in COMPARING)
        or (folder == "scores" and step.kind == "score")
    ]
