"""Texts cut once into words, sentences, lines and paragraphs, which all rules about them then share.

The definitions, called `unicode` in the params of `score` (thresholds depend on them):

paragraph   what stands between blank lines (lines of white space only), stripped
line        what stands between newlines, stripped, unless that leaves nothing
sentence    within a line, up to and with a run of `. ! ? …` plus closing quotes and brackets that is followed by white space,
            or a run of the full stops of other scripts (`。！？｡।॥؟۔` …) plus the same whatever follows. Abbreviations are not
            known: "Mr. X" is cut.
word        a letter, digit or underscore with all letters, digits, marks and underscores that follow it, also across an apostrophe, a
            full stop, or a comma or colon between digits: "don't", "example.com", "1,000.50" and "12:30" are one word, "well-known"
            is three. Or a symbol: a run of one of `. - = * #`, or any other single character but white space. Scripts written
            without spaces have one word a character and its marks (Han, kana, Thai, Lao, Burmese, Khmer): a rough substitute for
            a dictionary. Words without letter and digit (symbols, runs of underscores) are symbols.

spaCy's English words, for which FineWeb's thresholds were set, differ mainly in contractions, which it cuts in two.

Whether a word begins at a character depends on its neighbours alone, so numpy finds all words of several texts at once in an array of
their code points, five times faster than a regular expression finds them one by one. Words, lines and paragraphs are compared by
64-bit hashes of their characters. Linear in the length of the texts; about 40 bytes of memory a character.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from data_prep.hashing import mixed

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Integers = NDArray[numpy.int64]
    Hashes = NDArray[numpy.uint64]
    Flags = NDArray[numpy.bool_]

BATCH_CHARACTERS = 150_000  # of texts cut together: fewer and each call's overhead counts, more and the arrays leave the core's cache

# What a character is, as bits of the table of `_classes`.
SPACE, WORD, UNSPACED, MARK, LETTER, DIGIT, ALPHANUMERIC, STOP, FOREIGN_STOP, CLOSING, RUN, JOINING, JOINING_DIGITS = (
    1 << bit for bit in range(13)
)

# Thai, Lao, Burmese, Khmer, kana, Han with its extensions.
UNSPACED_SCRIPTS = (
    "\u0e00-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e80-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u1000-\u102a\u1780-\u17b3"
    "\u3005-\u3007\u3041-\u3096\u309d-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
)
_BEHIND = 0x323B0  # no letter, mark or space has a code point from here on
_JOINERS = "\u200c\u200d"  # stand inside words of Persian and Indic scripts
_STOPS = ".!?…"
FOREIGN_STOPS = "。！？｡．।॥؟۔։።፧၊။។៕᠃᠉܀܁܂꓿‼‽⁇⁈⁉"
CLOSINGS = "\"'”’»)]」』）】》〉›"
_RUNS = ".-=*#"
_INSIDE, _INSIDE_NUMBERS = "'’.", ",:"

_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_BLOCK = 1 << 17

Text = TypeVar("Text")


@dataclass(frozen=True, slots=True)
class Segments:
    """Several texts, cut. All counts are of characters (code points).

    text        the texts joined, a blank line behind each
    sizes       characters of each text [texts]
    starts      first character of each word and symbol, in `text` [words]
    ends        one behind its last character [words]
    texts, paragraphs, lines, sentences
                the first word of each, and behind the last the number of words [number + 1]: every word belongs to one of each kind.
                A text may have no words, the others have at least one
    symbols     whether a word has neither letter nor digit [words]
    letters     whether it has a letter [words]
    unspaced    whether it is one character of a script without spaces [words]
    hashes      a hash of its characters: equal words have equal ones, whatever texts they stand in [words]
    points      code points of `text` [characters]
    prefixes    hashes of all its beginnings [characters + 1]
    """

    text: str
    sizes: Integers
    starts: Integers
    ends: Integers
    texts: Integers
    paragraphs: Integers
    lines: Integers
    sentences: Integers
    symbols: Flags
    letters: Flags
    unspaced: Flags
    hashes: Hashes
    points: NDArray[numpy.uint32]
    prefixes: Hashes

    def hashes_of(self, units: Integers) -> Hashes:
        """A hash of each unit's characters from the first to the last [units]; `units`: one of the four kinds."""
        return _span_hashes(self.prefixes, *self.spans(units))

    def spans(self, units: Integers) -> tuple[Integers, Integers]:
        """First character and one behind the last of each unit [units]."""
        return self.starts[units[:-1]], self.ends[units[1:] - 1]

    def strings(self, units: Integers) -> list[str]:
        """The units as strings."""
        starts, ends = self.spans(units)
        return [self.text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def text_of(self, units: Integers) -> Integers:
        """The number of the text to which each unit belongs [units]."""
        import numpy

        return numpy.repeat(numpy.arange(len(self.sizes)), numpy.diff(firsts(units, self.texts)))


def firsts(units: Integers, outer: Integers) -> Integers:
    """The first unit of each outer unit, and behind the last their number: units of `outer`, counted in `units` [outer units + 1]."""
    import numpy

    return numpy.searchsorted(units[:-1], outer)


def totals(values: NDArray[Any], bounds: Integers) -> Integers:
    """The sum of values[bounds[i]:bounds[i + 1]] for each i."""
    import numpy

    sums = numpy.zeros(len(values) + 1, numpy.int64)
    numpy.cumsum(values, out=sums[1:])
    return sums[bounds[1:]] - sums[bounds[:-1]]


def segment(texts: Sequence[str]) -> Segments:
    """Cut texts by the definitions above. What becomes of one does not depend on the others."""
    import numpy

    joined = "".join([part for text in texts for part in (text, "\n\n")])
    points = numpy.frombuffer(joined.encode("utf-32-le" if sys.byteorder == "little" else "utf-32-be", "surrogatepass"), numpy.uint32)
    classes = _classes()[points]
    starts, ends = _words(points, classes)
    sizes = numpy.fromiter(map(len, texts), numpy.int64, len(texts))
    text_starts = numpy.concatenate((numpy.zeros(1, numpy.int64), numpy.cumsum(sizes + 2)))

    # A raw line begins behind each newline; those that hold no word are blank.
    raw = numpy.append(numpy.searchsorted(starts, numpy.flatnonzero(points == 10)), len(starts))
    raw = numpy.concatenate((numpy.zeros(1, numpy.int64), raw))
    filled = numpy.flatnonzero(raw[1:] > raw[:-1])
    lines = numpy.append(raw[filled], len(starts))
    begins = numpy.flatnonzero(numpy.diff(filled, prepend=-2) > 1)  # lines behind a blank one
    paragraphs = numpy.append(lines[begins], len(starts))
    sentences = _sentences(classes, starts, ends, lines)

    made_of = _made_of(classes, starts, ends)
    prefixes = _prefix_hashes(points)
    return Segments(
        text=joined,
        sizes=sizes,
        starts=starts,
        ends=ends,
        texts=numpy.searchsorted(starts, text_starts),
        paragraphs=paragraphs,
        lines=lines,
        sentences=sentences,
        symbols=made_of & ALPHANUMERIC == 0,
        letters=made_of & LETTER != 0,
        unspaced=made_of & UNSPACED != 0,
        hashes=_span_hashes(prefixes, starts, ends),
        points=points,
        prefixes=prefixes,
    )


def split_words(text: str) -> list[str]:
    """Words and symbols of a text in order. Only white space is left out."""
    cut = segment([text])
    return [text[start:end] for start, end in zip(cut.starts.tolist(), cut.ends.tolist(), strict=True)]


def batches(items: Iterable[Text], text_of: Any = str, characters: int = BATCH_CHARACTERS) -> Iterator[list[Text]]:
    """The items in order, in lists whose texts (`text_of(item)`) have so many characters together, or less by the last one."""
    batch: list[Text] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(text_of(item)) + 2
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _words(points: NDArray[numpy.uint32], classes: NDArray[numpy.uint16]) -> tuple[Integers, Integers]:
    """(first characters, ends) of all words and symbols."""
    import numpy

    visible = classes & SPACE == 0
    inside = classes & WORD != 0  # characters of words in scripts with spaces
    begins = visible.copy()
    if (classes & MARK).any():
        mark = classes & MARK != 0
        bearer = numpy.maximum.accumulate(numpy.where(mark, 0, numpy.arange(len(points))))  # the last character that is no mark
        bearers = numpy.where(mark, classes[bearer], 0)
        begins[bearers & (WORD | UNSPACED) != 0] = False
        inside |= bearers & WORD != 0
    begins[1:] &= ~(inside[1:] & inside[:-1])

    same = numpy.flatnonzero((points[1:] == points[:-1]) & begins[1:]) + 1
    begins[same[classes[same] & RUN != 0]] = False

    place = numpy.flatnonzero((classes[1:-1] & (JOINING | JOINING_DIGITS) != 0) & inside[:-2]) + 1
    before, here, behind = classes[place - 1], classes[place], classes[place + 1]
    place = place[(behind & WORD != 0) & ((here & JOINING != 0) | (before & behind & DIGIT != 0))]
    begins[place] = begins[place + 1] = False

    edges = begins.copy()  # where a word begins or has ended
    edges[1:] |= visible[:-1] & ~visible[1:]
    edge = numpy.flatnonzero(edges)
    first = begins[edge]
    return edge[first], numpy.append(edge[1:], len(points))[first]


def _made_of(classes: NDArray[numpy.uint16], starts: Integers, ends: Integers) -> NDArray[numpy.uint16]:
    """The classes of the characters of each word, joined; where the first one is a letter, only its own [words]."""
    import numpy

    joined = classes[starts]
    untold = numpy.flatnonzero((joined & LETTER == 0) & (ends - starts > 1))
    if len(untold):
        sizes = (ends - starts)[untold]
        behind = numpy.cumsum(sizes)
        places = numpy.arange(behind[-1]) + numpy.repeat(starts[untold] - behind + sizes, sizes)
        joined[untold] = numpy.bitwise_or.reduceat(classes[places], behind - sizes)
    return joined


def _sentences(classes: NDArray[numpy.uint16], starts: Integers, ends: Integers, lines: Integers) -> Integers:
    """The first words of all sentences, and behind the last the number of words."""
    import numpy

    begins = numpy.zeros(len(starts) + 1, numpy.bool_)
    begins[lines] = True
    closing = numpy.flatnonzero(classes & CLOSING != 0)
    run_begins = numpy.flatnonzero(numpy.diff(closing, prepend=-2) != 1)
    run_ends = numpy.append(closing[run_begins[1:] - 1], closing[-1:]) + 1  # of each run of closing characters
    for bit in (STOP, FOREIGN_STOP):
        stops = numpy.flatnonzero(classes & bit != 0)
        behind = stops[numpy.diff(stops, append=-1) != 1] + 1  # one behind each run
        if len(closing):
            run = numpy.searchsorted(closing[run_begins], behind, "right") - 1
            behind = numpy.where((run >= 0) & (run_ends[run] > behind), run_ends[run], behind)
        if bit == STOP:
            behind = behind[classes[behind] & SPACE != 0]  # a blank line stands at the very end
        begins[numpy.searchsorted(starts, behind)] = True
    return numpy.flatnonzero(begins)


@functools.cache
def _classes() -> NDArray[numpy.uint16]:
    """The class of every code point as bits [0x110000]; made in a twentieth of a second."""
    import numpy

    table = numpy.zeros(sys.maxunicode + 1, numpy.uint16)
    every = "".join(map(chr, range(_BEHIND)))
    for pattern, bit in (
        (r"\s+", SPACE),
        (rf"[^\W{UNSPACED_SCRIPTS}]+", WORD),
        (rf"[{UNSPACED_SCRIPTS}]+", UNSPACED),
        (r"\d+", DIGIT),
        (r"[^\W_]+", ALPHANUMERIC),
        (f"[{_STOPS}]", STOP),
        (f"[{FOREIGN_STOPS}]", FOREIGN_STOP),
        (f"[{re.escape(CLOSINGS)}]", CLOSING),
        (f"[{re.escape(_RUNS)}]", RUN),
        (f"[{re.escape(_INSIDE)}]", JOINING),
        (f"[{re.escape(_INSIDE_NUMBERS)}]", JOINING_DIGITS),
    ):
        for match in re.finditer(pattern, every):
            table[match.start() : match.end()] |= bit
    table[: len(every)][numpy.fromiter(map(str.isalpha, every), numpy.bool_, len(every))] |= LETTER
    # Marks beyond the Basic Multilingual Plane belong to dead and rare scripts.
    marks = [point for point in range(0x300, 0x10000) if unicodedata.category(chr(point))[0] == "M" or chr(point) in _JOINERS]
    table[marks] |= numpy.where(table[marks] & UNSPACED, 0, MARK).astype(numpy.uint16)
    return table


# A hash of characters c at places i is the sum of (c + 1) × base^i modulo 2^64, so the hash of a span is a difference of two prefixes,
# brought to place 0. Two strings must be over a thousand characters long, and made for it, to collide more often than by chance.


@functools.lru_cache(8)
def _powers(base: int, number: int) -> Hashes:
    import numpy

    return numpy.concatenate((numpy.ones(1, numpy.uint64), numpy.cumprod(numpy.full(number - 1, base, numpy.uint64))))


def _prefix_hashes(points: NDArray[numpy.uint32]) -> Hashes:
    """The hash of the first i characters, for each i [characters + 1]."""
    import numpy

    prefixes, one = numpy.zeros(len(points) + 1, numpy.uint64), numpy.uint64(1)
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        powers = _powers(_BASE, _BLOCK)[: len(block)]
        if start:
            powers = powers * numpy.uint64(pow(_BASE, start, 1 << 64))
        numpy.cumsum((block + one) * powers, out=prefixes[start + 1 : start + 1 + len(block)])
        prefixes[start + 1 : start + 1 + len(block)] += prefixes[start]
    return prefixes


def _span_hashes(prefixes: Hashes, starts: Integers, ends: Integers) -> Hashes:
    inverse = pow(_BASE, -1, 1 << 64)
    back = _powers(inverse, _BLOCK)[starts & (_BLOCK - 1)]
    if len(prefixes) > _BLOCK:
        back = back * _powers(pow(inverse, _BLOCK, 1 << 64), len(prefixes) // _BLOCK + 1)[starts // _BLOCK]
    return mixed((prefixes[ends] - prefixes[starts]) * back)
