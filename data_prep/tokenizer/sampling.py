"""Choosing documents by the hash of their ids, so that the choice depends on no order and no division into files."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

OTHER = "other"  # stands for every language without a weight of its own

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Text:
    """A document as the tokenizer is trained on it; `language` is "und" where nothing tells it."""

    id: str
    language: str
    text: str


def hash_fraction(document_id: str, purpose: str) -> float:
    """A number in [0, 1) that looks uniform and depends on the id alone; each purpose draws independently of the others."""
    digest = hashlib.sha256(f"{purpose}\0{document_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def quotas(sizes: Mapping[Key, int], weights: Mapping[Key, float], total: int) -> dict[Key, int]:
    """What to take of each part so that all together are `total`: shares in proportion to the weights.

    A part with less than its share gives all it has, and the others share what it leaves, by their weights. Where all together have
    less than `total`, everything is taken. A part without a weight gives nothing.

        >>> quotas({"en": 1000, "de": 1000, "sw": 10}, {"en": 2, "de": 1, "sw": 1}, 400)
        {'sw': 10, 'en': 260, 'de': 130}
    """
    taken: dict[Key, int] = {}
    sharing = {part: weights[part] for part in sizes if weights.get(part, 0) > 0}
    while sharing:
        largest = max(sharing.values())
        shares = {part: weight / largest for part, weight in sharing.items()}  # weights may be too small to divide by
        scale = (total - sum(taken.values())) / sum(shares.values())
        exhausted = {part: sizes[part] for part, share in shares.items() if sizes[part] <= scale * share}
        if not exhausted:
            return taken | {part: round(scale * share) for part, share in shares.items()}
        taken |= exhausted
        sharing = {part: weight for part, weight in sharing.items() if part not in exhausted}
    return taken


@dataclass(frozen=True)
class Recipe:
    """How much of what a sample is made of.

    sample_bytes      of UTF-8 text in all
    weights           corpus → its share; empty: in proportion to its text
    language_weights  language → its share of each corpus, OTHER for all that are not named; empty: as the text has them
    """

    sample_bytes: int
    weights: Mapping[str, float]
    language_weights: Mapping[str, float]

    def group(self, language: str) -> str:
        """The languages that are sampled together with this one."""
        return language if language in self.language_weights else OTHER

    def wanted(self, sizes: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
        """(corpus, language) → bytes of text there are, to (corpus, group) → bytes to take."""
        groups: Counter[tuple[str, str]] = Counter()
        corpora: Counter[str] = Counter()
        for (corpus, language), size in sizes.items():
            groups[corpus, self.group(language)] += size
            corpora[corpus] += size
        wanted = {}
        for corpus, total in quotas(corpora, self.weights or corpora, self.sample_bytes).items():
            own = {group: size for (name, group), size in groups.items() if name == corpus}
            for group, size in quotas(own, self.language_weights or {OTHER: 1.0}, total).items():
                wanted[corpus, group] = size
        return wanted


class HashPrefix:
    """Of all texts it is given, those that come first in the order of their ids' hashes, up to the one that reaches `size` bytes.

    Holds little more than that in memory.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[tuple[float, str, str, str, int]] = []  # largest hash first: the heap is ordered by its negative
        self._bytes = 0

    def add(self, text: Text) -> None:
        size = len(text.text.encode())
        heapq.heappush(self._kept, (-hash_fraction(text.id, "tokenizer"), text.id, text.text, text.language, size))
        self._bytes += size
        while self._kept and self._bytes - self._kept[0][4] >= self._size:
            self._bytes -= heapq.heappop(self._kept)[4]

    def divided(self, first_bytes: int) -> tuple[list[Text], list[Text]]:
        """The shortest beginning that reaches `first_bytes`, and the rest, both in the order of hashes."""
        parts: tuple[list[Text], list[Text]] = ([], [])
        before = 0
        for _, identity, text, language, size in sorted(self._kept, key=lambda entry: (-entry[0], *entry[1:4])):
            parts[before >= first_bytes].append(Text(identity, language, text))
            before += size
        return parts


def in_hash_order(texts: Iterable[Text]) -> list[Text]:
    """Texts of several prefixes in the order of one."""
    return sorted(texts, key=lambda text: (hash_fraction(text.id, "tokenizer"), text.id, text.text, text.language))


def beginning(texts: Iterable[str], size: int) -> list[str]:
    """The first texts that together reach `size` bytes of UTF-8."""
    taken: list[str] = []
    for text in texts:
        if size <= 0:
            break
        taken.append(text)
        size -= len(text.encode())
    return taken
