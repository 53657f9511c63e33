"""Shingles: the same sets as their definition gives word by word, whatever the batch, whatever the input."""

import random
import re
import unicodedata

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup import shingles as module
from data_prep.dedup.shingles import Shingles, blocks, shingles

WORDS = ["the", "quay", "Boat", "straße", "naïve", "x_1", "42", "Ωmega", "мир", "don't", "well-known", "—", "...", "É"]
HAN = "港口静静地躺在晨光里渔夫们谈论着网和鲱鱼的价格"


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())


def reference(text: str, length: int = 5) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[first : first + length]) for first in range(max(1, len(words) - length + 1))} if words else set()


def same(one: Shingles, other: Shingles) -> bool:
    return bool((one.hashes == other.hashes).all() and (one.bounds == other.bounds).all())


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), max_size=12))
def test_sets_agree_with_their_definition(texts: list[str]) -> None:
    found = shingles(texts)
    assert len(found) == len(texts)
    references = [reference(text) for text in texts]
    assert [len(found[number]) for number in range(len(texts))] == [len(expected) for expected in references]
    for one in range(len(texts)):
        for other in range(one):
            shared = len(numpy.intersect1d(found[one], found[other]))
            assert shared == len(references[one] & references[other])


@settings(max_examples=40)
@given(st.lists(st.text(max_size=80), max_size=10), st.integers(1, 60))
def test_batches_change_nothing(texts: list[str], size: int) -> None:
    whole = shingles(texts)
    for number in range(len(texts)):
        assert (numpy.diff(whole[number].astype(numpy.int64)) > 0).all()
        assert same(shingles([texts[number]]), Shingles(whole[number], numpy.array([0, len(whole[number])])))
    before, module.BATCH_CHARACTERS = module.BATCH_CHARACTERS, size
    try:
        assert same(shingles(texts), whole)
    finally:
        module.BATCH_CHARACTERS = before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("One two three four five six", "one TWO, three; four (five) six!"),
        ("caf\u00e9 au lait et du pain", "cafe\u0301 au lait et du pain"),
        ("İstanbul", "istanbul"),
        ("only three words", "Only... three... words..."),
        (HAN, HAN[:7] + "，" + HAN[7:] + "。"),
        ("कितना समय लगेगा यह काम करने में", "कितना समय — लगेगा यह काम करने में?"),
    ],
)
def test_case_punctuation_and_composition_do_not_count(one: str, other: str) -> None:
    found = shingles([one, other])
    assert len(found[0]) and (found[0] == found[1]).all()


def test_text_without_words_has_none_and_a_short_text_one() -> None:
    found = shingles(["", " \n\t", "— … !?", "\x00\u200b", "one two three four", "港口静静", "one two three four five six"])
    assert numpy.diff(found.bounds).tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert len(shingles([])) == 0


def test_scripts_without_spaces_have_nine_characters_a_shingle() -> None:
    found = shingles([HAN, HAN[:9], "ภาษาไทยไม่มีช่องว่าง", "한국어는 띄어쓰기가 있어서 낱말로 나누어 진다"])
    assert len(found[0]) == len(HAN) - 8
    assert len(found[1]) == 1 and found[1][0] in found[0]
    assert len(found[2]) > 3  # a unit for each consonant or vowel, with its marks
    assert len(found[3]) == 2  # six words with spaces
    mixed = shingles([f"the harbour lay quiet that morning {HAN} and the fishermen talked of nets"])
    assert len(mixed[0]) == 6 + (len(HAN) + 6 - 8) + (6 - 4)  # each as long as where it begins says, over the change of script


def test_lengths_can_be_set() -> None:
    text = "one two three four five six seven"
    assert [len(shingles([text], words=number)[0]) for number in (1, 3, 7, 8)] == [7, 5, 1, 1]
    assert len(shingles([HAN], characters=5)[0]) == len(HAN) - 4


def test_long_texts_and_long_words_are_as_short_ones() -> None:
    chance = random.Random(1)
    words = [f"{chance.choice('abcdefgh')}{number % 977}" for number in range(60_000)]
    text = " ".join(words)  # several blocks of powers, more than a batch
    assert len(shingles([text])[0]) == pytest.approx(len(reference(text)), abs=2)
    giant = "x" * 300_000
    assert len(shingles([giant + " and four more words"])[0]) == 1
    tail = shingles(["pad " * 50_000 + "some words at the very end", "some words at the very end"])
    assert len(numpy.intersect1d(tail[0], tail[1])) == len(tail[1])


@pytest.mark.parametrize(
    "text", ["\ud800 lone surrogate and four words", "\u202etrojan\u202c bidi text of five", "a\u0300" * 9_000, "\U0010ffff" * 99]
)
def test_hostile_characters_do_no_harm(text: str) -> None:
    assert same(shingles([text]), shingles([text]))


def test_hashes_are_the_same_on_every_machine_and_version() -> None:
    found = shingles(["The harbour lay quiet that morning.", HAN])
    assert found[0].tolist() == [1991450149, 2678613488]
    assert found[1].tolist()[:6] == [302601851, 306558642, 1184358556, 1221436805, 1516586913, 1773039260]


def test_hashes_look_random() -> None:
    found = shingles([" ".join(f"w{number}" for number in range(40_000))])
    hashes = found.hashes
    assert len(hashes) == pytest.approx(40_000 - 4, abs=3)
    for bit in range(32):
        assert numpy.count_nonzero(hashes >> numpy.uint32(bit) & 1) / len(hashes) == pytest.approx(0.5, abs=0.012)


def test_blocks_take_whole_groups() -> None:
    bounds = numpy.array([0, 3, 3, 10, 11, 12])
    assert list(blocks(bounds, 4)) == [(0, 2), (2, 3), (3, 5)]
    assert list(blocks(numpy.array([0]), 4)) == []
