"""Text cut once into paragraphs, lines, sentences and words, which all rules about a document then share.

The definitions, called `unicode` in the params of `score` (thresholds depend on them):

paragraph   what stands between blank lines (lines of white space only), stripped
line        what stands between newlines, stripped, unless that leaves nothing
sentence    within a line, up to and with a run of `. ! ? …` plus closing quotes and brackets that is followed by white space,
            or a run of the full stops of other scripts (`。！？｡।॥؟۔` …) whatever follows. Abbreviations are not known: "Mr. X" is cut.
word        a letter, digit or underscore with all letters, digits, marks and underscores that follow it, also across an apostrophe, a
            full stop, or a comma or colon between digits: "don't", "example.com", "1,000.50" and "12:30" are one word, "well-known"
            is three. Or a symbol: a run of one of `. - = * #`, or any other single character but white space. Scripts written
            without spaces have one word a character and its marks (Han, kana, Thai, Lao, Burmese, Khmer): a rough substitute for
            a dictionary. Words without letter and digit (symbols, runs of underscores) are the symbols of `is_symbol`.

spaCy's English words, for which FineWeb's thresholds were set, differ mainly in contractions, which it cuts in two.
Linear in the length of the text.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

_PARAGRAPH_BREAK = re.compile(r"\n[^\S\n]*\n\s*")
# Look-behind and possessive repeats keep long runs of dots linear.
_SENTENCE_END = re.compile("(?<![.!?…])[.!?…]++[\"'”’»)\\]]*+(?=\\s)|[。！？｡．।॥؟۔։።၊။]+[\"'”’»)\\]」』）]*")

# Thai, Lao, Burmese, Khmer, kana, Han with its extensions. Their marks are left to `_marks`.
UNSPACED = (
    "\u0e00-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e80-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u1000-\u102a\u1780-\u17b3"
    "\u3005-\u3007\u3041-\u3096\u309d-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
)
_JOINERS = "\u200c\u200d"  # stand inside words of Persian and Indic scripts


@dataclass(frozen=True, slots=True)
class Segments:
    """One document, cut. All lists are in reading order; `words` holds words and symbols."""

    text: str
    paragraphs: list[str]
    lines: list[str]
    sentences: list[str]
    words: list[str]


def segment(text: str) -> Segments:
    """Cut a text by the definitions above."""
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    paragraphs = [part for part in map(str.strip, _PARAGRAPH_BREAK.split(text)) if part]
    return Segments(text, paragraphs, lines, [sentence for line in lines for sentence in _sentences(line)], split_words(text))


def split_words(text: str) -> list[str]:
    """Words and symbols of a text in order. Only white space is left out."""
    # The simple pattern finds the same words where no mark and no unspaced script occurs, in less time.
    simple, special, general = _patterns()
    return general.findall(text) if not text.isascii() and special.search(text) else simple.findall(text)


def is_symbol(word: str) -> bool:
    """Whether a member of `Segments.words` has neither letter nor digit."""
    return not any(map(str.isalnum, word))


def _sentences(line: str) -> Iterator[str]:
    start = 0
    for match in _SENTENCE_END.finditer(line):
        yield line[start : match.end()].strip()
        start = match.end()
    if rest := line[start:].strip():
        yield rest


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """(words of most text, what makes the general pattern necessary, words of any text)."""
    marks = _marks() + _JOINERS
    letter = rf"[^\W{UNSPACED}]"
    word = rf"{letter}(?:{letter}++|[{marks}]++)*+"
    inside, symbol = r"(?:['’.]|(?<=\d)[,:](?=\d))", r"\.+|-+|=+|\*+|#+|[^\w\s]"
    simple = rf"\w+(?:{inside}\w+)*|{symbol}"
    general = rf"{word}(?:{inside}{word})*|[{UNSPACED}][{marks}]*|{symbol}"
    return re.compile(simple), re.compile(rf"[{UNSPACED}{marks}]"), re.compile(general)


def _marks() -> str:
    """The combining marks of the Basic Multilingual Plane (no part of `\\w`) as ranges of a character class.

    Marks beyond it belong to dead and rare scripts, and make every pattern that holds them several times slower.
    """
    ranges: list[list[int]] = []
    for point in range(0x300, 0x10000):
        if unicodedata.category(chr(point))[0] == "M":
            if ranges and ranges[-1][1] == point - 1:
                ranges[-1][1] = point
            else:
                ranges.append([point, point])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
