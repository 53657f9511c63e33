"""Gopher's measures have the values that a hand and a plain scan give; thresholds become verdicts in one way."""

import math
from dataclasses import fields, replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.quality.gopher import DUPLICATE_N, SCORES, TOP_N, quality, repetition, score
from data_prep.quality.verdicts import GopherQualityThresholds, LanguageThresholds, Thresholds, decide
from data_prep.segment import segment


def test_top_grams_by_hand() -> None:
    scores = repetition(segment("a b a b a b"))  # 11 characters
    assert scores["gopher_top_2_gram"] == 3 * 3 / 11  # "a b" three times, "b a" twice
    assert scores["gopher_top_3_gram"] == 2 * 5 / 11
    assert scores["gopher_top_4_gram"] == 2 * 7 / 11


def test_the_longest_of_equally_frequent_grams_counts() -> None:
    scores = repetition(segment("a b x long words y a b z long words"))
    assert scores["gopher_top_2_gram"] == 2 * 10 / 35


def test_grams_that_occur_once_are_no_repetition() -> None:
    scores = repetition(segment("every word here is different"))
    assert {value for name, value in scores.items()} == {0.0}


def test_duplicate_grams_by_hand() -> None:
    text = "one two three four five one two three four five"  # 47 characters, 19 letters each time
    scores = repetition(segment(text))
    assert scores["gopher_duplicate_5_grams"] == 19 / 47
    assert scores["gopher_duplicate_6_grams"] == 0


def test_duplicate_lines_and_paragraphs_by_hand() -> None:
    text = "same\nother\n\nsame\nother\n\nlast\nsame"  # 33 characters
    scores = repetition(segment(text))
    assert scores["gopher_duplicate_lines"] == 3 / 6
    assert scores["gopher_duplicate_line_characters"] == (4 + 5 + 4) / 33
    assert scores["gopher_duplicate_paragraphs"] == 1 / 3
    assert scores["gopher_duplicate_paragraph_characters"] == 10 / 33


def plain_scan(words: list[str], n: int) -> int:
    met, counted, position = set(), 0, 0
    while position + n <= len(words):
        gram = tuple(words[position : position + n])
        if gram in met:
            counted += sum(map(len, gram))
            position += n
        else:
            met.add(gram)
            position += 1
    return counted


def plain_top(words: list[str], n: int) -> int:
    grams = [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)]
    most = max(map(grams.count, grams), default=0)
    return max(len(gram) * most for gram in grams if grams.count(gram) == most) if most > 1 else 0


@given(
    st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=60)
    | st.lists(st.sampled_from("abcdefgh"), max_size=12).map(lambda part: part * 4)
)
def test_gram_measures_equal_a_plain_scan(words: list[str]) -> None:
    text = " ".join(words)
    scores = repetition(segment(text))
    for n in DUPLICATE_N:
        assert scores[f"gopher_duplicate_{n}_grams"] == (plain_scan(words, n) / len(text) if text else 0)
    for n in TOP_N:
        assert scores[f"gopher_top_{n}_gram"] == (plain_top(words, n) / len(text) if text else 0)


def test_quality_by_hand() -> None:
    text = "The #cat ate 12 fish...\n• and that\n- of …"
    # words: The # cat ate 12 fish ... • and that - of …
    scores = quality(segment(text), "en")
    assert scores == {
        "gopher_words": 8,
        "gopher_mean_word_length": (3 + 3 + 3 + 2 + 4 + 3 + 4 + 2) / 8,
        "gopher_hashes_per_word": 1 / 13,
        "gopher_ellipses_per_word": 2 / 13,
        "gopher_bullet_lines": 2 / 3,
        "gopher_ellipsis_lines": 2 / 3,
        "gopher_alphabetic_words": 7 / 13,
        "gopher_stop_words": 4,
    }


def test_stop_words_count_once_and_only_where_the_language_has_a_list() -> None:
    assert quality(segment("the The THE of"), "en")["gopher_stop_words"] == 2
    assert math.isnan(quality(segment("der die das"), "de")["gopher_stop_words"])


@given(st.text())
def test_any_text_gets_every_score(text: str) -> None:
    scores = score(segment(text), "en")
    assert tuple(scores) == SCORES
    assert all(math.isfinite(value) and value >= 0 for value in scores.values())
    for name, value in scores.items():
        if "duplicate" in name or name.endswith(("_lines", "alphabetic_words")):
            assert value <= 1, name


PASSING = {
    "language_score": 0.9,
    **dict.fromkeys(SCORES, 0.0),
    "gopher_words": 200.0,
    "gopher_mean_word_length": 5.0,
    "gopher_alphabetic_words": 0.9,
    "gopher_stop_words": 5.0,
}
LIMITS = [
    (f"gopher_{limit.name}", f"gopher_{limit.name[4:]}", limit.name[:3], getattr(rules, limit.name))
    for rules in (Thresholds().gopher_repetition, Thresholds().gopher_quality)
    for limit in fields(rules)
]


def test_every_score_has_a_threshold() -> None:
    assert {score for _, score, _, _ in LIMITS} == set(SCORES)


@pytest.mark.parametrize(("reason", "name", "bound", "threshold"), LIMITS)
def test_a_threshold_itself_passes_and_beyond_it_rejects(reason: str, name: str, bound: str, threshold: float) -> None:
    assert decide("en", PASSING | {name: threshold}, Thresholds()) is None
    beyond = threshold - 0.001 if bound == "min" else threshold + 0.001
    verdict = decide("en", PASSING | {name: beyond}, Thresholds())
    assert verdict is not None and verdict[0] == reason


def test_language_verdicts_come_first() -> None:
    bad = PASSING | {"gopher_words": 3.0}
    assert decide("de", bad, Thresholds()) == ("language", "de, not en")
    assert decide("en", bad | {"language_score": 0.5}, Thresholds()) == ("language_min_score", "en 0.5 < 0.65")
    assert decide("en", bad, Thresholds()) == ("gopher_min_words", "3 < 50")
    assert decide("de", PASSING, replace(Thresholds(), language=LanguageThresholds(languages=()))) is None


def test_a_score_that_does_not_apply_passes() -> None:
    german = replace(Thresholds(), language=LanguageThresholds(languages=("de",)))
    assert decide("de", PASSING | {"gopher_stop_words": math.nan}, german) is None


def test_fineweb_s_numbers() -> None:
    numbers = {reason: threshold for reason, _, _, threshold in LIMITS}
    assert [numbers[f"gopher_max_duplicate_{n}_grams"] for n in DUPLICATE_N] == [0.15, 0.14, 0.13, 0.12, 0.11, 0.10]
    assert [numbers[f"gopher_max_top_{n}_gram"] for n in TOP_N] == [0.20, 0.18, 0.16]
    assert (numbers["gopher_min_words"], numbers["gopher_max_words"], numbers["gopher_min_stop_words"]) == (50, 100_000, 2)


def test_thresholds_that_reject_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="set min_words <= max_words"):
        GopherQualityThresholds(min_words=60, max_words=50)
    with pytest.raises(msgspec.ValidationError, match=r"language\.min_score"):
        msgspec.convert({"language": {"min_score": 1.5}}, Thresholds)


def test_ordinary_prose_passes_and_a_word_list_does_not() -> None:
    prose = (
        "The harbour lay quiet that morning, and the fishermen who had come back with the tide stood about the quay to talk of nets and of "
        "the price of herring. A boy sat on the wall with a book that he did not read. He watched how the water moved between the boats, "
        "and he thought that one day he would have a boat of his own."
    )
    for text, expected in ((prose, None), ("rain wind snow hail storm cloud " * 20, "gopher_max_top_2_gram")):
        verdict = decide("en", {"language_score": 1.0} | score(segment(text), "en"), Thresholds())
        assert (verdict and verdict[0]) == expected
