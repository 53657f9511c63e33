"""The stages that compare documents across files: what they remove, whatever the partitions, the division into files and the order."""

from __future__ import annotations

import hashlib
import json
import lzma
import random
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from house import House, Inline, digests, documents, reasons

from data_prep.dedup import signed
from data_prep.dedup.near import jaccard, near_duplicates
from data_prep.dedup.removals import read_removals
from data_prep.dedup.shingles import shingles
from data_prep.dedup.signed import Signing
from data_prep.documents import Document
from data_prep.stages import DedupParams, DedupUrlParams, LineDedupParams, NearDedupParams, dedup, dedup_url, line_dedup, near_dedup
from data_prep.stages.duplicates import CompareRun, check_near_dedup
from pipeline.stage import Artifact, File, UserError

RELATIONS = ("identical_text", "revision")
NAMES = ("north", "south", "east", "west")


def document(name: str, text: str, date: str = "2024-05-01", url: str = "") -> Document:
    return Document(hashlib.sha256(name.encode()).hexdigest()[:32], url or f"http://x/{name}", text, date, f"x#{name}")


def crawl(seed: int, number: int) -> list[Document]:
    """Documents of which many are edits of others, in no order, some without a date."""
    chance = random.Random(seed)
    vocabulary = [f"{first}{second}" for first in "bcdfghklmnprst" for second in ("alo", "eri", "oma", "uti", "isk", "ane", "oro")]
    texts: list[list[str]] = []
    for _ in range(number):
        if texts and chance.random() < 0.6:
            words = list(chance.choice(texts))
            for _ in range(chance.randrange(9)):
                words[chance.randrange(len(words))] = chance.choice(vocabulary)
        else:
            words = [chance.choice(vocabulary) for _ in range(chance.randrange(2, 200))]
        texts.append(words)
    dates = ["", *(f"2024-0{month}-11" for month in range(1, 6))]
    found = [document(f"{seed}-{place}", " ".join(words), chance.choice(dates)) for place, words in enumerate(texts)]
    chance.shuffle(found)
    return found


def divided(corpus: list[Document], *cuts: int) -> dict[str, list[Document]]:
    edges = [0, *cuts, len(corpus)]
    return {name: corpus[first:last] for name, first, last in zip(NAMES, edges[:-1], edges[1:], strict=False)}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, Inline)


def ids(artifact: Artifact) -> set[str]:
    return {one.id for one in documents(artifact)}


def removed(artifact: Artifact) -> dict[str, tuple[str, float]]:
    lists = [read_removals(file.path).values() for file in artifact.select("removals")]
    return {entry.id: (entry.survivor, entry.similarity) for entries in lists for entry in entries}


def test_every_removal_is_justified_by_a_kept_document_of_higher_rank(house: House) -> None:
    corpus = crawl(1, 200)
    by_id = {one.id: one for one in corpus}
    sets = {one.id: shingles([one.text])[0] for one in corpus}
    result = house.run(near_dedup, NearDedupParams(), corpus=house.corpus(**divided(corpus, 60, 61, 130)))
    gone = removed(result)
    assert 30 < len(gone) == len(corpus) - len(ids(result))
    for identity, (survivor, similarity) in gone.items():
        assert survivor in ids(result)
        assert similarity == jaccard(sets[identity], sets[survivor]) >= 0.7
        old, new = by_id[survivor], by_id[identity]
        assert (not old.date, old.date, old.id) < (not new.date, new.date, new.id)
    kept = sorted(ids(result))
    alike = [(one, other) for one in kept for other in kept if one < other and jaccard(sets[one], sets[other]) >= 0.85]
    assert len(alike) <= 1
    assert {reason for reason, _ in reasons(result).values()} == {"near_duplicate"}


def test_partitions_change_no_byte_and_divisions_no_verdict(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed, "_OPEN_FILES", 2)  # fewer than there are
    corpus = crawl(2, 150)
    parts = house.corpus(**divided(corpus, 40, 90))
    results = [house.run(near_dedup, NearDedupParams(), CompareRun(partitions=number), corpus=parts) for number in (1, 2, 7)]
    assert digests(results[0]) == digests(results[1]) == digests(results[2])
    random.Random(0).shuffle(corpus)
    for cuts in ((), (1, 2, 100)):
        other = house.run(near_dedup, NearDedupParams(), corpus=house.corpus(**divided(corpus, *cuts)))
        assert removed(other) == removed(results[0])


def test_the_rank_chooses_who_stays(house: House) -> None:
    words = [f"word{number}" for number in range(100)]
    long, middle, short = (" ".join(words[:number]) for number in (100, 96, 92))
    corpus = [document("b", middle, "2023"), document("a", short, "2024"), document("c", long, "2025"), document("d", middle, "")]
    parts = house.corpus(one=corpus[:2], two=corpus[2:])

    def kept(rank: str, **inputs: Artifact) -> set[str]:
        return ids(house.run(near_dedup, NearDedupParams(rank=rank), corpus=parts, **inputs))

    assert kept("oldest") == {corpus[0].id}
    assert kept("newest") == {corpus[2].id}
    assert kept("longest") == {corpus[2].id}
    tables = {"one": [0.1, float("nan")], "two": [0.05, 0.7]}
    files = []
    for name, values in tables.items():
        path = house.root / f"scores-{name}.parquet"
        own = {"one": corpus[:2], "two": corpus[2:]}[name]
        extra = pyarrow.table({"id": ["other", *(one.id for one in own)], "language": ["en"] * 3, "quality": [0.0, *values]})
        pyarrow.parquet.write_table(extra, path)
        files.append(File.of(f"scores/{name}.parquet", path, 3))
    scores = house.artifact("score", house.root / "scores", files)
    assert kept("quality", scores=scores) == {corpus[3].id}
    for rank, said in (("quality", "neither oldest, newest, longest nor a score"), ("gopher_words", r"set near\.needs\.scores")):
        with pytest.raises(UserError, match=f"near.rank={rank}: .*{said}"):
            check_near_dedup("near", NearDedupParams(rank=rank), CompareRun(), (), ("corpus",))
    check_near_dedup("near", NearDedupParams(rank="gopher_words"), CompareRun(), (), ("corpus", "scores"))
    with pytest.raises(UserError, match="rank=language: no column of the scores; they have quality"):
        kept("language", scores=scores)
    with pytest.raises(UserError, match="no scores of two"):
        kept("quality", scores=house.artifact("score", house.root / "scores", files[:1]))
    with pytest.raises(UserError, match="does not score"):
        kept("quality", scores=house.artifact("score", house.root / "scores", [files[0], replace(files[0], name="scores/two.parquet")]))


def test_a_new_crawl_gives_way_to_earlier_ones_whose_texts_are_gone(house: House) -> None:
    corpus = [replace(one, date="2020") for one in crawl(3, 200)]
    old, older, new = corpus[:80], corpus[80:100], [replace(one, date="2010") for one in corpus[100:]]
    first = house.run(near_dedup, NearDedupParams(), corpus=house.corpus(**divided(old, 30)))
    second = house.run(near_dedup, NearDedupParams(), corpus=house.corpus(one=older), earlier=first)
    kept = ids(first) | ids(second)
    assert set(removed(second)) and {survivor for survivor, _ in removed(second).values()} <= kept
    for artifact in (first, second):  # nothing but signatures and lists is left of them
        for file in artifact.select("documents") + artifact.select("rejects"):
            Path(file.path).unlink()
    fresh = house.corpus(one=new)
    third = house.run(near_dedup, NearDedupParams(), corpus=fresh, earlier_1=first, earlier_2=second)
    assert digests(third) == digests(
        house.run(near_dedup, NearDedupParams(), CompareRun(partitions=5), corpus=fresh, earlier_1=first, earlier_2=second)
    )
    survivors = {survivor for survivor, _ in removed(third).values()}
    assert survivors <= kept | ids(third) and survivors & kept and survivors & ids(third)
    by_id = {one.id: shingles([one.text])[0] for one in corpus}
    for identity, (survivor, similarity) in removed(third).items():
        assert similarity == jaccard(by_id[identity], by_id[survivor]) >= 0.7
    missed = [(one, other) for one in ids(third) for other in kept if jaccard(by_id[one], by_id[other]) >= 0.85]
    assert len(missed) <= 1
    assert not ids(third) & ids(house.run(near_dedup, NearDedupParams(), corpus=fresh, earlier=third))  # all of it is there already


def test_earlier_corpora_must_be_signed_alike(house: House) -> None:
    corpus = house.corpus(one=crawl(4, 20))
    other = house.run(near_dedup, NearDedupParams(signature=Signing(words=7)), corpus=corpus)
    with pytest.raises(UserError, match="not signed alike"):
        house.run(near_dedup, NearDedupParams(), corpus=corpus, earlier=other)
    with pytest.raises(UserError, match="not signed alike"):
        house.run(near_dedup, NearDedupParams(), corpus=corpus, earlier=corpus)


def test_empty_files_and_texts_without_words_stay(house: House) -> None:
    odd = [document(str(number), text) for number, text in enumerate(["!", "!", "—", "x", "\u200b"])]
    result = house.run(near_dedup, NearDedupParams(), corpus=house.corpus(none=[], odd=odd))
    assert documents(result) == odd
    assert documents(house.run(near_dedup, NearDedupParams(), corpus=house.corpus(none=[]))) == []


def test_a_record_that_stands_in_two_files_stays_once(house: House) -> None:
    one = document("twice", "there are quite some words in this text of mine")
    result = house.run(near_dedup, NearDedupParams(), corpus=house.corpus(a=[one], b=[one]))
    assert documents(result) == [one]


def test_real_pages(house: House, shared_data: Path) -> None:
    with lzma.open(shared_data / "dedup" / "pairs.jsonl.xz", "rt") as lines:
        pairs = [json.loads(line) for line in lines]
    same = [pair for pair in pairs if pair["relation"] == "identical_text" or (pair["relation"] == "revision" and pair["jaccard"] >= 0.8)]
    old = [document(f"{number}a", pair["a"], "2001") for number, pair in enumerate(same)]
    new = [document(f"{number}b", pair["b"], "2002") for number, pair in enumerate(same)]
    result = house.run(near_dedup, NearDedupParams(), CompareRun(partitions=7), corpus=house.corpus(old=old, new=new))
    gone = removed(result)
    found = {
        relation: [one.id in gone for one, pair in zip(new, same, strict=True) if pair["relation"] == relation] for relation in RELATIONS
    }
    assert all(found["identical_text"])
    assert sum(found["revision"]) >= 0.95 * len(found["revision"])
    texts = {one.id: one.text for one in [*old, *new]}
    for identity, (survivor, similarity) in gone.items():
        exact = jaccard(*(shingles([texts[one]])[0] for one in (identity, survivor)))
        assert exact >= 0.65 and exact == pytest.approx(similarity, abs=0.05)
    others = [near_duplicates([pair["a"], pair["b"]], 0.5) for pair in pairs if pair["relation"] == "different_page_same_manual"]
    assert len(others) > 100 and not any(others)


def test_of_one_url_the_newest_stays(house: House) -> None:
    corpus = [
        document("a", "first", "2024-01", "http://x.example/page"),
        document("b", "second", "2024-03", "HTTP://X.example:80/page#top"),
        document("c", "third", "", "http://x.example/page"),
        document("d", "fourth", "2024-01", "http://x.example/page?x=1"),
        document("e", "fifth", "2024-01", " "),
        document("f", "fifth", "2024-01"),
    ]
    corpus[5] = replace(corpus[5], url="")
    corpus.append(replace(corpus[5], id="f" * 32))
    newest = house.run(dedup_url, DedupUrlParams(), corpus=house.corpus(one=corpus[:2], two=corpus[2:]))
    assert [one.text for one in documents(newest)] == ["second", "fourth", "fifth", "fifth", "fifth"]
    assert {reason for reason, _ in reasons(newest).values()} == {"duplicate_url"}
    oldest = house.run(dedup_url, DedupUrlParams(keep="oldest"), CompareRun(partitions=3), corpus=house.corpus(one=corpus))
    assert [one.text for one in documents(oldest)][:2] == ["first", "fourth"]


@pytest.mark.parametrize("partitions", [2, 7])
def test_exact_duplicates_in_partitions(house: House, partitions: int) -> None:
    chance = random.Random(0)
    corpus = [document(str(number), f"text {chance.randrange(60)}", chance.choice(["", "2023", "2024"])) for number in range(200)]
    parts = house.corpus(**divided(corpus, 50, 120))
    whole = house.run(dedup, DedupParams(), corpus=parts)
    assert len(documents(whole)) == len({one.text for one in corpus})
    assert digests(house.run(dedup, DedupParams(), CompareRun(partitions=partitions), corpus=parts)) == digests(whole)


LINES = ["A line that many pages have, word by word.", "Another line of the same kind, which is long enough.", "short", "}"]


def test_a_line_stays_in_the_oldest_document(house: House) -> None:
    corpus = [
        document("new", f"{LINES[0]}\nIts own first line is this one here.\nshort\n}}", "2025"),
        document("old", f"Something of the oldest page alone.\n\n{LINES[0].upper()}  \n\n\n{LINES[1]}\nshort\n}}", "2023"),
        document("all", f"{LINES[1]}\n\n{LINES[0]}", "2024"),
        document("own", "A refrain that comes back and back again.\nshort\n}\nA refrain that comes  back and back again.", "2025"),
    ]
    parts = house.corpus(one=corpus[:1], two=corpus[1:])
    results = [house.run(line_dedup, LineDedupParams(), CompareRun(partitions=number), corpus=parts) for number in (1, 4)]
    assert digests(results[0]) == digests(results[1])
    assert [one.text for one in documents(results[0])] == [
        "Its own first line is this one here.\nshort\n}",
        corpus[1].text,
        "A refrain that comes back and back again.\nshort\n}",
    ]
    assert reasons(results[0]) == {"all": ("duplicate_lines", "")}
    assert results[0].manifest["metrics"]["documents_changed"] == 3
    newest = house.run(line_dedup, LineDedupParams(keep="newest"), corpus=parts)
    assert LINES[0] in documents(newest)[0].text and LINES[0] not in documents(newest)[1].text


def test_paragraphs_are_what_blank_lines_part(house: House) -> None:
    paragraph = "A paragraph of two lines\nwhich go together."
    corpus = [
        document("a", f"{paragraph}\n\nOne more paragraph of the first.", "2023"),
        document("b", f"One of the second document.\n \n{paragraph}\n\n\nA last one of the second.\nwhich go together.", "2024"),
    ]
    result = house.run(line_dedup, LineDedupParams(unit="paragraph", min_characters=10), corpus=house.corpus(one=corpus))
    assert [one.text for one in documents(result)] == [
        corpus[0].text,
        "One of the second document.\n \nA last one of the second.\nwhich go together.",
    ]
