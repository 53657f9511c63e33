"""The measures have the values that a hand and plain scans give; thresholds become verdicts in one way."""

import doctest
import math
import re
from dataclasses import fields, replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_prep.quality
from data_prep.function_words import FUNCTION_WORDS, STOP_WORDS, find
from data_prep.quality import decide, gopher, lines, score
from data_prep.quality.gopher import DUPLICATE_N, SCORES, TOP_N
from data_prep.quality.languages import CHANGES
from data_prep.quality.lines import without_citations
from data_prep.quality.measure import measure
from data_prep.quality.verdicts import (
    C4Thresholds,
    GopherQualityThresholds,
    LanguageThresholds,
    LineRules,
    Thresholds,
    limits,
)
from data_prep.segment import segment
from pipeline.identity import plain

PROSE = (
    "The harbour lay quiet that morning, and the fishermen who had come back with the tide stood about the quay to talk of nets and of "
    "the price of herring. A boy sat on the wall with a book that he did not read. He watched how the water moved between the boats. "
    "Then he thought that one day he would have a boat of his own. He never told his father about it."
)


def repetition(text: str, language: str = "en") -> dict[str, float]:
    return {name: float(value) for name, [value] in gopher.repetition(segment([text]), [language]).items()}


def quality(text: str, language: str = "en") -> dict[str, float]:
    cut = segment([text])
    return {name: float(value) for name, [value] in gopher.quality(cut, find(cut), [language]).items()}


def test_the_examples_of_the_docstring() -> None:
    assert doctest.testmod(data_prep.quality).failed == 0


# Gopher


def test_top_grams_by_hand() -> None:
    scores = repetition("a b a b a b")  # 11 characters
    assert scores["gopher_top_2_gram"] == 3 * 3 / 11  # "a b" three times, "b a" twice
    assert scores["gopher_top_3_gram"] == 2 * 5 / 11
    assert scores["gopher_top_4_gram"] == 2 * 7 / 11


def test_the_longest_of_equally_frequent_grams_counts() -> None:
    assert repetition("a b x long words y a b z long words")["gopher_top_2_gram"] == 2 * 10 / 35


def test_grams_that_occur_once_are_no_repetition() -> None:
    assert set(repetition("every word here is different").values()) == {0.0}


def test_duplicate_grams_by_hand() -> None:
    text = "one two three four five one two three four five"  # 47 characters, 19 letters each time
    scores = repetition(text)
    assert scores["gopher_duplicate_5_grams"] == 19 / 47
    assert scores["gopher_duplicate_6_grams"] == 0


def test_a_word_without_spaces_is_two_or_three_characters() -> None:
    text = "春眠不觉晓处处闻啼鸟。春眠不觉晓处处闻啼鸟。夜来风雨声"  # 10 characters and a full stop, twice
    assert repetition(text, "zh")["gopher_duplicate_5_grams"] == 10 / 27
    assert repetition(text, "zh")["gopher_duplicate_6_grams"] == 0
    assert repetition(text, "en")["gopher_duplicate_10_grams"] == 10 / 27
    assert repetition("天地玄黄天地玄黄", "zh")["gopher_top_2_gram"] == 2 * 4 / 8
    assert quality(text, "zh")["gopher_words"] == 25 / 2
    assert quality("สวัสดีครับ", "th")["gopher_words"] == len(segment(["สวัสดีครับ"]).starts) / 3


def test_duplicate_lines_and_paragraphs_by_hand() -> None:
    scores = repetition("same\nother\n\nsame\nother\n\nlast\nsame")  # 33 characters
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


WORDS = (
    st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=60)
    | st.lists(st.sampled_from("abcdefgh"), max_size=12).map(lambda part: part * 4)
    | st.lists(st.sampled_from("abcdefgh"), min_size=5, max_size=12).flatmap(
        lambda part: st.lists(st.integers(0, len(part) - 5), max_size=8).map(lambda starts: [w for s in starts for w in part[s : s + 5]])
    )
)


@given(st.lists(WORDS, min_size=1, max_size=3))
def test_gram_measures_equal_a_plain_scan(texts: list[list[str]]) -> None:
    together = gopher.repetition(segment([" ".join(words) for words in texts]), ["en"] * len(texts))
    for number, words in enumerate(texts):
        size = len(" ".join(words))
        for n in DUPLICATE_N:
            assert together[f"gopher_duplicate_{n}_grams"][number] == (plain_scan(words, n) / size if size else 0)
        for n in TOP_N:
            assert together[f"gopher_top_{n}_gram"][number] == (plain_top(words, n) / size if size else 0)


def test_quality_by_hand() -> None:
    # words: The # cat ate 12 fish ... • and that - of …
    assert quality("The #cat ate 12 fish...\n• and that\n- of …") == {
        "gopher_words": 8,
        "gopher_mean_word_length": (3 + 3 + 3 + 2 + 4 + 3 + 4 + 2) / 8,
        "gopher_hashes_per_word": 1 / 13,
        "gopher_ellipses_per_word": 2 / 13,
        "gopher_bullet_lines": 2 / 3,
        "gopher_ellipsis_lines": 2 / 3,
        "gopher_alphabetic_words": 7 / 13,
        "gopher_stop_words": 4,
    }


@pytest.mark.parametrize(
    ("text", "language", "number"),
    [
        ("the The THE of", "en", 2),
        ("in is was", "en", 0),  # frequent, but none of Gopher's eight
        ("der die das", "de", 3),
        ("и на се да", "sr", 4),
        ("i na se da", "sr", 4),
        ("và của không", "vi", 3),
        ("va\u0300 cu\u0309a kho\u0302ng", "vi", 3),
        ("这是我的", "zh", 2),
        ("the of", "xx", math.nan),
    ],
)
def test_stop_words_count_once_and_only_where_the_language_has_a_list(text: str, language: str, number: float) -> None:
    assert quality(text, language)["gopher_stop_words"] == pytest.approx(number, nan_ok=True)


def test_gopher_s_own_stop_words_are_english_s_first() -> None:
    assert set(FUNCTION_WORDS["en"][:STOP_WORDS]) == {"the", "be", "to", "of", "and", "that", "have", "with"}
    assert all(len(words) >= STOP_WORDS and len(set(words)) == len(words) for words in FUNCTION_WORDS.values())
    assert len(FUNCTION_WORDS) >= 50


@given(st.lists(st.text() | st.text(alphabet="the of\n.#-…{中ี\u0301[1]"), min_size=1, max_size=4))
def test_any_text_gets_every_score_whatever_stands_beside_it(texts: list[str]) -> None:
    together = measure(texts, characters=100)
    for number, text in enumerate(texts):
        alone = measure([text], characters=100)
        assert alone.languages == [together.languages[number]]
        own = slice(together.lines.texts[number], together.lines.texts[number + 1])
        for name in lines.COLUMNS:
            assert getattr(alone.lines, name).tolist() == getattr(together.lines, name)[own].tolist(), name
        scores = score(text, together.languages[number])
        assert tuple(scores) == (*SCORES, *lines.SCORES)
        for name, value in scores.items():
            if name in together.scores:
                assert value == pytest.approx(together.scores[name][number], abs=0, nan_ok=True), name
            assert value >= 0 or name == "gopher_stop_words"
            if "duplicate" in name or (name.endswith(("_lines", "alphabetic_words")) and not name.startswith("c4")):
                assert value <= 1, name


# Lines


def left(text: str, language: str = "en", **rules: object) -> tuple[str, dict[str, float]]:
    """(what the rules leave of the text, its scores)."""
    measured = lines.measure(segment([without_citations(text)]), [language])
    stays, scores = lines.judge(measured, [replace(LineRules(), **rules)])
    return lines.cut(text, stays.tolist()), {name: float(value) for name, [value] in scores.items()}


@pytest.mark.parametrize(
    ("line", "rules", "stays"),
    [
        ("only two", {}, False),
        ("now there are three", {}, True),
        ("a b " + "c" * 1001, {}, False),
        ("a b " + "c" * 1000, {}, True),
        ("Please enable JavaScript in your browser.", {}, False),
        ("Please enable JavaScript in your browser.", {"javascript": False}, True),
        ("This site uses cookies to be useful.", {}, False),
        ("Read our PRIVACY POLICY before you go.", {"policies": False}, True),
        ("No end to this line", {"unfinished": True}, False),
        ("What an end to this line!", {"unfinished": True}, True),
        ("He said to go on...", {"unfinished": True}, False),
        ('They said: "Do go on"', {"unfinished": True}, True),
        ("天地玄黄", {"language": "zh"}, False),
        ("天地玄黄宇宙", {"language": "zh"}, True),
        ("宇" * 1500, {"language": "zh"}, True),
        ("İstanbul uses cookies everywhere", {}, False),
    ],
)
def test_lines_are_cut_by_c4_s_rules(line: str, rules: dict[str, object], stays: bool) -> None:
    assert left(line, **rules)[0] == (line if stays else "")


def test_nothing_is_cut_where_cutting_is_off() -> None:
    _, scores = left("two words\n\n{ javascript [1] terms of use", cut=False)
    assert scores["c4_curly_bracket_lines"] == 1 and scores["c4_sentences"] == 2


def test_scores_of_what_stays_by_hand() -> None:
    twice = "The first line is here. It has two ends!\n" * 2
    text = f"Menu\n\n{twice}\nAnd so on and so\nlorem ipsum {{ dolor ["
    rest, scores = left(text)
    assert rest == text.removeprefix("Menu\n\n")
    assert scores == {
        "c4_sentences": 6,
        "c4_lorem_ipsum_lines": 1,
        "c4_curly_bracket_lines": 1,
        "fineweb_punctuated_lines": 2 / 4,
        "fineweb_short_lines": 2 / 4,
        "fineweb_duplicate_line_characters": 40 / (40 + 40 + 16 + 21),
        "fineweb_newlines_per_word": 3 / (11 + 11 + 5 + 5),
    }


def test_a_line_that_is_cut_says_nothing_more() -> None:
    assert left("short {\nlorem ipsum")[1]["c4_curly_bracket_lines"] == 0
    assert left("The javascript of lorem ipsum {")[1]["c4_curly_bracket_lines"] == 0
    assert left("The javascript of lorem ipsum {")[1]["c4_lorem_ipsum_lines"] == 1
    assert left("Our terms of use {")[1]["c4_curly_bracket_lines"] == 1


def test_citation_marks_go_with_the_lines() -> None:
    assert left("So it was found.[1][23] Others differ.[citation needed] Or not [edit] [12a]")[0] == (
        "So it was found. Others differ. Or not  [12a]"
    )
    assert left("[1]\n[edit]\nThese are three words")[0] == "These are three words"


ODD_LINES = st.lists(
    st.sampled_from(
        ["Menu", "It was so, they said.", "one two three", "uses cookies, you know", "a [1] b c", "[2]", "", "  ", "他们都在那里了。",
         "{ a b c", "lorem ipsum x", "it goes on...", "  indented by two", "javascript it is"]
    ),
    max_size=12,
).map("\n".join)  # fmt: skip


@given(ODD_LINES | st.text(alphabet="a b[1]\n.\t\x1f\u2028中"), st.integers(0, 4), st.booleans())
@settings(max_examples=300)
def test_what_is_scored_is_what_is_left(text: str, min_words: int, unfinished: bool) -> None:
    """The scores after cutting, taken without the text, are those of the text that the cut leaves."""
    rest, scores = left(text, min_words=min_words, unfinished=unfinished)
    assert without_citations(rest) == rest or "[" in without_citations(text)
    measured = lines.measure(segment([rest]), ["en"])
    _, again = lines.judge(measured, [replace(LineRules(), cut=False)])
    for name in ("c4_sentences", *(name for name in lines.SCORES if name.startswith("fineweb"))):
        assert float(again[name][0]) == scores[name], name
    assert left(rest, min_words=min_words, unfinished=unfinished)[0] == without_citations(rest)


def plain_fineweb(text: str) -> dict[str, float]:
    """FineWeb's four numbers, line by line."""
    kept = [line.strip() for line in text.split("\n") if line.strip()]
    repeated = sum(len(line) for number, line in enumerate(kept) if line in kept[:number])
    return {
        "fineweb_punctuated_lines": sum(line[-1] in lines.STOPS for line in kept) / max(len(kept), 1),
        "fineweb_short_lines": sum(len(line) <= 30 for line in kept) / max(len(kept), 1),
        "fineweb_duplicate_line_characters": repeated / max(sum(map(len, kept)), 1),
    }


@given(ODD_LINES)
def test_fineweb_s_measures_equal_plain_ones(text: str) -> None:
    scores = left(re.sub(r"\[.\]", "", text), cut=False)[1]
    assert {name: scores[name] for name in plain_fineweb("")} == plain_fineweb(re.sub(r"\[.\]", "", text))


# Verdicts

PASSING = {
    "language_score": 0.9,
    **dict.fromkeys(SCORES, 0.0),
    "gopher_words": 200.0,
    "gopher_mean_word_length": 5.0,
    "gopher_alphabetic_words": 0.9,
    "gopher_stop_words": 5.0,
    **dict.fromkeys(lines.SCORES, 0.0),
    "c4_sentences": 9.0,
    "fineweb_punctuated_lines": 0.9,
    "classifier_score": 0.5,
}


def test_every_score_has_a_threshold() -> None:
    assert {limit.score for limit in limits(Thresholds())} == set(PASSING)


@pytest.mark.parametrize("limit", limits(Thresholds()), ids=lambda limit: limit.reason)
def test_a_threshold_itself_passes_and_beyond_it_rejects(limit) -> None:  # type: ignore[no-untyped-def]
    assert decide(PASSING | {limit.score: limit.value}) is None
    assert decide(PASSING | {limit.score: limit.value + (-0.001 if limit.least else 0.001)}) == limit.reason


def test_rules_are_asked_in_fineweb_s_order() -> None:
    asked = [limit.reason.split("_")[0] for limit in limits(Thresholds())]
    assert list(dict.fromkeys(asked)) == ["language", "gopher", "c4", "fineweb", "classifier"]
    assert decide(PASSING | {"gopher_words": 3.0, "c4_sentences": 0.0}) == "gopher_min_words"


def test_a_score_that_does_not_apply_passes() -> None:
    assert decide(PASSING | {"gopher_stop_words": math.nan, "classifier_score": math.nan}) is None


def test_fineweb_s_numbers() -> None:
    numbers = {limit.reason: limit.value for limit in limits(Thresholds())}
    assert [numbers[f"gopher_max_duplicate_{n}_grams"] for n in DUPLICATE_N] == [0.15, 0.14, 0.13, 0.12, 0.11, 0.10]
    assert [numbers[f"gopher_max_top_{n}_gram"] for n in TOP_N] == [0.20, 0.18, 0.16]
    assert (numbers["gopher_min_words"], numbers["gopher_max_words"], numbers["gopher_min_stop_words"]) == (50, 100_000, 2)
    assert [value for reason, value in numbers.items() if reason.startswith("fineweb")] == [0.12, 0.67, 0.01, 0.3]
    assert (numbers["c4_min_sentences"], numbers["c4_max_curly_bracket_lines"]) == (5, 0)


def test_thresholds_that_reject_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="set min_words <= max_words"):
        GopherQualityThresholds(min_words=60, max_words=50)
    with pytest.raises(msgspec.ValidationError, match=r"language\.min_score"):
        msgspec.convert({"language": {"min_score": 1.5}}, Thresholds)


def test_a_language_has_thresholds_of_its_own() -> None:
    thresholds = Thresholds(by_language={"de": {"gopher_min_words": 70, "language_min_score": 0.8, "lines_javascript": False}})
    german, english = thresholds.of("de"), thresholds.of("en")
    assert german.gopher_quality == replace(english.gopher_quality, min_words=70, max_mean_word_length=12)
    assert (german.language.min_score, german.lines) == (0.8, replace(LineRules(), javascript=False))
    assert english == replace(thresholds) == thresholds.of("xx")
    assert thresholds.of("fi").gopher_quality.min_words == 35
    assert len([code for code in CHANGES if code in FUNCTION_WORDS]) >= 45


def test_what_holds_for_a_language_is_part_of_the_params() -> None:
    thresholds = Thresholds(by_language={"de": {"gopher_min_words": 70}, "en": {"c4_min_sentences": 3}})
    values = plain(thresholds)
    assert values["by_language"]["de"] == {"gopher_max_mean_word_length": 12.0, "gopher_min_words": 70}
    assert values["by_language"]["fi"] == dict(CHANGES["fi"])
    assert msgspec.convert(values, Thresholds) == thresholds


@pytest.mark.parametrize(
    "changes",
    [
        {"gopher_min_word": 3}, {"words": 3}, {"c4_min_sentences": -1}, {"language_languages": 1}, {"classifier_top_fraction": 0.1},
        {"gopher_min_words": 200_000}, {"lines_max_word_characters": 0},
    ],
)  # fmt: skip
def test_a_mistake_in_a_language_s_thresholds_names_it(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"by_language\.de.*{next(iter(changes)).split('_', 1)[-1]}|by_language\.de"):
        Thresholds(by_language={"de": changes})


def test_every_language_s_changes_are_valid() -> None:
    for code in CHANGES:
        for rules in (Thresholds().of(code).gopher_quality, Thresholds().of(code).lines):
            assert all(getattr(rules, limit.name) is not None for limit in fields(rules))


def test_ordinary_prose_passes_and_a_word_list_does_not() -> None:
    assert decide(score(PROSE, "en")) is None
    assert decide(score("rain wind snow hail storm cloud " * 20, "en")) == "gopher_max_top_2_gram"
    assert decide(score(PROSE + "\nfunction() { return 1; }", "en")) == "c4_max_curly_bracket_lines"
    assert decide(score("\n".join(f"Only {word} stands" for word in PROSE.split()), "en"), lenient()) == "fineweb_max_short_lines"


def lenient() -> Thresholds:
    repetitive = {limit.name: 1.0 for limit in fields(Thresholds().gopher_repetition)}
    return replace(
        Thresholds(),
        language=LanguageThresholds(languages=()),
        gopher_repetition=replace(Thresholds().gopher_repetition, **repetitive),
        c4=C4Thresholds(min_sentences=0),
        fineweb=replace(Thresholds().fineweb, min_punctuated_lines=0.0),
    )
