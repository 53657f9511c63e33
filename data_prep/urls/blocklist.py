"""Block lists compiled into one file that any number of processes map into memory: a sorted array of 64-bit hashes.

The file is in safetensors' format, with three arrays and the word rules and counts as metadata:

    keys    uint64 [names]  sorted hashes of hosts, and of URL prefixes (`host/path`)
    values  uint16 [names]  what is known of each: the category's number (0: none) and the flags below
    sieve   uint8  [bytes]  a bit for each value of a hash's leading bits, set if any key starts like that

Nearly all hosts are on no list, and all but some per cent of them are told by one bit of the sieve, which is small. Only for the
others the keys are searched. Nothing is read at loading but the header; what is looked up is shared by all processes of a machine.
A name that is on no list is taken for one that is with probability names × 2^-64 (5 million names: 3 × 10^-13).
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy
from numpy.typing import NDArray

from pipeline.stage import UserError

HAS_PREFIXES = 0x8000  # URL prefixes are listed for this host
ALLOWED = 0x4000  # the name is on the list of exceptions
BELOW = 0x2000  # the name stands for its sub-domains too
CATEGORY = 0x1FFF

_FORMAT = "crawl2chat blocklist 1"


@dataclass(frozen=True)
class Words:
    """Word rules; what they mean stands in `data_prep.urls.words`."""

    strict: tuple[str, ...] = ()
    hard: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()


NO_WORDS = Words()


@dataclass(frozen=True)
class Facts:
    """What a compiled list holds.

    entries          of each category, repetitions included
    distinct         keys
    unusable         entries that no host can have, left out
    public_suffixes  entries that are a public suffix without being marked (`.suffix`): they block that host alone
    collisions       different names with the same hash; both are blocked, the category named may be the other's
    """

    entries: Mapping[str, int] = field(default_factory=dict)
    distinct: int = 0
    unusable: int = 0
    public_suffixes: int = 0
    collisions: int = 0


class Blocklist:
    """A compiled list. `load` maps a file; `data_prep.urls.compiling` makes one."""

    def __init__(
        self,
        keys: NDArray[numpy.uint64],
        values: NDArray[numpy.uint16],
        sieve: NDArray[numpy.uint8],
        categories: Sequence[str],
        words: Words,
        facts: Facts,
    ) -> None:
        self.keys, self.values, self.sieve = keys, values, sieve
        self.categories, self.words, self.facts = tuple(categories), words, facts
        self._shift = 64 - (len(sieve).bit_length() + 2)
        self._key_view, self._value_view, self._sieve_view = keys.data, values.data, sieve.data

    def value(self, key: int) -> int:
        """What is known of one hash; 0 for one that is not listed."""
        leading = key >> self._shift
        if not self._sieve_view[leading >> 3] >> (leading & 7) & 1:
            return 0
        at = bisect.bisect_left(self._key_view, key)
        return self._value_view[at] if at < len(self.keys) and self._key_view[at] == key else 0

    def find(self, hashes: NDArray[numpy.uint64]) -> tuple[NDArray[numpy.int64], NDArray[numpy.uint16]]:
        """Which of many hashes are listed (their places in `hashes`, rising), and what is known of them."""
        leading = (hashes >> numpy.uint64(self._shift)).view(numpy.int64)
        bits = self.sieve[leading >> 3] >> (leading & 7).astype(numpy.uint8)
        candidates = numpy.flatnonzero(bits & 1)
        wanted = hashes[candidates]
        order = numpy.argsort(wanted)  # neighbours in the array are found on the same pages
        at = numpy.empty(len(wanted), numpy.int64)
        at[order] = numpy.searchsorted(self.keys, wanted[order])
        at[at == len(self.keys)] = 0
        found = numpy.flatnonzero(self.keys[at] == wanted) if len(self.keys) else at[:0]
        return candidates[found], self.values[at[found]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; the same entries give the same bytes, in whatever order and number of lists they come."""
        from safetensors.numpy import save_file

        described = {"format": _FORMAT, "categories": self.categories, "words": asdict(self.words), "facts": asdict(self.facts)}
        arrays: dict[str, NDArray[Any]] = {"keys": self.keys, "values": self.values, "sieve": self.sieve}
        save_file(arrays, os.fspath(path), {"blocklist": json.dumps(described, sort_keys=True)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Map a file that `save` wrote. UserError for another."""
        try:
            with open(path, "rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(size, 1 << 27)))
            described = json.loads(header["__metadata__"]["blocklist"])
            if described["format"] != _FORMAT:
                raise KeyError(described["format"])
            mapped = numpy.memmap(path, numpy.uint8, "r").view(numpy.ndarray)[8 + size :]
            keys, values, sieve = (mapped[slice(*header[name]["data_offsets"])] for name in ("keys", "values", "sieve"))
        except (ValueError, KeyError, TypeError, UnicodeDecodeError):
            raise UserError(f"block list {path}: not a compiled block list of this version; compile its lists again") from None
        words = {rule: tuple(words) for rule, words in described["words"].items()}
        facts = Facts(**described["facts"])
        return cls(keys.view("<u8"), values.view("<u2"), sieve, described["categories"], Words(**words), facts)


def prefix_key(host: str, rest: str) -> str:
    """The form in which a URL's start is hashed. `rest` is path and query without fragment."""
    return f"{host}/{_lowered(rest).strip('/')}".rstrip("?&;/")


def prefixes(host: str, rest: str, most: int = 64) -> Iterator[str]:
    """All starts of a URL that end where a part of its path or query ends, the longest first; the host alone only for its front page.

    Of a URL with more parts than `most` the first ones count.
    """
    text = prefix_key(host, rest)
    at = len(host) + 1
    if len(text) <= at:
        yield text
        return
    ends = [end for end in range(at + 1, len(text)) if text[end] in "/?&;"][:most]
    for end in (len(text), *reversed(ends)):
        yield text[:end].rstrip("?&;/")


def _lowered(text: str) -> str:
    return text.translate(_SMALL)


_SMALL = {capital: capital + 32 for capital in range(65, 91)}
