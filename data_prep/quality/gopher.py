"""The measures of Gopher's repetition and quality rules (Rae et al., "Scaling Language Models", 2021, appendix A.1.1).

Code bases measure them differently; these definitions follow the ones FineWeb's thresholds were set for (datatrove's), on the
words, lines and paragraphs of `data_prep.segment` instead of spaCy's. "Words" are words and symbols, but for the number of words
and their mean length, which leave symbols out. Characters of a document are all of them, white space too. A fraction of nothing is 0.

duplicate_lines, duplicate_paragraphs                        share of lines equal to an earlier line
duplicate_line_characters, duplicate_paragraph_characters    their characters ÷ the document's
top_N_gram              most frequent N-gram (if it occurs twice; the longest of equals): occurrences × its characters, single spaces
                        between its words included, ÷ the document's. Occurrences may overlap, so more than 1 is possible
duplicate_N_grams       characters of repeated N-grams, without spaces, ÷ the document's. The document is scanned from the left: at an
                        N-gram the scan has met before, its characters are counted and the scan goes on behind it, else at the next word
words                   number of words that are no symbols
mean_word_length        characters a word
hashes_per_word         `#` ÷ words;  ellipses_per_word: `...` and `…` ÷ words
bullet_lines            share of lines that begin with `•` or `-`;  ellipsis_lines: that end in `...` or `…`
alphabetic_words        share of words with at least one letter
stop_words              how many of the language's stop words occur, in any case; NaN for a language without a list here
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from data_prep.segment import Segments, is_symbol

TOP_N = (2, 3, 4)
DUPLICATE_N = (5, 6, 7, 8, 9, 10)
STOP_WORDS: Mapping[str, frozenset[str]] = {"en": frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))}

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


def score(segments: Segments, language: str) -> dict[str, float]:
    """All measures by name, in the order of `SCORES`. `language` (a code of `data_prep.language`) selects the stop words."""
    return repetition(segments) | quality(segments, language)


def repetition(segments: Segments) -> dict[str, float]:
    """The measures of repeated lines, paragraphs and N-grams."""
    characters = len(segments.text)
    scores = {}
    for name, parts in (("line", segments.lines), ("paragraph", segments.paragraphs)):
        distinct = set(parts)
        repeated = sum(map(len, parts)) - sum(map(len, distinct))
        scores[f"gopher_duplicate_{name}s"] = _ratio(len(parts) - len(distinct), len(parts))
        scores[f"gopher_duplicate_{name}_characters"] = _ratio(repeated, characters)
    top, duplicate = _ngram_characters(segments.words)
    scores |= {f"gopher_top_{n}_gram": _ratio(top[n], characters) for n in TOP_N}
    scores |= {f"gopher_duplicate_{n}_grams": _ratio(duplicate[n], characters) for n in DUPLICATE_N}
    return scores


def quality(segments: Segments, language: str) -> dict[str, float]:
    """The measures of words, symbols and lines."""
    text, lines, words = segments.text, segments.lines, segments.words
    symbols = {word for word in set(words) if is_symbol(word)}
    real = [word for word in words if word not in symbols]
    distinct = set(real)
    letterless = {word for word in distinct if not word.isalpha() and not any(map(str.isalpha, word))}
    alphabetic = sum(word not in letterless for word in real)
    stop_words = STOP_WORDS.get(language)
    return {
        "gopher_words": float(len(real)),
        "gopher_mean_word_length": _ratio(sum(map(len, real)), len(real)),
        "gopher_hashes_per_word": _ratio(text.count("#"), len(words)),
        "gopher_ellipses_per_word": _ratio(text.count("...") + text.count("…"), len(words)),
        "gopher_bullet_lines": _ratio(sum(line.startswith(("•", "-")) for line in lines), len(lines)),
        "gopher_ellipsis_lines": _ratio(sum(line.endswith(("...", "…")) for line in lines), len(lines)),
        "gopher_alphabetic_words": _ratio(alphabetic, len(words)),
        "gopher_stop_words": float(len(stop_words & set(map(str.casefold, distinct)))) if stop_words is not None else math.nan,
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _ngram_characters(words: list[str]) -> tuple[dict[int, int], dict[int, int]]:
    """(characters of the most frequent N-gram, by N; characters in repeated N-grams, by N).

    An N-gram can only occur twice where both (N-1)-grams in it do, so each length looks at the few positions the last one left.
    """
    import numpy

    top, duplicate = dict.fromkeys(TOP_N, 0), dict.fromkeys(DUPLICATE_N, 0)
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    ids = numpy.fromiter(map(vocabulary.__getitem__, words), numpy.int64, len(words))
    ends = numpy.cumsum(numpy.fromiter(map(len, words), numpy.int64, len(words)))
    starts = numpy.concatenate((numpy.zeros(1, numpy.int64), ends))  # characters before word i, and all of them at the end

    positions = numpy.arange(len(words))  # where the (N-1)-grams that occur at least twice begin, ascending
    grams = ids  # which (N-1)-gram begins there
    for n in range(2, max(DUPLICATE_N) + 1):
        # Both (N-1)-grams of the N-gram at a position are among the candidates if the next candidate is the next position.
        both = numpy.flatnonzero(positions[1:] == positions[:-1] + 1)
        positions = positions[both]
        keys = grams[both] * len(vocabulary) + ids[positions + n - 1]
        _, first, grams, counts = numpy.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        repeated = counts[grams] > 1
        if not repeated.any():
            break
        if n in top:
            begin = positions[first[counts == counts.max()]]
            top[n] = int(counts.max() * ((starts[begin + n] - starts[begin]).max() + n - 1))
        positions, grams = positions[repeated], grams[repeated]
        if n in duplicate:
            duplicate[n] = _scan(positions.tolist(), grams.tolist(), (starts[positions + n] - starts[positions]).tolist(), n)
    return top, duplicate


def _scan(positions: list[int], grams: list[int], characters: list[int], n: int) -> int:
    """Characters of the N-grams met before, in one scan from the left that leaps over those it counts."""
    met: set[int] = set()
    counted = free = 0
    for position, gram, length in zip(positions, grams, characters, strict=True):
        if position < free:
            continue
        if gram in met:
            counted += length
            free = position + n
        else:
            met.add(gram)
    return counted
