"""score, select, dedup and scrub over the shard pool: nothing is lost, and only what changed is computed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
from house import House, digests, documents, reasons

from data_prep.documents import Document
from data_prep.quality.gopher import SCORES
from data_prep.quality.verdicts import GopherQualityThresholds, Thresholds
from data_prep.stages import (
    DedupParams,
    NearDedupParams,
    ScoreParams,
    ScrubParams,
    dedup,
    near_dedup,
    score,
    score_shard,
    scrub,
    select,
    select_shard,
)
from data_prep.stages.duplicates import CompareRun
from pipeline.stage import Artifact, Shard, Unit, UserError

PROSE = (
    "The harbour lay quiet that morning, and the fishermen who had come back with the tide stood about the quay to talk of nets and of the "
    "price of herring at the market in {town}. A boy sat on the wall with a book that he did not read. He watched how the water moved "
    "between the boats, and he thought that one day, when he was {number}, he would have a boat of his own."
)
GERMAN = (
    "Der Hafen lag an diesem Morgen still, und die Fischer, die mit der Flut gekommen waren, sprachen über Netze und über den Preis der "
    "Heringe auf dem Markt. Ein Junge saß auf der Mauer mit einem Buch, das er nicht las, und dachte an ein eigenes Boot."
)


def document(name: str, text: str, date: str = "2024-05-01T00:00:00Z") -> Document:
    return Document(hashlib.sha256(name.encode()).hexdigest()[:32], f"http://x/{name}", text, date, f"x#{name}")


def prose(name: str, number: int, **changes: str) -> Document:
    return document(name, PROSE.format(town=f"Town{number}", number=number), **changes)


class Chain(House):
    """The stages after each other."""

    def clean(self, corpus: Artifact) -> tuple[Artifact, Artifact, Artifact, Artifact]:
        scored = self.run(score, ScoreParams(), corpus=corpus)
        selected = self.run(select, Thresholds(), corpus=corpus, scores=scored)
        unique = self.run(dedup, DedupParams(), corpus=selected)
        return scored, selected, unique, self.run(scrub, ScrubParams(), corpus=unique)


@pytest.fixture
def house(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def ray_goes_down_with_the_module() -> Iterator[None]:
    yield
    import ray

    ray.shutdown()


OLD = [
    prose("a", 1),
    prose("b", 2),
    document("german", GERMAN),
    document("thin", "Too short to keep."),
    prose("copy", 1, date="2024-06-01"),
]
MAILS = [document("mail", PROSE.format(town="Ys", number=3) + " Write to joe@example.org or to 93.184.216.34 soon.")]


def test_every_document_ends_where_it_should(house: Chain) -> None:
    scored, selected, unique, scrubbed = house.clean(house.corpus(old=OLD, mails=MAILS, none=[]))
    table = pyarrow.parquet.read_table(scored.select("scores")[0].path)
    assert table.column_names == ["id", "language", "language_score", *SCORES]
    assert {str(kind) for kind in table.schema.types[2:]} == {"double"}
    assert table.column("language").to_pylist() == ["en", "en", "de", "en", "en"]
    assert math.isnan(table.column("gopher_stop_words").to_pylist()[2])
    assert reasons(selected) == {"german": ("language", "de, not en"), "thin": ("gopher_min_words", "4 < 50")}
    assert reasons(unique) == {"copy": ("duplicate", OLD[0].id)}
    assert reasons(scrubbed) == {}
    assert [one.url for one in documents(scrubbed)] == ["http://x/a", "http://x/b", "http://x/mail"]
    assert documents(scrubbed)[:2] == OLD[:2]
    assert documents(scrubbed)[2] == replace(MAILS[0], text=PROSE.format(town="Ys", number=3) + " Write to [EMAIL] or to [IP] soon.")
    assert len(scrubbed.select("documents")) == len(scrubbed.select("rejects")) == 3


def test_a_new_crawl_computes_its_own_shards_only(house: Chain) -> None:
    first = house.clean(house.corpus(old=OLD, mails=MAILS))
    assert house.computed == {"score": 2, "select": 2, "dedup": 5, "scrub": 2}
    new = [prose("new copy", 2, date="2025-01-01"), prose("new", 9, date="2025-01-01")]
    second = house.clean(house.corpus(old=OLD, mails=MAILS, zz=new))
    assert house.computed == {"score": 1, "select": 1, "dedup": 3, "scrub": 1}  # dedup: its hashes, the comparison, its own list
    assert reasons(second[2]) == {"copy": ("duplicate", OLD[0].id), "new copy": ("duplicate", OLD[1].id)}
    for before, after in zip(first, second, strict=True):
        assert digests(before).items() <= digests(after).items()


def test_an_older_page_takes_over_and_rewrites_only_the_shard_it_empties(house: Chain) -> None:
    house.clean(house.corpus(old=OLD, mails=MAILS))
    *_, unique, _ = house.clean(house.corpus(old=OLD, mails=MAILS, archive=[prose("first", 2, date="2020-01-01")]))
    assert house.computed["dedup"] == 4  # hashes of the archive, the comparison, the archive, and `old` without its second document
    assert reasons(unique)["b"] == ("duplicate", document("first", "").id)


def test_another_threshold_scores_nothing_and_another_division_keeps_the_same_documents(house: Chain) -> None:
    corpus = house.corpus(old=OLD, mails=MAILS)
    scored, *_, whole = house.clean(corpus)
    strict = replace(Thresholds(), gopher_quality=GopherQualityThresholds(min_words=1_000))
    assert documents(house.run(select, strict, corpus=corpus, scores=scored)) == []
    assert house.computed["select"] == 2
    house.run(score, ScoreParams(), corpus=corpus)
    assert house.computed["score"] == 0
    divided = house.clean(house.corpus(p=OLD[4:], q=[*MAILS, *OLD[:2]], r=OLD[2:4]))[-1]
    assert sorted(one.id for one in documents(divided)) == sorted(one.id for one in documents(whole))


def test_near_duplicates_of_a_new_file_settle_their_own_clusters_only(house: Chain) -> None:
    def family(name: str, number: int, date: str = "2024-05-01") -> Document:
        words = PROSE.format(town="Ys", number=1).split()
        return document(name, " ".join(f"{word}{name[0]}" for word in words[number:]), date)

    run = CompareRun(partitions=7)
    old = [family(name, 0) for name in ("a1", "b1", "c1", "d1", "e1")]
    old += [family("a2", 2, "2024-06"), family("b2", 3, "2024-06")]
    first = house.run(near_dedup, NearDedupParams(), run, corpus=house.corpus(one=old[:3], two=old[3:]))
    assert {name: reason for name, (reason, _) in reasons(first).items()} == {"a2": "near_duplicate", "b2": "near_duplicate"}
    assert reasons(first)["a2"][1] == f"{document('a1', '').id} 0.975"
    clusters = 2
    assert house.computed["near_dedup"] == 2 + 7 + 1 + clusters + 2  # signatures, links, clusters, settled ones, files
    house.run(near_dedup, NearDedupParams(), run, corpus=house.corpus(one=old[:3], two=old[3:]))
    assert house.computed["near_dedup"] == 0
    new = [family("a3", 1, "2025"), family("f1", 0, "2025")]
    second = house.run(near_dedup, NearDedupParams(), run, corpus=house.corpus(between=new, one=old[:3], two=old[3:]))
    assert house.computed["near_dedup"] == 1 + 7 + 1 + 1 + 1
    assert reasons(second).keys() == {"a2", "a3", "b2"}
    assert digests(first).items() <= digests(second).items()
    house.run(near_dedup, NearDedupParams(rank="newest"), run, corpus=house.corpus(one=old[:3], two=old[3:]))
    assert house.computed["near_dedup"] == 1 + clusters + 2  # nothing is signed or linked again
    house.run(near_dedup, NearDedupParams(threshold=0.95), corpus=house.corpus(one=old[:3], two=old[3:]))
    assert house.computed["near_dedup"] == 1 + 1 + 1  # links in one partition, clusters, the one file of them; the same are found


def test_scores_of_another_corpus_are_refused(house: Chain, tmp_path: Path) -> None:
    corpus, other = house.corpus(old=OLD), house.corpus(old=OLD[::-1])
    scored = house.run(score, ScoreParams(), corpus=other)
    with pytest.raises(UserError, match=r"select: 1 of 1 shards failed.*score this corpus"):
        house.run(select, Thresholds(), corpus=corpus, scores=scored)
    with pytest.raises(UserError, match=r"no scores of documents/mails\.parquet"):
        house.run(select, Thresholds(), corpus=house.corpus(mails=MAILS), scores=scored)


def test_shards_are_byte_stable(house: Chain, tmp_path: Path) -> None:
    corpus = house.corpus(old=OLD)
    source = corpus.files[0].path
    digest = []
    for name in ("one", "two"):
        scores = Shard(Unit("old", "", None, (source,)), ScoreParams(), {}, str(tmp_path / name))
        score_shard(scores)
        chosen = Shard(Unit("old", "", None, (source, scores.path("scores", ".parquet"))), Thresholds(), {}, str(tmp_path / name))
        result = select_shard(chosen)
        assert result.records == {"documents": 3, "rejects": 2}
        digest.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("*.parquet"))])
    assert digest[0] == digest[1]
