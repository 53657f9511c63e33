"""What became of one document: its scores, what was cut out of it, which stage kept or rejected it and why, and its tokens."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.stage import Artifact, UserError, stem

FOLDERS = ("scores", "overlaps", "documents", "rejects", "index")  # what decided comes before what was decided
_ID = re.compile(r"[0-9a-f]{32}\b")
_UNUSED = ("date", "start", "end")  # columns that say nothing here


@dataclass(frozen=True)
class Step:
    """What one stage did with one document.

    outcome  `kept`, `rejected` (then with a reason), `scored`, `found` (evaluation data in it) or `train`, `validation` (its tokens)
    scores   of a stage that scores
    """

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


class Query:
    """A document id, or a URL in any of the forms that lead to the same page; without a scheme, http and https are both tried."""

    def __init__(self, words: str) -> None:
        from data_prep.urls import host_of, normalise

        self.words = words.strip()
        urls = [self.words] if "://" in self.words else [f"{scheme}://{self.words}" for scheme in ("http", "https")]
        self._urls = {normalise(url) for url in urls}
        self._host = host_of(urls[0])

    def matching(self, urls: Any) -> Any:
        """Which of a column of URLs it is. Only those with its host in them are brought to their normal form."""
        import pyarrow
        import pyarrow.compute

        from data_prep.urls import normalise

        equal = pyarrow.compute.equal(urls, self.words)
        if not self._host:
            return equal
        likely = pyarrow.compute.match_substring(urls, self._host, ignore_case=True)
        if "xn--" in self._host:
            likely = pyarrow.compute.or_(likely, pyarrow.compute.invert(pyarrow.compute.string_is_ascii(urls)))
        places = pyarrow.compute.indices_nonzero(likely).to_pylist()
        same = {place for place in places if normalise(urls[place].as_py()) in self._urls}
        return pyarrow.compute.or_(equal, pyarrow.array([place in same for place in range(len(urls))], pyarrow.bool_()))


def explain(query: str, artifacts: Sequence[tuple[str, Artifact]]) -> list[Step]:
    """All that the stages (name, artifact), in this order, did with the documents whose id or URL is `query`.

    A URL that was crawled twice has two documents, and so has an id whose record stands in two files: their steps follow each other
    document by document.
    """
    steps = []
    asked = Query(query)
    ids: set[str] = set()
    found: dict[tuple[str, str], str] = {}  # id, source → url, in order of discovery
    places: dict[tuple[str, str], str] = {}  # id, name of the file that it stands in → source
    texts: dict[tuple[str, str], _Text] = {}
    for stage, artifact in artifacts:
        for folder in FOLDERS:
            for file in artifact.select(folder):
                for row in _rows(file.path, asked, ids):
                    identity = row.pop("id")
                    place = identity, stem(file.name)
                    document = identity, row.pop("source", places.get(place, ""))
                    url = row.pop("url", "")
                    if folder in ("documents", "rejects"):
                        ids.add(identity)
                        places[place] = document[1]
                        found.setdefault(document, url)
                    where = stage, identity, found.get(document, url), document[1]
                    match folder:
                        case "documents":
                            text = _Text.of(row["text"], row.get("extractor", ""))
                            steps.append(Step(*where, "kept", detail=text.told(texts.get(document), artifact.stage)))
                            texts[document] = text
                        case "rejects":
                            detail = _with_survivor(row["detail"], artifact) if "duplicate" in row["reason"] else row["detail"]
                            steps.append(Step(*where, "rejected", row["reason"], detail))
                        case "scores":
                            steps.append(Step(*where, "scored", scores=row))
                        case "overlaps":
                            steps.append(Step(*where, "found", row["evaluation"], f"row {row['row']}, {row['words']} words"))
                        case "index":
                            steps.append(Step(*where, row["split"], detail=f"{row['tokens']:,} tokens, {row['bytes']:,} bytes"))
    order = {document: number for number, document in enumerate(found)}
    return sorted(steps, key=lambda step: order.get((step.id, step.source), len(order)))


@dataclass(frozen=True)
class _Text:
    """What is said of a text, which is never shown itself."""

    characters: int
    lines: int
    placeholders: Mapping[str, int]  # for personal data, by what stands in their brackets
    extractor: str

    @classmethod
    def of(cls, text: str, extractor: str) -> _Text:
        from data_prep.pii import PLACEHOLDER

        kinds = Counter(match[0].strip("[]").partition(":")[0] for match in PLACEHOLDER.finditer(text))
        return cls(len(text), text.count("\n") + 1, kinds, extractor)

    def told(self, before: _Text | None, kind: str) -> str:
        """Its length, and what has changed since the stage before; a scrubbed one with what was replaced in it."""
        parts = [f"{self.characters:,} characters in {self.lines:,} line{'s' * (self.lines != 1)}"]
        if before is not None:
            changes = [(self.characters - before.characters, "characters"), (self.lines - before.lines, "lines")]
            if kind == "scrub":
                changes += [(number - before.placeholders.get(name, 0), f"[{name}]") for name, number in sorted(self.placeholders.items())]
            parts += [f"{difference:+,} {name}".replace("-", "−") for difference, name in changes if difference]
        elif self.extractor:
            parts.append(f"by {self.extractor}")
        return ", ".join(parts)


def _with_survivor(detail: str, artifact: Artifact) -> str:
    """The detail of a duplicate, and the URL of the document that it begins with the id of."""
    match = _ID.match(detail)
    if match is None:
        return detail
    asked = Query(match[0])
    urls = [row["url"] for file in artifact.select("documents") for row in _rows(file.path, asked, (), ("id", "url"))]
    return f"{detail} {urls[0] if urls else '(of an earlier corpus)'}".rstrip()


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
    shown: tuple[str, str] | None = None
    for step in steps:
        if (step.id, step.source) != shown:
            shown = step.id, step.source
            yield f"{step.id}  {step.url or '(no URL)'}  {step.source}"
        why = ": ".join(part for part in (step.reason, step.detail) if part)
        yield f"  {step.stage:<13} {step.outcome:<10} {why}".rstrip()
        for name, value in step.scores.items():
            yield f"    {name:<40} {_shown(value)}"


def _shown(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "does not apply" if math.isnan(value) else f"{value:.6g}"


def _rows(path: str | os.PathLike[str], query: Query, ids: Iterable[str], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one Parquet file about the documents. Row groups that hold none of them are read no further than their ids and URLs."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(os.fspath(path)) as file:
        names = [name for name in columns or file.schema_arrow.names if name not in _UNUSED]
        if "id" not in names:
            return
        keys = [name for name in ("id", "url") if name in names]
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=keys, use_threads=False).combine_chunks()
            wanted = pyarrow.compute.is_in(table["id"], pyarrow.array([query.words, *ids], pyarrow.string()))
            if "url" in keys:
                wanted = pyarrow.compute.or_(wanted, query.matching(table["url"]))
            if pyarrow.compute.any(wanted).as_py():
                yield from file.read_row_group(group, columns=names, use_threads=False).filter(wanted).to_pylist()
