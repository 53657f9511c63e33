"""Files of block lists and word lists to one `Blocklist`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import numpy
from numpy.typing import NDArray

from data_prep.urls import hashing
from data_prep.urls.blocklist import ALLOWED, BELOW, CATEGORY, HAS_PREFIXES, NO_WORDS, Blocklist, Facts, Words, prefix_key
from data_prep.urls.lists import ALLOW, Entry, list_kind, parse_entry, read_entries, read_words
from data_prep.urls.suffixes import is_public_suffix
from pipeline.stage import UserError

SIEVE_BITS = 12  # for each key, at least: the sieve lets at most one of twelve unlisted names through
HASHED_AT_ONCE = 1 << 15

_NOTHING = CATEGORY  # as a category: no list blocks this name


def compile_lists(files: Iterable[tuple[str, str | os.PathLike[str]]]) -> Blocklist:
    """Compile files (name, path) of the kinds that `data_prep.urls.lists` describes. UserError for a file of another kind."""
    words: dict[str, set[str]] = {"strict": set(), "hard": set(), "soft": set()}
    builder = _Builder()
    for name, path in files:
        kind = list_kind(name)
        if kind is None:
            raise UserError(f"block list {name}: its name tells no kind of list; give it an ending: .domains, .urls, .hosts or .words")
        if kind.kind == "words":
            words[kind.category].update(read_words(path))
        elif kind.kind == "urls":
            for entry in read_entries(path):
                # a line without a path means the front page: it must not block a host that other pages share
                builder.add(kind.category, entry and Entry(entry.host, entry.path or "/"))
        else:
            for entry in read_entries(path):
                builder.add(kind.category, entry)
    return builder.finished(Words(**{rule: tuple(sorted(found)) for rule, found in words.items()}))


def compile_entries(entries: Mapping[str, Iterable[str]], allow: Iterable[str] = (), words: Words = NO_WORDS) -> Blocklist:
    """Compile entries by category: hosts, `host/path` prefixes or URLs, as files have them. UserError for anything else."""
    builder = _Builder()
    for category, names in (*entries.items(), (ALLOW, allow)):
        for name in names:
            entry = parse_entry(name)
            if entry is None:
                raise UserError(f"block list: {name[:60]!r} ({category}) is neither a host nor a URL; mend or drop it")
            builder.add(category, entry)
    return builder.finished(words)


class _Builder:
    """Collects hashes and what is known of them."""

    def __init__(self) -> None:
        self._entries: dict[str, int] = {}
        self._unusable = self._public = 0
        self._hosts: dict[tuple[str, int], list[str]] = {}  # by category and flags: those not hashed yet
        self._parts: list[tuple[str, int, NDArray[numpy.uint64], NDArray[numpy.uint64]]] = []  # category, flags, keys, witnesses

    def add(self, category: str, entry: Entry | None) -> None:
        if entry is None:
            self._unusable += 1
            return
        self._entries[category] = self._entries.get(category, 0) + 1
        if entry.path:
            self._add_prefix(category, prefix_key(entry.host, entry.path.partition("#")[0]))
            self._add_host("", HAS_PREFIXES, entry.host)
            return
        below = entry.below or not is_public_suffix(entry.host)
        self._public += not below
        self._add_host(category, BELOW if below else 0, entry.host)

    def _add_prefix(self, category: str, prefix: str) -> None:
        hashes = [numpy.array([hashing.text_hash(text)], numpy.uint64) for text in (prefix, f"{hashing.WITNESS} {prefix}")]
        self._parts.append((category, 0, hashes[0], hashes[1]))

    def _add_host(self, category: str, flags: int, host: str) -> None:
        waiting = self._hosts.setdefault((category, flags), [])
        waiting.append(host)
        if len(waiting) == HASHED_AT_ONCE:
            self._hash_hosts(category, flags)

    def _hash_hosts(self, category: str, flags: int) -> None:
        hosts = self._hosts.pop((category, flags))
        letters = numpy.frombuffer("".join(hosts).encode("ascii"), numpy.uint8)
        names = hashing.Names(letters, numpy.cumsum([len(host) for host in hosts]))
        self._parts.append((category, flags, names.hashes()[0], names.hashes(hashing.WITNESS)[0]))

    def finished(self, words: Words) -> Blocklist:
        for category, flags in list(self._hosts):
            self._hash_hosts(category, flags)
        categories = sorted(name for name in self._entries if name != ALLOW)
        if len(categories) >= _NOTHING:
            raise UserError(f"block lists: {len(categories)} categories, at most {_NOTHING - 1} can be told apart; join some")
        numbers = {name: number for number, name in enumerate(categories, 1)}
        none = numpy.zeros(0, numpy.uint64)
        keys = numpy.concatenate([none, *(part[2] for part in self._parts)])
        witnesses = numpy.concatenate([none, *(part[3] for part in self._parts)])
        marks = [numbers.get(category, _NOTHING) | flags | (ALLOWED if category == ALLOW else 0) for category, flags, _, _ in self._parts]
        values = numpy.repeat(numpy.array(marks, numpy.uint16), [len(part[2]) for part in self._parts])
        order = numpy.argsort(keys, kind="stable")
        keys, values, witnesses = keys[order], values[order], witnesses[order]
        repeated = keys[1:] == keys[:-1]
        collisions = int((repeated & (witnesses[1:] != witnesses[:-1])).sum())
        if len(keys):
            first = numpy.flatnonzero(numpy.concatenate([[True], ~repeated]))
            number = numpy.minimum.reduceat(values & CATEGORY, first)  # of several categories the first in the alphabet
            number[number == _NOTHING] = 0
            values = numpy.asarray(numpy.bitwise_or.reduceat(values & ~numpy.uint16(CATEGORY), first) | number, numpy.uint16)
            keys = keys[first]
        entries = dict(sorted(self._entries.items()))
        facts = Facts(entries, len(keys), self._unusable, self._public, collisions)
        return Blocklist(keys, values, _sieve(keys), categories, words, facts)


def _sieve(keys: NDArray[numpy.uint64]) -> NDArray[numpy.uint8]:
    """A bit for every value of the leading bits, as many of them as give each key at least `SIEVE_BITS`."""
    bits = max(6, (len(keys) * SIEVE_BITS - 1).bit_length())
    sieve = numpy.zeros(1 << (bits - 3), numpy.uint8)
    leading = (keys >> numpy.uint64(64 - bits)).astype(numpy.int64)
    numpy.bitwise_or.at(sieve, leading >> 3, numpy.uint8(1) << (leading & 7).astype(numpy.uint8))
    return sieve
