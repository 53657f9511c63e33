"""Words, lines, sentences and paragraphs are cut as defined."""

import re
import time

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import segment as module
from data_prep.segment import FOREIGN_STOPS, Segments, batches, firsts, segment, split_words, totals

ODD = "aZ1_'’.,:-=*#! \n\t\xa0äßÄ½²中のง่ี\u0301\u200d\u200cक्ष\u0e33한Я،…。？」\"”)(\U0001f600\U00020000\x00\x1c\u2028"
TEXTS = st.text() | st.text(alphabet=ODD)


def sentences(text: str) -> list[str]:
    cut = segment([text])
    return cut.strings(cut.sentences)


def lines(text: str) -> list[str]:
    cut = segment([text])
    return cut.strings(cut.lines)


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


def pattern_of_a_word() -> re.Pattern[str]:
    """The definition of words and symbols as one regular expression."""
    marks = "".join(re.escape(chr(point)) for point in range(0x300, 0x10000) if module._classes()[point] & module.MARK)
    letter = rf"[^\W{module.UNSPACED_SCRIPTS}]"
    word = rf"{letter}(?:{letter}++|[{marks}]++)*+"
    inside = r"(?:['’.]|(?<=\d)[,:](?=\d))"
    return re.compile(rf"{word}(?:{inside}{word})*|[{module.UNSPACED_SCRIPTS}][{marks}]*|\.+|-+|=+|\*+|#+|[^\w\s]")


PATTERN = pattern_of_a_word()


@given(TEXTS)
@settings(max_examples=400)
def test_words_are_what_the_pattern_finds(text: str) -> None:
    assert split_words(text) == PATTERN.findall(text)


SENTENCE_END = re.compile(rf"(?<![.!?…])[.!?…]++[{re.escape(module.CLOSINGS)}]*+(?=\s)|[{FOREIGN_STOPS}]+[{re.escape(module.CLOSINGS)}]*")


def sentences_of_line(line: str) -> list[str]:
    ends = [match.end() for match in SENTENCE_END.finditer(line)]
    parts = [line[start:end].strip() for start, end in zip([0, *ends], [*ends, len(line)], strict=True)]
    return [part for part in parts if part]


@given(TEXTS | st.text(alphabet='aB.!?…。？"”) \n'))
@settings(max_examples=300)
def test_lines_paragraphs_and_sentences_are_what_patterns_find(text: str) -> None:
    cut = segment([text])
    plain = [line for line in map(str.strip, text.split("\n")) if line]
    assert cut.strings(cut.lines) == plain
    assert cut.strings(cut.paragraphs) == [part for part in map(str.strip, re.split(r"\n[^\S\n]*\n\s*", text)) if part]
    assert cut.strings(cut.sentences) == [sentence for line in plain for sentence in sentences_of_line(line)]


@given(TEXTS)
def test_words_lose_nothing_but_white_space(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.split())


@given(st.lists(TEXTS, max_size=5))
def test_texts_cut_together_are_cut_as_if_alone(texts: list[str]) -> None:
    together = segment(texts)
    words = [together.text[start:end] for start, end in zip(together.starts, together.ends, strict=True)]
    for number, text in enumerate(texts):
        alone = segment([text])
        assert together.sizes[number] == len(text)
        own = slice(together.texts[number], together.texts[number + 1])
        assert words[own] == split_words(text)
        for name in ("symbols", "letters", "unspaced", "hashes"):
            assert getattr(together, name)[own].tolist() == getattr(alone, name).tolist(), name
        for name in ("paragraphs", "lines", "sentences"):
            units, bounds = getattr(together, name), firsts(getattr(together, name), together.texts)
            part = slice(bounds[number], bounds[number + 1])
            assert (units[part] - together.texts[number]).tolist() == getattr(alone, name)[:-1].tolist()
            assert (together.text_of(units)[part] == number).all()
            assert together.hashes_of(units)[part].tolist() == alone.hashes_of(getattr(alone, name)).tolist()


@given(TEXTS)
def test_flags_say_what_the_words_are_made_of(text: str) -> None:
    cut = segment([text])
    for word, symbol, letters in zip(split_words(text), cut.symbols, cut.letters, strict=True):
        assert symbol == (not any(map(str.isalnum, word))), word
        assert letters == any(map(str.isalpha, word)), word


@given(st.lists(st.text(alphabet="ab\x00中1_", min_size=1, max_size=4), max_size=30))
def test_hashes_are_equal_where_words_are(words: list[str]) -> None:
    cut = segment([" ".join(words)])
    hashes: dict[str, int] = {}
    for word, value in zip(split_words(cut.text), cut.hashes.tolist(), strict=True):
        assert hashes.setdefault(word, value) == value
    assert len(set(hashes.values())) == len(hashes)


def test_hashes_do_not_depend_on_where_a_word_stands() -> None:
    far = segment(["x " * module._BLOCK + "word " + "y" * module._BLOCK + " word"])
    assert far.hashes[-1] == far.hashes[-3] == segment(["word"]).hashes[0]


def test_lines_and_paragraphs_are_stripped_and_never_empty() -> None:
    cut = segment(["\n  one \ntwo\n \t\n\n three\n"])
    assert cut.strings(cut.lines) == ["one", "two", "three"]
    assert cut.strings(cut.paragraphs) == ["one \ntwo", "three"]
    empty = segment([" \n \n", ""])
    assert [len(units) for units in (empty.texts, empty.lines, empty.paragraphs, empty.sentences, empty.starts)] == [3, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_totals_of_ranges() -> None:
    assert totals(numpy.array([1, 2, 3, 4]), numpy.array([0, 0, 2, 4, 4])).tolist() == [0, 3, 7, 0]
    assert totals(numpy.zeros(0, bool), numpy.array([0, 0])).tolist() == [0]


def test_batches_keep_order_and_close_at_the_size() -> None:
    texts = ["a" * 30, "b" * 10, "c", "d" * 100, "e"]
    assert list(batches(texts, characters=40)) == [["a" * 30, "b" * 10], ["c", "d" * 100], ["e"]]
    assert list(batches([])) == []


def test_long_runs_take_linear_time() -> None:
    def seconds(text: str) -> float:
        begun = time.process_time()
        cut: Segments = segment([text])
        assert cut.sizes.tolist() == [len(text)]
        return time.process_time() - begun

    segment(["warm"])
    for part in ("a'", ".", "a\u0301", "\n", '!"', "\u0301", '."', "。」", "中", "a\n\n", "' "):
        assert seconds(part * 200_000) < 2, part
