"""Evaluation data found in training text, by runs of words that both hold (Brown et al. 2020, appendix C).

word      a run of letters and digits, without case, in Unicode's composed form; all else separates. Scripts written without spaces
          (Han, kana, Thai, Lao, Burmese, Khmer) have one word a character.
record    one example of an evaluation set. Its texts are all its strings, in lists and mappings too, or those of the given fields.
n-gram    `ngram` words in a row of one text. A text with fewer, but at least `min_words`, is one shorter n-gram as a whole. A record
          none of whose texts is that long is searched by its texts in pairs (a question with each of its answers, in both orders);
          one that is too short even so is not searched, and counted.
overlap   an n-gram of a record that stands in a text. Those of one record that share words are one overlap.

N-grams are compared by 128 bits made of their words' hashes. The index is a file of sorted hashes that all processes map into memory.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow
import pyarrow.ipc
from numpy.typing import NDArray

from data_prep.segment import UNSPACED_SCRIPTS

Hashes = NDArray[np.uint64]  # one for each word of a text, or for each n-gram of one

_WORD = re.compile(rf"[{UNSPACED_SCRIPTS}]|(?:[^\W_{UNSPACED_SCRIPTS}][\u0300-\u036f]*+)++")
_ASCII_WORD = re.compile(r"[A-Za-z0-9]++")
_REMEMBERED_WORDS = 1_000_000  # some 100 MB
_MULTIPLIERS = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03  # odd, so that no word's hash loses a bit


@dataclass(frozen=True, slots=True)
class Overlap:
    """Words of an evaluation record in a text.

    start, end  characters of the text
    words       how many
    evaluation  name of the set
    row         of the record in its set, from 1
    """

    start: int
    end: int
    words: int
    evaluation: str
    row: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A set in an index: its records, how many of them have n-grams, and how many n-grams they have together."""

    name: str
    records: int
    searched: int
    ngrams: int


def words(text: str) -> list[str]:
    """The words of a text as they stand in it."""
    return _pattern(text).findall(text)


def record_texts(record: Any, fields: Sequence[str] = ()) -> list[list[str]]:
    """The strings of a record, field by field: of all fields, or of those named. A record that is a string is its own field."""
    if isinstance(record, Mapping):
        return [[*_strings(record[name])] for name in (fields or record) if name in record]
    return [[*_strings(record)]]


class Index:
    """The n-grams of evaluation sets.

    >>> riddle = {"query": "What has roots as nobody sees, is taller than trees, up, up it goes", "choices": ["a mountain", "a tree"]}
    >>> index = Index.of({"riddles": [riddle]}, ngram=8)
    >>> [(found.evaluation, found.row, found.words) for found in index.find("He asked: what has roots as nobody sees, is taller?")]
    [('riddles', 1, 8)]
    """

    def __init__(self, table: pyarrow.RecordBatch, evaluations: Sequence[Evaluation], lengths: Sequence[int]) -> None:
        """`table`: `key` and `check` uint64, `record` uint32 (numbered through all sets), sorted; `lengths` of its n-grams in words."""
        self.evaluations, self._lengths = tuple(evaluations), tuple(lengths)
        self._table = table
        self._keys, self._checks, self._records = (table.column(name).to_numpy() for name in ("key", "check", "record"))
        self._ends = np.cumsum([evaluation.records for evaluation in evaluations], dtype=np.int64)
        self._filter = _Filter(self._keys)
        self._hashes = _WordHashes()

    @classmethod
    def of(cls, evaluations: Mapping[str, Iterable[Any]], ngram: int = 13, min_words: int = 8, fields: Sequence[str] = ()) -> Index:
        """The index of sets of records (mappings, lists, strings), by name."""
        texts: list[list[str]] = []
        owners: list[int] = []
        sets: list[tuple[str, int, int]] = []
        number = 0
        for name, records in evaluations.items():
            first, searched = number, 0
            for record in records:
                own = _searched(record_texts(record, fields), min_words)
                searched += bool(own)
                texts += own
                owners += [number] * len(own)
                number += 1
            sets.append((name, number - first, searched))
        columns, lengths = _ngrams(texts, owners, ngram)
        table = pyarrow.record_batch([*columns], names=["key", "check", "record"])
        bounds = np.cumsum([0, *(records for _, records, _ in sets)])
        ngrams = np.diff(np.searchsorted(np.sort(columns[2]), bounds)).tolist()
        return cls(table, [Evaluation(*one, count) for one, count in zip(sets, ngrams, strict=True)], lengths)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Index:
        """The index that `write` wrote; its n-grams stay in the file, which all processes share."""
        reader = pyarrow.ipc.open_file(pyarrow.memory_map(os.fspath(path)))
        described = json.loads(reader.schema.metadata[b"index"])
        return cls(reader.get_batch(0), [Evaluation(**one) for one in described["evaluations"]], described["lengths"])

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as an Arrow file. The same sets in the same order give the same bytes."""
        described = {"evaluations": [asdict(one) for one in self.evaluations], "lengths": self._lengths}
        schema = self._table.schema.with_metadata({"index": json.dumps(described)})
        with pyarrow.OSFile(os.fspath(path), "wb") as sink, pyarrow.ipc.new_file(sink, schema) as writer:
            writer.write_batch(self._table.replace_schema_metadata(schema.metadata))

    def find(self, text: str) -> list[Overlap]:
        """All overlaps of a text, by their first character."""
        if not self._lengths:
            return []
        hashes = self._hashes.of(words(text))
        hits = [hit for length, keys in _rolled(hashes, self._lengths, _MULTIPLIERS[0]) if len(hit := self._hits(hashes, length, keys))]
        if not hits:
            return []
        places = [match.span() for match in _pattern(text).finditer(text)]
        found = []
        for record, first, end in _joined(np.concatenate(hits)).tolist():
            number = int(np.searchsorted(self._ends, record, side="right"))
            row = record - (int(self._ends[number - 1]) if number else 0) + 1
            found.append(Overlap(places[first][0], places[end - 1][1], end - first, self.evaluations[number].name, row))
        return sorted(found, key=lambda overlap: (overlap.start, overlap.end, overlap.evaluation, overlap.row))

    def _hits(self, hashes: Hashes, length: int, keys: Hashes) -> NDArray[np.int64]:
        """[hits, 3] record, first word and end of each n-gram of one length that the index holds."""
        places = np.flatnonzero(self._filter.may_hold(keys))
        low = np.searchsorted(self._keys, keys[places])
        held = self._keys[np.minimum(low, len(self._keys) - 1)] == keys[places]
        places, low = places[held], low[held]
        if not len(places):
            return np.zeros((0, 3), np.int64)
        high = np.searchsorted(self._keys, keys[places], side="right")
        places, entries = np.repeat(places, high - low), _ranges(low, high)
        checks = _rolled_at(hashes, places, length, _MULTIPLIERS[1])
        same = self._checks[entries] == checks
        places, records = places[same], self._records[entries[same]].astype(np.int64)
        return np.stack([records, places, places + length], axis=1)


class _WordHashes(dict[str, int]):
    """64 bits of BLAKE2b for each word, remembered."""

    def __missing__(self, word: str) -> int:
        form = unicodedata.normalize("NFC", unicodedata.normalize("NFC", word).casefold())
        value = int.from_bytes(hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        if len(self) >= _REMEMBERED_WORDS:
            self.clear()
        self[word] = value
        return value

    def of(self, found: Sequence[str]) -> Hashes:
        return np.fromiter(map(self.__getitem__, found), np.uint64, len(found))


class _Filter:
    """A set of bits that tells most keys that an index does not hold; small enough for the processor's caches."""

    def __init__(self, keys: Hashes) -> None:
        bits = min(26, max(10, (128 * len(keys)).bit_length()))
        self._shift = np.uint64(64 - bits)
        held = np.zeros(1 << bits, np.bool_)
        held[keys >> self._shift] = True
        self._bits = np.packbits(held, bitorder="little")

    def may_hold(self, keys: Hashes) -> NDArray[np.bool_]:
        places = keys >> self._shift
        packed = self._bits[places >> np.uint64(3)]
        held: NDArray[np.bool_] = (packed >> (places & np.uint64(7)).astype(np.uint8)) & np.uint8(1) != 0
        return held


def _pattern(text: str) -> re.Pattern[str]:
    return _ASCII_WORD if text.isascii() else _WORD


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for item in value:
            yield from _strings(item)


def _searched(fields: Sequence[Sequence[str]], min_words: int) -> list[list[str]]:
    """The texts of a record that have enough words, or else the pairs of texts of two fields that have."""
    texts = [[found for text in field if (found := words(text))] for field in fields]
    alone = [text for field in texts for text in field if len(text) >= min_words]
    if alone:
        return alone
    spoken = [[text for text in field if len(text) > 1] for field in texts]  # a single word is a label or a name
    pairs = [a + b for one, other in itertools.permutations(spoken, 2) for a in one for b in other]
    return [text for text in pairs if len(text) >= min_words]


def _ngrams(
    texts: Sequence[Sequence[str]], owners: Sequence[int], ngram: int
) -> tuple[tuple[Hashes, Hashes, NDArray[np.uint32]], list[int]]:
    """Keys, checks and records of all n-grams, sorted and each once, and the lengths there are."""
    sizes = np.array([len(text) for text in texts], np.int64)
    firsts = np.cumsum(sizes) - sizes
    hashes = _WordHashes().of([word for text in texts for word in text])
    lengths = np.minimum(sizes, ngram)
    starts = _ranges(firsts, firsts + sizes - lengths + 1)
    of_text = np.repeat(np.arange(len(texts)), sizes - lengths + 1)
    keys, checks = (np.zeros(len(starts), np.uint64) for _ in _MULTIPLIERS)
    for length in np.unique(lengths).tolist():
        chosen = lengths[of_text] == length
        for column, multiplier in zip((keys, checks), _MULTIPLIERS, strict=True):
            column[chosen] = _rolled_at(hashes, starts[chosen], length, multiplier)
    table = np.unique(np.stack([keys, checks, np.array(owners, np.uint64)[of_text]], axis=1), axis=0)
    return (table[:, 0].copy(), table[:, 1].copy(), table[:, 2].astype(np.uint32)), np.unique(lengths).tolist()


def _rolled(hashes: Hashes, lengths: Sequence[int], multiplier: int) -> Iterator[tuple[int, Hashes]]:
    """For each of the lengths that occur, the hash of the words from each place on."""
    rolled = hashes
    for length in range(1, min(max(lengths), len(hashes)) + 1):
        if length > 1:
            rolled = rolled[:-1] * np.uint64(multiplier) + hashes[length - 1 :]
        if length in lengths:
            yield length, _mixed(rolled, length)


def _rolled_at(hashes: Hashes, places: NDArray[np.int64], length: int, multiplier: int) -> Hashes:
    """The same as `_rolled` for one length, at the given places."""
    rolled = np.zeros(len(places), np.uint64)
    for offset in range(length):
        rolled = rolled * np.uint64(multiplier) + hashes[places + offset]
    return _mixed(rolled, length)


def _mixed(rolled: Hashes, length: int) -> Hashes:
    """Spread over all bits, apart by length (the finish of splitmix64, Steele et al. 2014)."""
    mixed = rolled + np.uint64(length * 0x632BE59BD9B4E019 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _ranges(low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
    """low[0] … high[0] - 1, low[1] … high[1] - 1, …"""
    sizes = high - low
    starts: NDArray[np.int64] = np.repeat(low - (np.cumsum(sizes) - sizes), sizes)
    return np.arange(len(starts), dtype=np.int64) + starts


def _joined(hits: NDArray[np.int64]) -> NDArray[np.int64]:
    """[overlaps, 3] from [hits, 3]: hits of one record that share words are one."""
    ordered = hits[np.lexsort((hits[:, 1], hits[:, 0]))]
    apart = ordered[:, 0] * (int(ordered[:, 2].max()) + 1)  # shifts the words of each record behind those of the one before
    reach = np.maximum.accumulate(ordered[:, 2] + apart)
    begins = np.flatnonzero(np.concatenate(([True], ordered[1:, 1] + apart[1:] >= reach[:-1])))
    ends = np.concatenate((begins[1:], [len(ordered)])) - 1
    return np.stack([ordered[begins, 0], ordered[begins, 1], reach[ends] - apart[begins]], axis=1)
