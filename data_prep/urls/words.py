"""Word rules over the letters of a URL, defined as FineWeb's URL filter defines them (Penedo et al. 2023, app. G.1; 2024).

A URL's words are its longest runs of ASCII letters and digits, in small letters, percent-encoding left as it stands.

    strict  in the URL with everything else taken out (`h-o_t.words` is `hotwords`), anywhere
    hard    one of its words
    soft    so many different ones of its words as the setting says, two by default
"""

from __future__ import annotations

import re

import numpy
from numpy.typing import NDArray

from data_prep.urls.blocklist import Words

SMALL = bytes(letter + 32 if 65 <= letter <= 90 else letter for letter in range(256))

_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789"
_OTHERS = bytes(letter for letter in range(256) if letter not in _LETTERS)
_WORD = re.compile(rb"[a-z0-9]+")


class WordRules:
    """Judges the words of URLs. `soft_words` different soft words are one too many."""

    def __init__(self, words: Words, soft_words: int = 2) -> None:
        self._strict = re.compile(b"|".join(word.encode() for word in words.strict)) if words.strict else None
        self._hard = frozenset(word.encode() for word in words.hard)
        self._soft = frozenset(word.encode() for word in words.soft)
        self._soft_words = soft_words
        whole = "|".join((*words.hard, *words.soft))
        patterns = ["[^a-z0-9]*".join(word) for word in words.strict]
        patterns += [f"(?:^|[^a-z0-9])(?:{whole})(?:[^a-z0-9]|$)"] if whole else []
        self._suspicious = "|".join(patterns)

    def judge(self, url: str) -> tuple[str, str] | None:
        """The reason to reject this URL and the words that are it; None if there is none."""
        text = url.encode("utf-8", "replace").translate(SMALL)
        if self._strict and (match := self._strict.search(text.translate(None, _OTHERS))):
            return "blocked_strict_word", match[0].decode()
        words = _WORD.findall(text)
        if not self._hard.isdisjoint(words):
            return "blocked_hard_word", next(word for word in words if word in self._hard).decode()
        soft = self._soft.intersection(words)
        if len(soft) >= self._soft_words:
            return "blocked_soft_words", b" ".join(sorted(soft)).decode()
        return None

    def suspicious(self, lines: bytes, ends: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        """Which URLs, one a line in UTF-8 and small letters, may break a rule: all that do, and those with a single soft word."""
        import pyarrow
        import pyarrow.compute

        if not self._suspicious:
            return ends[:0]
        offsets = numpy.zeros(len(ends) + 1, numpy.int32)
        offsets[1:] = ends + 1
        strings = pyarrow.StringArray.from_buffers(len(ends), pyarrow.py_buffer(offsets), pyarrow.py_buffer(lines))
        matches = pyarrow.compute.match_substring_regex(strings, self._suspicious)
        return numpy.flatnonzero(matches.to_numpy(zero_copy_only=False))
