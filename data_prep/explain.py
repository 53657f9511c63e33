"""What became of one document: which stage kept it, which rejected it and why, and its scores."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.stage import Artifact, UserError

FOLDERS = ("documents", "rejects", "scores")


@dataclass(frozen=True)
class Step:
    """What one stage did with one document. `outcome` is `kept`, `rejected` (then with a reason) or `scored`."""

    stage: str
    id: str
    url: str
    source: str
    outcome: str
    reason: str = ""
    detail: str = ""
    scores: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class ExplainSettings:
    """`explain` has no settings."""


def explain(query: str, artifacts: Sequence[tuple[str, Artifact]]) -> list[Step]:
    """All that the stages (name, artifact), in this order, did with the documents whose id or URL is `query`.

    A URL that was crawled twice has two documents: their steps follow each other document by document.
    """
    steps = []
    found: dict[str, tuple[str, str]] = {}  # id → url, source, in order of discovery
    for stage, artifact in artifacts:
        for folder in FOLDERS:
            for file in artifact.select(folder):
                for row in _rows(file.path, query, found):
                    identity = row.pop("id")
                    url, source = row.pop("url", ""), row.pop("source", "")
                    if folder != "scores":
                        found.setdefault(identity, (url, source))
                    url, source = found.get(identity, (url, source))
                    if folder == "documents":
                        steps.append(Step(stage, identity, url, source, "kept"))
                    elif folder == "rejects":
                        steps.append(Step(stage, identity, url, source, "rejected", row["reason"], row["detail"]))
                    else:
                        steps.append(Step(stage, identity, url, source, "scored", scores=row))
    order = list(found)
    return sorted(steps, key=lambda step: order.index(step.id) if step.id in order else len(order))


def explain_command(artifacts: Mapping[str, Artifact], words: Sequence[str], settings: ExplainSettings) -> None:
    """Print the steps of the document named by the one word: `crawl2chat explain <document id or url>`."""
    if len(words) != 1:
        raise UserError("explain: one document id or URL is expected: crawl2chat explain <document id or url>")
    document_stages = [(name, artifact) for name, artifact in artifacts.items() if any(artifact.select(folder) for folder in FOLDERS)]
    if not document_stages:
        raise UserError("explain: no stage has published documents yet; run crawl2chat target=ingest first")
    steps = explain(words[0], document_stages)
    if not steps:
        stages = ", ".join(name for name, _ in document_stages)
        raise UserError(f"explain: no document has the id or URL {words[0]!r}; looked through {stages}")
    print("\n".join(render(steps)))


def render(steps: Sequence[Step]) -> Iterator[str]:
    """One line for each step under a line for each document, scores below theirs."""
    shown = None
    for step in steps:
        if step.id != shown:
            shown = step.id
            yield f"{step.id}  {step.url or '(no URL)'}  {step.source}"
        why = ": ".join(part for part in (step.reason, step.detail) if part)
        yield f"  {step.stage:<12} {step.outcome:<9} {why}".rstrip()
        for name, value in step.scores.items():
            yield f"    {name:<40} {_shown(value)}"


def _shown(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "does not apply" if math.isnan(value) else f"{value:.6g}"


def _rows(path: str | os.PathLike[str], query: str, ids: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of one Parquet file about the document, without its text; batch by batch, so memory is bounded."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(os.fspath(path)) as file:
        names = [name for name in file.schema_arrow.names if name not in ("text", "date")]
        if "id" not in names:
            return
        for batch in file.iter_batches(columns=names, use_threads=False):
            wanted = pyarrow.compute.is_in(batch.column("id"), pyarrow.array([query, *ids], pyarrow.string()))
            if "url" in names:
                wanted = pyarrow.compute.or_(wanted, pyarrow.compute.equal(batch.column("url"), query))
            yield from batch.filter(wanted).to_pylist()
