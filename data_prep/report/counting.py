"""The files that speak of the documents of one file, to numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from data_prep.report.facts import example
from data_prep.report.samples import masked_url
from data_prep.report.statistics import UNKNOWN, Corpus, Numbers, Rejected, Sample, least, merged, month, rank, two_digits
from data_prep.report.tallies import Row

if TYPE_CHECKING:
    import os

HOSTS, SURVIVORS = "hosts", "survivors "  # kinds of tallies; the second is followed by the name of a stage


def count(
    files: Sequence[tuple[str, str, str]], first: str, last: str, samples: int, personal_data: bool = False
) -> tuple[Numbers, dict[str, dict[str, Row]]]:
    """(numbers, rows of tallies by kind and key) of files: step, folder and path of each. `first`, `last`: see `Chain`."""
    languages = {one: code for _, folder, path in files if folder == "scores" for one, code in languages_of(path).items()}
    parts: list[Numbers] = []
    hosts: dict[str, Row] = {}
    tallies = {HOSTS: hosts}
    removals: dict[str, dict[str, tuple[str, float]]] = {}
    for step, folder, path in files:
        if folder == "removals":
            removed = removals_of(path)
            removals.setdefault(step, {}).update(removed)
            _add_survivors(tallies.setdefault(SURVIVORS + step, {}), removed)
            parts.append(Numbers(similarities={step: dict(Counter(int(100 * similarity) for _, similarity in removed.values()))}))
    for step, folder, path in files:
        if folder == "documents":
            corpus, found = count_corpus(path, languages, samples)
            parts.append(Numbers(corpora={step: corpus}))
            for host, documents in found.items():
                stays, came, _ = hosts.get(host, (0, 0, ""))
                hosts[host] = stays + documents * (step == last), came + documents * (step == first), ""
        elif folder == "rejects":
            parts.append(Numbers(rejects={step: count_rejects(path, removals.get(step, {}), samples)}))
    numbers = merged(parts, samples)
    return (numbers if personal_data else _masked(numbers)), tallies


def _add_survivors(clusters: dict[str, Row], removed: Mapping[str, tuple[str, float]]) -> None:
    for identity, (survivor, similarity) in removed.items():
        named = example(identity, similarity)
        number, _, known = clusters.get(survivor, (0, 0, named))
        clusters[survivor] = number + 1, 0, min(known, named)


def _masked(numbers: Numbers) -> Numbers:
    """The numbers with the URLs of their samples masked."""

    def masked(kind: Any) -> Any:
        return replace(kind, samples=tuple(replace(one, url=masked_url(one.url)) for one in kind.samples))

    corpora = {name: masked(corpus) for name, corpus in numbers.corpora.items()}
    rejects = {name: {reason: masked(one) for reason, one in reasons.items()} for name, reasons in numbers.rejects.items()}
    return replace(numbers, corpora=corpora, rejects=rejects)


def count_corpus(path: str | os.PathLike[str], languages: Mapping[str, str], samples: int) -> tuple[Corpus, dict[str, int]]:
    """(numbers of one file of documents, its hosts with their numbers of documents). `languages`: by id."""
    import numpy

    from data_prep.documents import read_documents
    from data_prep.segment import batches, segment, totals
    from data_prep.urls import host_of

    documents = characters = words = size = 0
    by: dict[str, Counter[Any]] = {name: Counter() for name in ("characters", "words", "language", "month", "year", "extractor")}
    hosts: Counter[str] = Counter()
    chosen: tuple[Sample, ...] = ()
    for batch in batches(read_documents(path), lambda document: document.text):
        cut = segment([document.text for document in batch])
        counts = totals((~cut.symbols).astype(numpy.int64), cut.texts).tolist()
        documents, words = documents + len(batch), words + sum(counts)
        by["words"].update(map(two_digits, counts))
        for document in batch:
            length = len(document.text)
            characters, size = characters + length, size + len(document.text.encode())
            by["characters"][two_digits(length)] += 1
            by["language"][languages.get(document.id, UNKNOWN)] += 1
            by["month"][month(document.date)] += 1
            by["year"][month(document.published)[:4]] += 1
            by["extractor"][document.extractor] += 1
            hosts[host_of(document.url)] += 1
        chosen = least([chosen, (Sample(rank(one.id), one.id, one.source, one.url) for one in batch)], samples)
    spread: dict[str, Any] = {f"by_{name}": dict(sorted(count.items())) for name, count in by.items()}
    return Corpus(documents, characters, words, size, **spread, samples=chosen), dict(hosts)


def count_rejects(path: str | os.PathLike[str], removals: Mapping[str, tuple[str, float]], samples: int) -> dict[str, Rejected]:
    """The rejects of one file by reason. `removals`: id → survivor and similarity."""
    from data_prep.documents import read_rejects

    numbers: Counter[str] = Counter()
    chosen: dict[str, tuple[Sample, ...]] = {}
    for reject in read_rejects(path):
        numbers[reject.reason] += 1
        sample = Sample(rank(reject.id), reject.id, reject.source, reject.url, reject.detail, *removals.get(reject.id, ()))
        kept = chosen.get(reject.reason, ())
        if len(kept) < samples or sample < kept[-1]:
            chosen[reject.reason] = least([kept, [sample]], samples)
    return {reason: Rejected(number, chosen.get(reason, ())) for reason, number in sorted(numbers.items())}


def languages_of(path: str | os.PathLike[str]) -> dict[str, str]:
    """Id → language, of one table of scores."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=["id", "language"], use_threads=False)
    return dict(zip(table["id"].to_pylist(), table["language"].to_pylist(), strict=True))


def removals_of(path: str | os.PathLike[str]) -> dict[str, tuple[str, float]]:
    """Id → survivor and similarity, of one list of removals."""
    from data_prep.dedup.removals import read_removals

    return {one.id: (one.survivor, one.similarity) for one in read_removals(path).values()}
