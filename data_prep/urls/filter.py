"""Which URLs are not wanted: hosts and URL prefixes on block lists, and words."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy
from numpy.typing import NDArray

from data_prep.urls import hashing
from data_prep.urls.address import canonical_host, split
from data_prep.urls.blocklist import ALLOWED, BELOW, CATEGORY, HAS_PREFIXES, Blocklist, prefixes
from data_prep.urls.compiling import compile_lists
from data_prep.urls.lists import OWN_LISTS, without_www
from data_prep.urls.words import SMALL, WordRules

BATCH = 4_096  # URLs looked up at once: what they need stays in a core's cache

_NEWLINE, _SLASH, _DOT = b"\n/."
_PADDING = b"\n" * 9
_HOST_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
_ODD = numpy.array([letter not in _HOST_LETTERS for letter in range(256)])
_AS_WORD = "<u8"
_HTTPS = numpy.frombuffer(b"https://", _AS_WORD)[0]
_HTTP = numpy.frombuffer(b"http://\0", _AS_WORD)[0]
_SEVEN = numpy.frombuffer(b"\xff\xff\xff\xff\xff\xff\xff\0", _AS_WORD)[0]
_TO_SMALL = numpy.frombuffer(b"\x20\x20\x20\x20\0\0\0\0", _AS_WORD)[0]


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a URL is rejected: `blocked_<category>`, `blocked_strict_word`, `blocked_hard_word` or `blocked_soft_words`, and what stands in
    the lists: the host, the URL's start, or the words."""

    reason: str
    entry: str


class UrlFilter:
    """Judges URLs by compiled lists; without any, by the short ones that come with this package.

    The most specific entry decides: a URL prefix before a host, a longer one before a shorter one, the list of exceptions first where
    both are the same. A host on a list stands for its sub-domains: `example.com` for `www.example.com`, never for `anexample.com`; a
    public suffix (`co.uk`, `github.io`) only where the list says so with a leading dot. What an exception lets through is not
    judged by its words.
    """

    def __init__(self, blocklist: Blocklist | None = None, soft_words: int = 2) -> None:
        self._list = blocklist if blocklist is not None else _own()
        self._words = WordRules(self._list.words, soft_words)
        self._reasons = ["", *(f"blocked_{category}" for category in self._list.categories)]

    @classmethod
    def load(cls, path: str | os.PathLike[str], soft_words: int = 2) -> Self:
        """The filter of a compiled file, which is mapped into memory."""
        return cls(Blocklist.load(path), soft_words)

    def check(self, url: str) -> str | None:
        """The reason to reject this URL; None for a wanted one and for one without a host."""
        blocked = self.judge(url)
        return blocked.reason if blocked else None

    def judge(self, url: str) -> Blocked | None:
        """As `check`, with what of the URL is listed."""
        parts = split(url)
        host = canonical_host(parts[2]) if parts else ""
        if parts is None or not host:
            return None
        value, entry = self._listed(host, parts[4] + parts[5])
        if value & ALLOWED:
            return None
        if value & CATEGORY:
            return Blocked(self._reasons[value & CATEGORY], entry)
        words = self._words.judge(url)
        return Blocked(*words) if words else None

    def _listed(self, host: str, rest: str) -> tuple[int, str]:
        """What is known of the most specific entry that covers the URL, and that entry; 0 if none does."""
        if not hashing.is_hashable(host):
            return 0, ""
        decision = 0, ""
        flags = 0
        for level, key in enumerate(hashing.name_hashes(host)):
            if value := self._list.value(key):
                flags |= value
                if not decision[0] and value & (ALLOWED | CATEGORY) and (value & BELOW or not level):
                    decision = value, host.split(".", level)[level]
        if flags & HAS_PREFIXES:
            for prefix in prefixes(without_www(host), rest):
                if value := self._list.value(hashing.text_hash(prefix)):
                    return value, prefix
        return decision

    def check_batch(self, urls: Sequence[str]) -> list[str | None]:
        """`check` of each URL, at a fraction of its time: nearly all hosts are looked up together, without a loop in Python."""
        reasons: list[str | None] = []
        for start in range(0, len(urls), BATCH):
            reasons += self._check_some(urls[start : start + BATCH])
        return reasons

    def _check_some(self, urls: Sequence[str]) -> list[str | None]:
        lines = "\n".join(urls)
        try:
            data = lines.encode()
        except UnicodeEncodeError:
            return [self.check(url) for url in urls]
        if lines.count("\n") >= len(urls):  # a URL with a newline in it
            return [self.check(url) for url in urls]
        data += _PADDING
        letters = numpy.frombuffer(data, numpy.uint8)
        ends = numpy.flatnonzero(letters == _NEWLINE)[: len(urls)]
        reasons: list[str | None] = [None] * len(urls)
        names, odd = _hosts(data, letters, ends)
        rows, values = self._first_listed(names)
        plain = ((values & (HAS_PREFIXES | ALLOWED | BELOW)) == BELOW) & ~odd[rows]
        for row, value in zip(rows[plain].tolist(), (values[plain] & CATEGORY).tolist(), strict=True):
            reasons[row] = self._reasons[value]
        suspicious = self._words.suspicious(data.translate(SMALL), ends)
        for row in {*numpy.flatnonzero(odd).tolist(), *rows[~plain].tolist(), *suspicious.tolist()}:
            if reasons[row] is None:
                reasons[row] = self.check(urls[row])
        return reasons

    def _first_listed(self, names: hashing.Names) -> tuple[NDArray[numpy.int64], NDArray[numpy.uint16]]:
        """Rows of names that are listed or below one that is, with the value of the most specific one, and all flags but `BELOW` of any."""
        whole, parents, rows = names.hashes()
        found, values = self._list.find(numpy.concatenate([whole, parents]))
        rows = numpy.concatenate([numpy.arange(len(whole)), rows])[found]
        order = numpy.argsort(rows, kind="stable")
        rows, values = rows[order], values[order]
        if not len(rows):
            return rows, values
        first = numpy.flatnonzero(numpy.concatenate([[True], rows[1:] != rows[:-1]]))
        special = numpy.bitwise_or.reduceat(values & (HAS_PREFIXES | ALLOWED), first)
        return rows[first], values[first] | special


def _hosts(data: bytes, letters: NDArray[numpy.uint8], ends: NDArray[numpy.int64]) -> tuple[hashing.Names, NDArray[numpy.bool_]]:
    """The hosts of URLs that end where `ends` says, and which URLs must be looked at one by one: all whose host is not plainly written
    `http://host/` or `https://host/` with ASCII letters, digits, dots and hyphens only. What is found for their hosts means nothing."""
    starts = numpy.concatenate([ends[:1] * 0, ends[:-1] + 1])
    head: NDArray[numpy.uint64] = numpy.ndarray((len(data) - 7,), _AS_WORD, data, 0, (1,))[starts]  # the first 8 bytes of each
    head |= _TO_SMALL
    https = (head | (_TO_SMALL << numpy.uint64(8))) == _HTTPS
    http = (head & _SEVEN) == _HTTP
    begins = starts + 7 + https
    slashes = numpy.append(numpy.flatnonzero(letters == _SLASH), len(data))
    stops = numpy.minimum(slashes[numpy.searchsorted(slashes, begins)], ends)
    lengths = stops - begins
    plain = (https | http) & (lengths > 0) & (lengths <= hashing.MAX_NAME)
    plain[plain] &= letters[stops[plain] - 1] != _DOT
    lengths[~plain] = 0
    names = hashing.Names.cut(letters, begins, lengths)
    plain[numpy.searchsorted(names.ends, numpy.flatnonzero(_ODD[names.letters]), side="right")] = False
    return names, ~plain


@functools.cache
def _own() -> Blocklist:
    return compile_lists((path, path) for path in OWN_LISTS)
