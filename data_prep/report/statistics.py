"""Numbers of one file of a corpus, and their sum: numbers of parts, added up in any order and grouping, are those of the whole."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain as flattened
from typing import Any, TypeVar

Key = TypeVar("Key", int, str)

UNKNOWN = "und"  # the language of what has not been scored
_MONTH = re.compile(r"(?:1[89]|20|21)\d\d-(?:0[1-9]|1[0-2])(?!\d)")


@dataclass(frozen=True, order=True)
class Sample:
    """A document that may be shown. `rank` decides which are: 16 hex digits, a hash of its id.

    survivor, similarity  of a duplicate: the document that stayed, and how alike they are
    """

    rank: str
    id: str
    source: str
    url: str
    detail: str = ""
    survivor: str = ""
    similarity: float = 1.0


@dataclass(frozen=True)
class Corpus:
    """Documents in numbers. `characters` and `words` are sums, `by_…` numbers of documents by a property.

    by_characters, by_words  lengths rounded down to two digits
    by_month, by_year        YYYY-MM of the crawl, YYYY the page gives as that of its publication; "" where there is none
    """

    documents: int = 0
    characters: int = 0
    words: int = 0
    bytes: int = 0
    by_characters: dict[int, int] = field(default_factory=dict)
    by_words: dict[int, int] = field(default_factory=dict)
    by_language: dict[str, int] = field(default_factory=dict)
    by_month: dict[str, int] = field(default_factory=dict)
    by_year: dict[str, int] = field(default_factory=dict)
    by_extractor: dict[str, int] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """The documents a stage rejected for one reason."""

    documents: int = 0
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class Numbers:
    """All of one file, or of several: corpora by step, rejects by step and reason, similarities of duplicates by step, in hundredths."""

    corpora: dict[str, Corpus] = field(default_factory=dict)
    rejects: dict[str, dict[str, Rejected]] = field(default_factory=dict)
    similarities: dict[str, dict[int, int]] = field(default_factory=dict)


def merged(parts: Sequence[Numbers], samples: int) -> Numbers:
    """The sum, with the `samples` documents of smallest rank of each kind."""
    return Numbers(
        corpora={
            name: _corpus([part.corpora[name] for part in parts if name in part.corpora], samples) for name in _keys(parts, "corpora")
        },
        rejects={
            name: _rejects([part.rejects[name] for part in parts if name in part.rejects], samples) for name in _keys(parts, "rejects")
        },
        similarities={name: sums(part.similarities.get(name, {}) for part in parts) for name in _keys(parts, "similarities")},
    )


def _keys(parts: Iterable[Any], field: str) -> list[str]:
    return sorted({name for part in parts for name in getattr(part, field)})


def _corpus(parts: Sequence[Corpus], samples: int) -> Corpus:
    totals = {name: sum(getattr(part, name) for part in parts) for name in ("documents", "characters", "words", "bytes")}
    names = ("by_characters", "by_words", "by_language", "by_month", "by_year", "by_extractor")
    spread: dict[str, Any] = {name: sums(getattr(part, name) for part in parts) for name in names}
    return Corpus(**totals, **spread, samples=least((part.samples for part in parts), samples))


def _rejects(parts: Sequence[Mapping[str, Rejected]], samples: int) -> dict[str, Rejected]:
    found = {}
    for reason in sorted({reason for part in parts for reason in part}):
        same = [part[reason] for part in parts if reason in part]
        found[reason] = Rejected(sum(one.documents for one in same), least((one.samples for one in same), samples))
    return found


def sums(counts: Iterable[Mapping[Key, int]]) -> dict[Key, int]:
    """Counts added up, in the order of their keys."""
    total: Counter[Key] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def least(samples: Iterable[Iterable[Sample]], number: int) -> tuple[Sample, ...]:
    """The samples of smallest rank, in their order."""
    return tuple(sorted(flattened.from_iterable(samples))[:number])


def rank(identity: str) -> str:
    """What decides whether a document is shown."""
    return hashlib.sha256(f"report {identity}".encode()).hexdigest()[:16]


def two_digits(number: int) -> int:
    """A number rounded down to its first two digits: 1,999 → 1,900."""
    power: int = 10 ** max(0, len(str(number)) - 2)
    return number // power * power


def month(date: str) -> str:
    """`2024-05-01T…` → `2024-05`; "" for what does not begin so."""
    match = _MONTH.match(date)
    return match[0] if match else ""


def quantile(counts: Mapping[int, int], share: float) -> int:
    """The length (to two digits) up to which `share` of the documents reach; 0 where there are none."""
    left = share * sum(counts.values())
    for length, number in sorted(counts.items()):
        left -= number
        if left <= 0:
            return length
    return 0


def bins(counts: Mapping[int, int]) -> list[tuple[int, int]]:
    """(least length, documents) in the bins 0, 1, 2, 5, 10, 20, 50 … from the first to the last that holds any."""
    edges = [0, *(digit * 10**power for power in range(16) for digit in (1, 2, 5))]
    found: Counter[int] = Counter()
    for length, number in counts.items():
        found[max(place for place, edge in enumerate(edges) if edge <= length)] += number
    return [(edges[place], found[place]) for place in range(min(found), max(found) + 1)] if found else []
