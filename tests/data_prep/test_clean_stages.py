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

from data_prep.dedup.near import jaccard
from data_prep.dedup.shingles import shingles
from data_prep.documents import Document, read_documents
from data_prep.quality import lines
from data_prep.quality.tables import SCORES
from data_prep.quality.verdicts import (
    C4Thresholds,
    ClassifierThresholds,
    GopherQualityThresholds,
    LanguageThresholds,
    LineRules,
    Thresholds,
)
from data_prep.segment import split_words
from data_prep.stages import (
    ClassifierParams,
    DedupParams,
    NearDedupParams,
    ScoreParams,
    ScrubParams,
    classifier,
    dedup,
    near_dedup,
    score,
    score_shard,
    scrub,
    select,
    select_shard,
)
from data_prep.stages.duplicates import CompareRun
from pipeline.config import load
from pipeline.reference import composed
from pipeline.stage import Artifact, Shard, ShardResult, Unit, UserError
from pipeline.states import Survey
from pipeline.store import Store

PROSE = (
    "The harbour lay quiet that morning, and the fishermen who had come back with the tide stood about the quay to talk of nets and of the "
    "price of herring at the market in {town}. A boy sat on the wall with a book that he did not read. He watched how the water moved "
    "between the boats, and he thought that one day, when he was {number}, he would have a boat of his own. The gulls cried. Nobody came."
)
WINTER = (
    "In winter the ferry stays on the other side of the river, because the ice is too thin to walk on and too thick to sail through. "
    "People write letters then. Those who cannot wait for an answer go round by the bridge, which takes them the whole of a day."
)
GERMAN = (
    "Der Hafen lag an diesem Morgen still, und die Fischer, die mit der Flut gekommen waren, sprachen über Netze und über den Preis der "
    "Heringe auf dem Markt. Ein Junge saß auf der Mauer mit einem Buch, das er nicht las, und dachte an ein eigenes Boot."
)


def document(name: str, text: str, date: str = "2024-05-01T00:00:00Z") -> Document:
    return Document(hashlib.sha256(name.encode()).hexdigest()[:32], f"http://x/{name}", text, date, f"x#{name}")


def prose(name: str, number: int, text: str = "", **changes: str) -> Document:
    return document(name, PROSE.format(town=f"Town{number}", number=number) + text, **changes)


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
    assert table.column_names == ["id", "language", *SCORES]
    assert {str(kind) for kind in table.schema.types[2:]} == {"double"}
    assert table.column("language").to_pylist() == ["en", "en", "de", "en", "en"]
    assert all(math.isnan(value) for value in table.column("classifier_score").to_pylist())
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
    whole, shorter = shingles([family("a1", 0).text, family("a2", 2).text])
    assert reasons(first)["a2"][1] == f"{document('a1', '').id} {jaccard(whole, shorter):.3f}"
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
    source = house.corpus(old=OLD).files[0].path
    digest = []
    for name in ("one", "two"):
        result = judged(source, tmp_path / name, ScoreParams(paragraphs=True), Thresholds())
        assert result.records == {"documents": 3, "rejects": 2, "scores": 5}
        digest.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("*.parquet"))])
    assert digest[0] == digest[1]


def judged(source: str, folder: Path, scoring: ScoreParams, params: Thresholds) -> ShardResult:
    """Score and select one file without Ray."""
    scores = Shard(Unit("old", "", None, (source,)), scoring, {}, str(folder))
    score_shard(scores)
    tables = scores.path("scores", ".parquet"), scores.path("lines", ".parquet")
    return select_shard(Shard(Unit("old", "", None, (source, *tables)), params, {}, str(folder / "selected")))


CLUTTER = "Home\n\n{prose}\n\nShare\nWe use cookies to make this site better.\nRead more[3] about the harbour of the town."


def test_lines_are_cut_by_select_and_what_stays_is_scored(house: Chain, tmp_path: Path) -> None:
    prose = PROSE.format(town="Ys", number=3)
    source = house.corpus(old=[document("clutter", CLUTTER.format(prose=prose)), document("menu", "Home\nShare\n" * 40)]).files[0].path
    result = judged(source, tmp_path / "cut", ScoreParams(), Thresholds())
    [kept] = read_documents(tmp_path / "cut/selected/documents/old.parquet")
    assert kept.text == f"{prose}\n\nRead more about the harbour of the town."
    assert result.metrics == {"cut_characters": len(CLUTTER.format(prose=prose)) - len(kept.text)}
    left = pyarrow.parquet.read_table(tmp_path / "cut/selected/scores/old.parquet")
    assert left.column_names == ["id", *lines.SCORES]
    assert left.column("fineweb_newlines_per_word").to_pylist()[0] == 1 / len(split_words(kept.text))

    judged(source, tmp_path / "whole", ScoreParams(), replace(Thresholds(), lines=LineRules(cut=False)))
    [kept] = read_documents(tmp_path / "whole/selected/documents/old.parquet")
    assert kept.text == CLUTTER.format(prose=prose)


def test_every_rule_on_lines_is_a_matter_of_select(house: Chain) -> None:
    corpus = house.corpus(old=[document("clutter", CLUTTER.format(prose=PROSE.format(town="Ys", number=3)))])
    scored = house.run(score, ScoreParams(), corpus=corpus)
    texts = []
    for rules in (LineRules(), LineRules(min_words=1), LineRules(policies=False), LineRules(unfinished=True)):
        texts.append(documents(house.run(select, replace(Thresholds(), lines=rules), corpus=corpus, scores=scored))[0].text)
    assert len(set(texts)) == 3 and texts[1].startswith("Home\n") and "cookies" in texts[2]
    house.run(score, ScoreParams(), corpus=corpus)
    assert house.computed["score"] == 0


def test_documents_can_go_to_a_folder_for_each_language(house: Chain) -> None:
    corpus = house.corpus(a=[prose("a", 1), document("german", GERMAN * 2)], b=[prose("b", 2)])
    language = LanguageThresholds(languages=(), buckets=True)
    scored = house.run(score, ScoreParams(), corpus=corpus)
    selected = house.run(select, replace(Thresholds(), language=language, c4=C4Thresholds(min_sentences=1)), corpus=corpus, scores=scored)
    assert reasons(selected) == {
        "german": ("gopher_max_duplicate_5_grams", f"{scores_of(scored, 'gopher_duplicate_5_grams')[1]:.6g} > 0.15")
    }
    loose = replace(
        Thresholds(),
        language=language,
        c4=C4Thresholds(min_sentences=1),
        by_language={"de": {f"gopher_max_duplicate_{n}_grams": 1.0 for n in range(5, 11)} | {"fineweb_max_duplicate_line_characters": 1.0}},
    )
    selected = house.run(select, loose, corpus=corpus, scores=scored)
    assert [file.name for file in selected.select("documents")] == [
        "documents/de/a-de.parquet", "documents/en/a-en.parquet", "documents/en/b-en.parquet"
    ]  # fmt: skip
    unique = house.run(dedup, DedupParams(), corpus=selected)
    assert sorted(one.url for one in documents(unique)) == ["http://x/a", "http://x/b", "http://x/german"]


def scores_of(scored: Artifact, name: str) -> list[float]:
    return [value for file in scored.select("scores") for value in pyarrow.parquet.read_table(file.path).column(name).to_pylist()]


def test_paragraphs_in_another_language_are_cut_if_asked(house: Chain, tmp_path: Path) -> None:
    english, german = f"{PROSE.format(town='Ys', number=3)}\n\n{WINTER}", GERMAN
    source = house.corpus(old=[document("mixed", f"{english}\n\n{german}\n\nKurz gesagt: so war es")]).files[0].path
    texts = []
    for number, (paragraphs, most) in enumerate([(True, 0.65), (True, 1.0), (False, 0.65)]):
        params = replace(Thresholds(), language=LanguageThresholds((), 0.0), lines=LineRules(max_foreign=most))
        judged(source, tmp_path / str(number), ScoreParams(paragraphs=paragraphs), params)
        texts += [one.text for one in read_documents(tmp_path / str(number) / "selected/documents/old.parquet")]
    assert texts[0] == f"{english}\n\nKurz gesagt: so war es"  # too short to tell
    assert texts[1] == texts[2] == f"{english}\n\n{german}\n\nKurz gesagt: so war es"


def test_the_best_by_a_classifier_are_kept(house: Chain) -> None:
    pytest.importorskip("sklearn")
    calm = house.corpus(calm=[prose(f"calm {number}", number) for number in range(30)])
    loud = house.corpus(
        loud=[document(f"loud {number}", f"Buy {number} cheap pills now, click here for the best price!") for number in range(30)]
    )
    own = house.run(classifier, ClassifierParams(), positives=calm, negatives=loud)
    again = house.run(classifier, ClassifierParams(), positives=calm, negatives=loud)
    assert digests(own) == digests(again)
    corpus = house.corpus(
        a=[prose("a", 101), prose("ad", 102, text=" Click here for the best price! Buy now, click now, buy cheap pills!")],
        b=[prose("b", 103)],
    )
    scored = house.run(score, ScoreParams(), corpus=corpus, classifier=own)
    first, second, third = scores_of(scored, "classifier_score")
    assert second < min(first, third)
    strict = replace(Thresholds(), classifier=ClassifierThresholds(min_score=(second + min(first, third)) / 2))
    assert reasons(house.run(select, strict, corpus=corpus, scores=scored))["ad"][0] == "classifier_min_score"
    top = replace(Thresholds(), classifier=ClassifierThresholds(top_fraction=0.6))
    best = house.run(select, top, corpus=corpus, scores=scored)
    assert reasons(best) == {"ad": ("classifier_top_fraction", f"{second:g} < {min(first, third):g}")}
    plain = house.run(score, ScoreParams(), corpus=corpus)
    with pytest.raises(UserError, match=r"top_fraction: needs\.scores names a stage without a classifier"):
        house.run(select, top, corpus=corpus, scores=plain)


def test_to_choose_by_a_classifier_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    def look(recipe: str, *overrides: str) -> None:
        config = load(*composed(recipe, f"++root={tmp_path}", "++select.classifier.top_fraction=0.1", *overrides))
        Survey(config, Store(config.root), hash_sources=False)

    with pytest.raises(UserError, match=r"^select\.classifier\.top_fraction: needs\.scores names a stage without a classifier"):
        look("demo")
    (tmp_path / "a.jsonl").write_text("{}\n")
    look("classified", "++target=select", *(f"++source.{name}=[{tmp_path}/a.jsonl]" for name in ("pages", "positives", "negatives")))
