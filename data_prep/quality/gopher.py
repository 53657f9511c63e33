"""The measures of Gopher's repetition and quality rules (Rae et al., "Scaling Language Models", 2021, appendix A.1.1).

Code bases measure them differently; these definitions follow the ones FineWeb's thresholds were set for (datatrove's), on the
words, lines and paragraphs of `data_prep.segment` instead of spaCy's. "Words" are words and symbols, but for the number of words
and their mean length, which leave symbols out. In languages without spaces, whose words are single characters there, two (Chinese,
Japanese) or three (Thai, Lao, Khmer, Burmese) such characters count as a word in the numbers of words and in N-grams (a 5-gram
has 10 or 15). Characters of a document are all of them, white space too. A fraction of nothing is 0.

duplicate_lines, duplicate_paragraphs                        share of lines equal to an earlier line
duplicate_line_characters, duplicate_paragraph_characters    their characters ÷ the document's
top_N_gram              most frequent N-gram (if it occurs twice; the longest of equals): occurrences × its characters, single spaces
                        between its words included where the language has them, ÷ the document's. Occurrences may overlap, so more
                        than 1 is possible
duplicate_N_grams       characters of repeated N-grams, without spaces, ÷ the document's. The document is scanned from the left: at an
                        N-gram the scan has met before, its characters are counted and the scan goes on behind it, else at the next word
words                   number of words that are no symbols
mean_word_length        characters a word
hashes_per_word         `#` ÷ words;  ellipses_per_word: `...` and `…` ÷ words
bullet_lines            share of lines that begin with `•` or `-`;  ellipsis_lines: that end in `...` or `…`
alphabetic_words        share of words with at least one letter
stop_words              how many of the language's stop words occur, in small letters, with a capital, or in capitals; of a language
                        without spaces: anywhere in the text. NaN for a language without a list in `data_prep.function_words`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from data_prep.function_words import Found, stop_words
from data_prep.hashing import mixed
from data_prep.quality.languages import WORD_CHARACTERS
from data_prep.segment import Segments, firsts, totals

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Numbers = NDArray[numpy.float64]
    Integers = NDArray[numpy.int64]

TOP_N = (2, 3, 4)
DUPLICATE_N = (5, 6, 7, 8, 9, 10)

SCORES = (
    "gopher_duplicate_lines",
    "gopher_duplicate_line_characters",
    "gopher_duplicate_paragraphs",
    "gopher_duplicate_paragraph_characters",
    *(f"gopher_top_{n}_gram" for n in TOP_N),
    *(f"gopher_duplicate_{n}_grams" for n in DUPLICATE_N),
    "gopher_words",
    "gopher_mean_word_length",
    "gopher_hashes_per_word",
    "gopher_ellipses_per_word",
    "gopher_bullet_lines",
    "gopher_ellipsis_lines",
    "gopher_alphabetic_words",
    "gopher_stop_words",
)


def measure(segments: Segments, found: Found, languages: Sequence[str]) -> dict[str, Numbers]:
    """All measures by name, in the order of `SCORES`, of every text [texts].

    found      the texts' function words
    languages  their codes, as `data_prep.language` gives them
    """
    return repetition(segments, languages) | quality(segments, found, languages)


def repetition(segments: Segments, languages: Sequence[str]) -> dict[str, Numbers]:
    """The measures of repeated lines, paragraphs and N-grams [texts]."""
    scores = {}
    for name, units in (("line", segments.lines), ("paragraph", segments.paragraphs)):
        bounds = firsts(units, segments.texts)
        starts, ends = segments.spans(units)
        again = repeats(segments, units)
        scores[f"gopher_duplicate_{name}s"] = ratio(totals(again, bounds), bounds[1:] - bounds[:-1])
        scores[f"gopher_duplicate_{name}_characters"] = ratio(totals((ends - starts) * again, bounds), segments.sizes)
    top, duplicate = _ngram_characters(segments, word_characters(languages))
    scores |= {f"gopher_top_{n}_gram": ratio(top[n], segments.sizes) for n in TOP_N}
    scores |= {f"gopher_duplicate_{n}_grams": ratio(duplicate[n], segments.sizes) for n in DUPLICATE_N}
    return scores


def quality(segments: Segments, found: Found, languages: Sequence[str]) -> dict[str, Numbers]:
    """The measures of words, symbols and lines [texts]."""
    import numpy

    starts, ends, texts = segments.starts, segments.ends, segments.texts
    begin = segments.points[starts]
    lines, words = firsts(segments.lines, texts), texts[1:] - texts[:-1]
    real = totals(~segments.symbols, texts)
    number = real / word_characters(languages)
    dots = numpy.where(begin == ord("."), (ends - starts) // 3, begin == ord("…"))
    hashes = numpy.where(begin == ord("#"), ends - starts, 0)
    first, last_word = begin[segments.lines[:-1]], segments.lines[1:] - 1
    bullets = (first == ord("•")) | (first == ord("-"))
    return {
        "gopher_words": number,
        "gopher_mean_word_length": ratio(totals(numpy.where(segments.symbols, 0, ends - starts), texts), number),
        "gopher_hashes_per_word": ratio(totals(hashes, texts), words),
        "gopher_ellipses_per_word": ratio(totals(dots, texts), words),
        "gopher_bullet_lines": ratio(totals(bullets, lines), lines[1:] - lines[:-1]),
        "gopher_ellipsis_lines": ratio(totals(dots[last_word] > 0, lines), lines[1:] - lines[:-1]),
        "gopher_alphabetic_words": ratio(totals(segments.letters, texts), words),
        "gopher_stop_words": stop_words(segments, found, languages),
    }


def word_characters(languages: Sequence[str]) -> Integers:
    """How many of the words of `data_prep.segment` make a word in each language [languages]."""
    import numpy

    return numpy.array([WORD_CHARACTERS.get(language, 1) for language in languages], numpy.int64)


def ratio(part: Any, whole: Any) -> Numbers:
    """part ÷ whole, 0 where whole is 0."""
    import numpy

    shares: Numbers = numpy.divide(part, whole, out=numpy.zeros(len(part)), where=whole != 0)
    return shares


def repeats(segments: Segments, units: Integers) -> NDArray[numpy.bool_]:
    """Whether each unit's characters are those of an earlier one of the same text [units]."""
    import numpy

    again = numpy.ones(len(units) - 1, numpy.bool_)
    again[numpy.unique(_within_texts(segments.hashes_of(units), segments.text_of(units)), return_index=True)[1]] = False
    return again


def _within_texts(hashes: NDArray[numpy.uint64], texts: Integers) -> NDArray[numpy.uint64]:
    """The hashes, made different in different texts."""
    import numpy

    return hashes ^ mixed(texts.astype(numpy.uint64))


def _ngram_characters(segments: Segments, group: Integers) -> tuple[dict[int, Integers], dict[int, Integers]]:
    """(characters of the most frequent N-gram, by N [texts]; characters in repeated N-grams, by N [texts]); a word is `group` of the
    words of `segments` [texts].

    An N-gram can only occur twice where both (N-1)-grams in it do, so each length looks at the few positions the last one left.
    """
    import numpy

    number = len(segments.sizes)
    top = {n: numpy.zeros(number, numpy.int64) for n in TOP_N}
    duplicate = {n: numpy.zeros(number, numpy.int64) for n in DUPLICATE_N}
    text = numpy.repeat(numpy.arange(number), segments.texts[1:] - segments.texts[:-1])
    behind = numpy.concatenate((numpy.zeros(1, numpy.int64), numpy.cumsum(segments.ends - segments.starts)))  # characters before each word
    groups = numpy.unique(group).tolist()

    hashes = segments.hashes
    positions = numpy.flatnonzero(text[1:] == text[:-1])  # where an N-gram begins, ascending
    keys: NDArray[Any] = mixed(hashes[positions] + hashes[positions + 1] * numpy.uint64(0x2545F4914F6CDD1D))
    keys = _within_texts(keys, text[positions])
    for size in range(2, max(DUPLICATE_N) * max(groups, default=1) + 1):
        grams, counts = _numbered(keys)
        repeated = counts[grams] > 1
        positions, grams = positions[repeated], grams[repeated]
        if not len(positions):
            break
        for one in groups:
            n, rest = divmod(size, one)
            if rest or n not in (*TOP_N, *DUPLICATE_N):
                continue
            own = slice(None) if len(groups) == 1 else group[text[positions]] == one
            where, which = positions[own], grams[own]
            characters = behind[where + size] - behind[where]
            if n in TOP_N:
                # One number that grows with the count and, among equal counts, with the characters.
                most = numpy.zeros(number, numpy.int64)
                spaces = n - 1 if one == 1 else 0
                numpy.maximum.at(most, text[where], (counts[which] << 32) + characters + spaces)
                top[n] += (most >> 32) * (most & 0xFFFFFFFF)
            else:
                counted = _scan(where.tolist(), which.tolist(), size)
                duplicate[n] += numpy.bincount(text[where[counted]], characters[counted], number).astype(numpy.int64)
        # Both N-grams of an (N+1)-gram are among the candidates if the next candidate is the next position.
        both = numpy.flatnonzero(positions[1:] == positions[:-1] + 1)
        positions, keys = positions[both], grams[both] * len(counts) + grams[both + 1]
    return top, duplicate


def _numbered(keys: NDArray[Any]) -> tuple[Integers, Integers]:
    """(a number for each key, equal for equal keys [keys]; how often each number occurs)."""
    import numpy

    order = numpy.argsort(keys)
    ascending = keys[order]
    numbers = numpy.empty(len(keys), numpy.int64)
    numbers[order] = numpy.cumsum(ascending != numpy.concatenate((ascending[:1], ascending[:-1])))
    return numbers, numpy.bincount(numbers)


def _scan(positions: list[int], grams: list[int], size: int) -> list[int]:
    """Which of the N-grams are met again in a scan from the left that leaps over those it counts, as indices of the two lists."""
    met: set[int] = set()
    counted = []
    free = 0
    for index, position in enumerate(positions):
        if position >= free:
            gram = grams[index]
            if gram in met:
                counted.append(index)
                free = position + size
            else:
                met.add(gram)
    return counted
