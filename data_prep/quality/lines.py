"""What the rules on lines (C4's and FineWeb's) need to know of each line, measured once; the rules themselves decide later.

C4's rules remove lines, and FineWeb's measure what remains. Were the removal done here, another limit on a line's words would mean to
score again. So a table of lines is kept: every later choice of rules gives the lines to cut and the scores of what remains from
that table alone, and cutting finds the same lines in the text, since both know a line by its number.

All is measured of the text without citation marks (`[1]`, `[edit]`, `[citation needed]`), as C4 cuts them first; `without_citations` makes
that text. A line (see `data_prep.segment`) has

words       runs of characters that are no white space; where there are more words in scripts without spaces, the number of those (two or
            three characters are a word, see `data_prep.quality.gopher`)
longest     characters of the longest such run without a character of a script without spaces
characters  all of them
tokens      words and symbols as `data_prep.segment` cuts them, of scripts without spaces as just said;  sentences: likewise
marks       any of END, STOP, JAVASCRIPT, POLICY, LOREM_IPSUM, CURLY_BRACKET, REPEATED, as bits
foreign     the score of the language of its paragraph, if that is not the document's, else 0; NaN where it was not asked

Raffel et al., "Exploring the Limits of Transfer Learning", 2020, section 2.2; Penedo et al., "The FineWeb Datasets", 2024.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_prep.quality.gopher import ratio, repeats, word_characters
from data_prep.segment import FOREIGN_STOPS, Segments, firsts, totals

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from data_prep.quality.verdicts import LineRules

    Integers = NDArray[numpy.int64]
    Numbers = NDArray[numpy.float64]

END, STOP, JAVASCRIPT, POLICY, LOREM_IPSUM, CURLY_BRACKET, REPEATED = (1 << bit for bit in range(7))

ENDS = ".?!\"'"  # C4's terminal punctuation; a line that ends in `...` has none
STOPS = ".!?…\"'”’»」』" + FOREIGN_STOPS  # the end of a sentence, or of speech

PHRASES = (
    ("javascript", JAVASCRIPT),
    ("lorem ipsum", LOREM_IPSUM),
    ("terms of use", POLICY),
    ("privacy policy", POLICY),
    ("cookie policy", POLICY),
    ("uses cookies", POLICY),
    ("use of cookies", POLICY),
    ("use cookies", POLICY),
)
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of several texts [lines]; `texts`: the first line of each, and behind the last their number [texts + 1]."""

    texts: Integers
    words: Integers
    longest: Integers
    characters: Integers
    tokens: Integers
    sentences: Integers
    marks: Integers
    foreign: NDArray[numpy.float32]

    def __len__(self) -> int:
        return len(self.words)


COLUMNS = ("words", "longest", "characters", "tokens", "sentences", "marks")
SCORES = (
    "c4_sentences",
    "c4_lorem_ipsum_lines",
    "c4_curly_bracket_lines",
    "fineweb_punctuated_lines",
    "fineweb_short_lines",
    "fineweb_duplicate_line_characters",
    "fineweb_newlines_per_word",
)


def judge(lines: Lines, rules: Sequence[LineRules]) -> tuple[NDArray[numpy.bool_], dict[str, Numbers]]:
    """(which lines stay [lines], the scores of what stays, by name, in the order of `SCORES` [texts]); `rules`: those of each text.

    Lines are asked in C4's order, so a line that is cut for its words or its end says nothing more, and one that is cut for saying
    javascript still counts where it has a curly bracket no more, but lorem ipsum counts. Without cutting, all lines stay and count.

    c4_sentences                        in the lines that stay
    c4_lorem_ipsum_lines                lines with `lorem ipsum`;  c4_curly_bracket_lines: with `{`
    fineweb_punctuated_lines            share of the lines that stay which end in a punctuation mark
    fineweb_short_lines                 share of them with at most `short_characters`
    fineweb_duplicate_line_characters   their characters in lines that repeat an earlier one ÷ all their characters
    fineweb_newlines_per_word           newlines between them ÷ their words and symbols
    """
    import numpy

    number = numpy.diff(lines.texts)

    def of_line(name: str) -> NDArray[Any]:
        return numpy.repeat([getattr(rule, name) for rule in rules], number)

    def has(mark: int) -> NDArray[numpy.bool_]:
        having: NDArray[numpy.bool_] = lines.marks & mark != 0
        return having

    cut = of_line("cut")
    stays = (lines.longest <= of_line("max_word_characters")) & (lines.words >= of_line("min_words"))
    stays = ~cut | (stays & (has(END) | ~of_line("unfinished")))
    lorem_ipsum = stays & has(LOREM_IPSUM)
    stays &= ~(cut & of_line("javascript") & has(JAVASCRIPT))
    curly_bracket = stays & has(CURLY_BRACKET)
    stays &= ~(cut & of_line("policies") & has(POLICY))
    stays &= ~(cut & (lines.foreign > of_line("max_foreign")))

    def total(values: NDArray[Any]) -> Integers:
        return totals(numpy.where(stays, values, 0), lines.texts)

    left = total(numpy.ones(len(lines), numpy.int64))
    characters = total(lines.characters)
    scores = (
        total(lines.sentences).astype(numpy.float64),
        totals(lorem_ipsum, lines.texts).astype(numpy.float64),
        totals(curly_bracket, lines.texts).astype(numpy.float64),
        ratio(total(has(STOP)), left),
        ratio(total(lines.characters <= of_line("short_characters")), left),
        ratio(total(numpy.where(has(REPEATED), lines.characters, 0)), characters),
        ratio(numpy.maximum(left - 1, 0), total(lines.tokens)),
    )
    return stays, dict(zip(SCORES, scores, strict=True))


def cut(text: str, stays: Sequence[bool]) -> str:
    """The text with only the lines that stay, without citation marks, and at most one blank line in a row."""
    kept: list[str] = []
    number = 0
    for line in without_citations(text).split("\n"):
        if not line.strip():
            if kept and kept[-1]:
                kept.append("")
            continue
        if stays[number]:
            kept.append(line.rstrip())
        number += 1
    return "\n".join(kept).strip()


def without_citations(text: str) -> str:
    """The text without C4's citation marks. Lines may become blank; none is added or joined."""
    return _CITATION.sub("", text) if "[" in text else text


def measure(segments: Segments, languages: Sequence[str]) -> Lines:
    """The lines of texts without citation marks, in these languages [texts]."""
    import numpy

    starts, ends = segments.spans(segments.lines)
    runs = longest_run = _runs(segments, numpy.zeros(len(segments.starts), numpy.bool_))
    words, tokens = numpy.diff(firsts(runs, segments.lines)), numpy.diff(segments.lines)
    if segments.unspaced.any():
        unspaced = totals(segments.unspaced, segments.lines)
        grouped = unspaced // word_characters(languages)[segments.text_of(segments.lines)]
        words, tokens = numpy.maximum(words, grouped), tokens - unspaced + grouped
        longest_run = _runs(segments, segments.unspaced)
    run_starts, run_ends = segments.spans(longest_run)
    sizes = numpy.where(segments.unspaced[longest_run[:-1]], 0, run_ends - run_starts)
    marks = numpy.where(repeats(segments, segments.lines), REPEATED, 0)
    last = segments.points[ends - 1]
    marks |= numpy.where(_among(last, ENDS) & ~_ellipses(segments, starts, ends), END, 0)
    marks |= numpy.where(_among(last, STOPS), STOP, 0)
    marks[_lines_of(starts, numpy.flatnonzero(segments.points == ord("{")))] |= CURLY_BRACKET
    lowered = segments.text.replace("İ", "i").lower()  # the only letter that is longer when small
    for phrase, mark in PHRASES:
        marks[_lines_of(starts, numpy.fromiter(_lines_with(lowered, phrase), numpy.int64))] |= mark
    return Lines(
        firsts(segments.lines, segments.texts),
        words,
        numpy.maximum.reduceat(sizes, firsts(longest_run, segments.lines)[:-1]) if len(starts) else words,
        ends - starts,
        tokens,
        numpy.diff(firsts(segments.sentences, segments.lines)),
        marks,
        numpy.full(len(starts), numpy.nan, numpy.float32),
    )


def replaced(lines: Lines, numbers: Sequence[int], others: Lines) -> Lines:
    """The lines with those of the texts of these numbers, ascending, taken from `others`, in order."""
    import numpy

    parts = [numpy.arange(start, end) for start, end in zip(lines.texts[:-1].tolist(), lines.texts[1:].tolist(), strict=True)]
    for number, start, end in zip(numbers, others.texts[:-1].tolist(), others.texts[1:].tolist(), strict=True):
        parts[number] = numpy.arange(start, end) + len(lines)
    order = numpy.concatenate(parts)
    columns = {name: numpy.concatenate((getattr(lines, name), getattr(others, name)))[order] for name in (*COLUMNS, "foreign")}
    return Lines(numpy.cumsum([0, *map(len, parts)]), **columns)


def _runs(segments: Segments, alone: NDArray[numpy.bool_]) -> Integers:
    """The first words of the runs of words without white space between them, those of `alone` each by itself, and the number of words."""
    import numpy

    joined = (segments.starts[1:] == segments.ends[:-1]) & ~alone[1:] & ~alone[:-1]
    return numpy.append(numpy.flatnonzero(numpy.concatenate((numpy.ones(min(len(alone), 1), numpy.bool_), ~joined))), len(alone))


def _among(points: NDArray[numpy.uint32], characters: str) -> NDArray[numpy.bool_]:
    import numpy

    return numpy.isin(points, [ord(character) for character in characters])


def _ellipses(segments: Segments, starts: Integers, ends: Integers) -> NDArray[numpy.bool_]:
    """Whether `...` stands at the ends of these spans."""
    import numpy

    found = ends - starts >= 3
    for back in (1, 2, 3):
        found &= segments.points[numpy.maximum(ends - back, 0)] == ord(".")
    return found


def _lines_of(starts: Integers, places: Integers) -> Integers:
    import numpy

    return numpy.searchsorted(starts, places, "right") - 1


def _lines_with(text: str, phrase: str) -> Iterator[int]:
    """A place of the phrase in each line that has it."""
    at = text.find(phrase)
    while at >= 0:
        yield at
        at = text.find(phrase, text.find("\n", at))
