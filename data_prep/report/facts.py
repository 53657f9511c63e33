"""All a report says but for times: what `report.json` holds and the page shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_prep.report.chain import Chain, Step
from data_prep.report.samples import Shown
from data_prep.report.statistics import Numbers
from data_prep.report.tallies import Tally


@dataclass(frozen=True)
class Passage:
    """A stage of the funnel: the records it read, and what became of them."""

    step: str
    kind: str
    total: int
    kept: int
    rejected: dict[str, int]  # by reason
    errored: int


@dataclass(frozen=True)
class Made:
    """A stage as it was run: what decides its output, and how large that is."""

    step: str
    kind: str
    fingerprint: str
    params: dict[str, Any]
    metrics: dict[str, Any]
    bytes: int


@dataclass(frozen=True)
class Facts:
    """first, last    the steps whose documents are the corpus as it came in and as it is in the end
    hosts          how many of their documents are kept, and came in
    clusters       of a stage that removes duplicates: its survivors, by how many were removed for each
    shown          the documents that can be shown, by the step whose documents they were read from, and id
    personal_data  whether they are shown as they were
    reads          by step, the step whose documents it read
    pii            by kind, as `scrub` reports it
    contamination, fertility
                   rows of the tables of `decontaminate` and `tokenizer`
    """

    first: str
    last: str
    funnel: tuple[Passage, ...]
    numbers: Numbers
    hosts: Tally
    clusters: dict[str, Tally]
    shown: dict[str, dict[str, Shown]]
    personal_data: bool
    made: tuple[Made, ...]
    reads: dict[str, str]
    pii: dict[str, dict[str, int]] = field(default_factory=dict)
    contamination: tuple[dict[str, Any], ...] = ()
    fertility: tuple[dict[str, Any], ...] = ()

    @property
    def records(self) -> int:
        """Records that came in."""
        return self.funnel[0].total if self.funnel else 0

    @property
    def kept(self) -> int:
        return self.funnel[-1].kept if self.funnel else 0

    def metrics(self, kind: str) -> dict[str, Any]:
        """The metrics of the last step of this kind; none where there is no such step."""
        return next((made.metrics for made in reversed(self.made) if made.kind == kind), {})


def passages(chain: Chain) -> tuple[Passage, ...]:
    """The steps that publish documents, with their counts."""
    return tuple(
        Passage(step.name, step.kind, step.counts["in"], step.counts["kept"], dict(step.counts["rejected"]), step.counts["errored"])
        for step in chain.documents
        if step.counts
    )


def made(chain: Chain) -> tuple[Made, ...]:
    return tuple(
        Made(
            step.name,
            step.kind,
            step.artifact.fingerprint,
            dict(step.artifact.manifest.get("params", {})),
            dict(step.artifact.manifest.get("metrics", {})),
            sum(file.bytes for file in step.artifact.files),
        )
        for step in chain.steps
    )


def lookups(chain: Chain, numbers: Numbers, clusters: Mapping[str, Tally], personal_data: bool) -> dict[str, set[str]]:
    """By step, the ids of those of its documents whose texts a report shows.

    What `scrub` rejected is not among them unless personal data is asked for, since it is full of it.
    """
    found: dict[str, set[str]] = {step.name: set() for step in chain.documents}
    found[chain.last] |= {sample.id for sample in numbers.corpora[chain.last].samples}
    for name, reasons in numbers.rejects.items():
        step = chain[name]
        if step.reads in found and (personal_data or step.kind != "scrub"):
            for sample in (sample for rejected in reasons.values() for sample in rejected.samples):
                found[step.reads] |= {sample.id, sample.survivor} - {""}
    for name, tally in clusters.items():
        if chain[name].reads in found:
            found[chain[name].reads] |= {
                identity for survivor, _, _, example in tally.top for identity in (survivor, split_example(example)[0])
            }
    return {name: ids for name, ids in found.items() if ids}


def example(identity: str, similarity: float) -> str:
    """How a tally names one of the documents that were removed for a survivor."""
    return f"{identity} {similarity:.4f}"


def split_example(named: str) -> tuple[str, float]:
    """Its id and similarity."""
    identity, _, similarity = named.partition(" ")
    return identity, float(similarity)


def table(step: Step | None, name: str) -> Any:
    """The content of a JSON or JSON lines file of a step; nothing where there is no such step or file."""
    file = next((file for file in step.artifact.files if file.name == name), None) if step else None
    if file is None:
        return {} if name.endswith(".json") else ()
    with open(file.path, encoding="utf-8") as stream:
        return json.load(stream) if name.endswith(".json") else tuple(json.loads(line) for line in stream)
