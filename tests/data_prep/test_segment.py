"""Words, lines, sentences and paragraphs are cut as defined."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.segment import _patterns, is_symbol, segment, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't stop", ["don't", "stop"]),
        ("don’t", ["don’t"]),
        ("well-known", ["well", "-", "known"]),
        ("It cost $1,000.50 at 12:30, see example.com.", ["It", "cost", "$", "1,000.50", "at", "12:30", ",", "see", "example.com", "."]),
        ("one,two a:b 3,a", ["one", ",", "two", "a", ":", "b", "3", ",", "a"]),
        ("wait... -- == ** ## !!", ["wait", "...", "--", "==", "**", "##", "!", "!"]),
        ("snake_case __ _", ["snake_case", "__", "_"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("e\u0301te\u0301 naïve", ["e\u0301te\u0301", "naïve"]),
        ("می\u200cخواهم بروم", ["می\u200cخواهم", "بروم"]),
        ("私は3年、漢字", ["私", "は", "3", "年", "、", "漢", "字"]),
        ("ง่าย ok", ["ง่", "า", "ย", "ok"]),
        ("\u0301x", ["\u0301", "x"]),
        ("  \n\t", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(st.text())
def test_words_lose_nothing_but_white_space(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.split())


@given(st.text(alphabet="aZ1_'’.,:-=*#! \näß\u200b中\u0301"))
def test_the_pattern_for_common_text_agrees_with_the_general_one(text: str) -> None:
    simple, special, general = _patterns()
    if not special.search(text):
        assert simple.findall(text) == general.findall(text)


@given(st.text(alphabet="a1_- .中\n"))
def test_white_space_separates_words(text: str) -> None:
    assert split_words(text) == [word for part in text.split() for word in split_words(part)]


@pytest.mark.parametrize(("word", "symbol"), [("a", False), ("7", False), ("-", True), ("...", True), ("__", True), ("中", False)])
def test_symbols_have_neither_letter_nor_digit(word: str, symbol: bool) -> None:
    assert is_symbol(word) is symbol


def test_lines_and_paragraphs_are_stripped_and_never_empty() -> None:
    cut = segment("\n  one \ntwo\n \t\n\n three\n")
    assert cut.lines == ["one", "two", "three"]
    assert cut.paragraphs == ["one \ntwo", "three"]
    empty = segment(" \n \n")
    assert (empty.lines, empty.paragraphs, empty.sentences, empty.words) == ([], [], [], [])


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ('He said "Stop!" Then he left.', ['He said "Stop!"', "Then he left."]),
        ("Pi is 3.14... See example.com now", ["Pi is 3.14...", "See example.com now"]),
        ("これは文です。次！「終わり。」と", ["これは文です。", "次！", "「終わり。」", "と"]),
        ("यह है। वह है।", ["यह है।", "वह है।"]),
        ("No end\nnew line", ["No end", "new line"]),
        ("Mr. X", ["Mr.", "X"]),
        ("?! Why?", ["?!", "Why?"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert segment(text).sentences == sentences


@given(st.text(alphabet='aB.!?…。"”) \n'))
def test_sentences_lose_nothing_but_white_space(text: str) -> None:
    assert "".join("".join(segment(text).sentences).split()) == "".join(text.split())


def test_long_runs_take_linear_time() -> None:
    for text in ("a'" * 200_000, "." * 200_000, "a\u0301" * 200_000 + "-", "\n" * 200_000, '!"' * 200_000):
        assert segment(text).text == text
