"""Exact duplicates: one survivor, whatever the shards."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dedup.exact import normalise, removals, text_hash, write_hashes
from data_prep.dedup.removals import Removal, read_removals, write_removals
from data_prep.documents import Document


def document(identity: str, text: str, date: str = "2024-01-01", source: str = "a#0") -> Document:
    return Document(identity, "", text, date, source)


def tables(folder: Path, *shards: list[Document]) -> list[str]:
    paths = [str(folder / f"{number}.parquet") for number in range(len(shards))]
    for path, shard in zip(paths, shards, strict=True):
        assert write_hashes(path, shard) == len(shard)
    return paths


@pytest.mark.parametrize(
    ("one", "other"), [("A  b\n\nc ", "a b c"), ("STRASSE", "straße"), ("cafe\u0301", "CAFÉ"), ("a\u00a0b", "a b"), ("", " \n")]
)
def test_equal_texts(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)
    assert text_hash(one) == text_hash(other)


@pytest.mark.parametrize(("one", "other"), [("a b", "ab"), ("a.", "a"), ("e", "é"), ("1", "¹")])
def test_different_texts(one: str, other: str) -> None:
    assert text_hash(one) != text_hash(other)


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_the_oldest_survives_then_the_smallest_id_then_the_smallest_source(tmp_path: Path) -> None:
    paths = tables(
        tmp_path,
        [document("c", "old", "2023"), document("a", "old", "2024"), document("b", "tie"), document("z", "alone")],
        [document("a", "tie"), document("0", "old", ""), document("d", "twin", source="x#2"), document("d", "twin", source="x#1")],
        [],
    )
    assert removals(paths) == [
        [Removal(1, "a", "c"), Removal(2, "b", "a")],
        [Removal(1, "0", "c"), Removal(2, "d", "d")],
        [],
    ]


def test_no_tables_and_empty_tables_remove_nothing(tmp_path: Path) -> None:
    assert removals([]) == []
    assert removals(tables(tmp_path, [], [])) == [[], []]


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["", "2023", "2024"])), max_size=30), st.randoms(use_true_random=False))
def test_survivors_do_not_depend_on_shards_or_their_order(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, str]], chance: random.Random
) -> None:
    documents = [document(f"{number:02}", text, date) for number, (text, date) in enumerate(drawn)]

    def survivors(division: list[list[Document]]) -> set[str]:
        lists = removals(tables(tmp_path_factory.mktemp("tables"), *division))
        removed = {removal.id for entries in lists for removal in entries}
        kept = {one.id for one in documents} - removed
        assert {removal.survivor for entries in lists for removal in entries} <= kept
        return kept

    whole = survivors([documents])
    assert len(whole) == len({text for text, _ in drawn})
    shuffled = list(documents)
    chance.shuffle(shuffled)
    cut = chance.randrange(len(shuffled) + 1)
    assert survivors([shuffled[cut:], [], shuffled[:cut]]) == whole


def test_a_newer_crawl_changes_no_older_list(tmp_path: Path) -> None:
    first = [document("b", "one", "2023"), document("c", "one", "2023"), document("d", "two", "2023")]
    paths = tables(tmp_path, first)
    before = removals(paths)
    (tmp_path / "new").mkdir()
    paths += tables(tmp_path / "new", [document("a", "one", "2024"), document("0", "two", "2024")])
    assert removals(paths) == [*before, [Removal(0, "a", "b"), Removal(1, "0", "d")]]


def test_removal_lists_round_trip_and_are_byte_stable(tmp_path: Path) -> None:
    entries = [Removal(3, "a" * 32, "b" * 32), Removal(7, "c" * 32, "b" * 32)]
    for name in ("one", "two"):
        write_removals(tmp_path / name, entries)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_removals(tmp_path / "one") == {3: entries[0], 7: entries[1]}
