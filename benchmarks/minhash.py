"""Near-duplicates: MinHash from text to signature beside rensa and datasketch, and what is found of pairs whose similarity is known.

    python -m benchmarks.minhash ../shared/data          (with rensa, datasketch and xxhash on the path for the comparison)

Speed is CPU time of one core, the sides taking turns in one process, best of several; MB are UTF-8 bytes of text. Every side makes
112 values of the sets of word 5-grams. Recall is what near_dedup's steps remove, in 1, 2 and 7 partitions that must agree.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import itertools
import json
import lzma
import random
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_prep.dedup.clusters import settled, write_members
from data_prep.dedup.minhash import signatures
from data_prep.dedup.near import THRESHOLD, jaccard, links
from data_prep.dedup.shingles import BATCH_CHARACTERS, Shingles, shingles
from data_prep.dedup.signed import SUFFIXES, Collection, Part, Signing, write_signed
from data_prep.documents import Document
from data_prep.extract import extract
from data_prep.segment import batches
from data_prep.sources import Page
from data_prep.sources.warc import read_warc

VALUES = 112
WORDS = re.compile(r"\w+")
EDGES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of shared test data")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    pages = page_texts(arguments.data)
    with lzma.open(arguments.data / "dedup" / "pairs.jsonl.xz", "rt") as lines:
        pairs = [json.loads(line) for line in lines]
    speed(pages, arguments.repeats)
    recall(pages)
    known_pairs(pairs)


def page_texts(data: Path) -> list[str]:
    """The main texts of the real pages."""
    found = []
    for path in sorted((data / "web").glob("pages-*.warc.gz")):
        pages = [outcome for outcome in read_warc(str(path), 32 << 20) if isinstance(outcome, Page)]
        found += [extract(page.body, "resiliparse", page.charset).text for page in pages]
    return [text for text in found if text]


def speed(texts: Sequence[str], repeats: int) -> None:
    """Print MB/s from text to signature, and of the parts that can be told apart."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    sets = shingles(texts)
    hashes, bounds = sets.hashes.astype("<u8"), sets.bounds.astype("<u8")
    sides: dict[str, Callable[[], Any]] = {
        "crawl2chat: text to signature": lambda: [signatures(shingles(batch)) for batch in batches(texts, str, BATCH_CHARACTERS)],
        "crawl2chat: shingles to signature": lambda: signatures(sets),
        "word 5-grams in Python": lambda: [python_shingles(text) for text in texts],
    }
    rensa, datasketch, xxhash = (module(name) for name in ("rensa", "datasketch", "xxhash"))
    if rensa:
        digest = rensa.RMinHash.digest_matrix_from_token_sets
        sides["rensa: text to signature"] = lambda: [digest([python_shingles(text)], VALUES, 1) for text in texts]
        flat = rensa.RMinHash.digest_matrix_from_flat_token_hashes
        sides["rensa: these shingles to signature"] = lambda: flat(hashes, bounds, VALUES, 1)
    if datasketch and xxhash:

        def sketched(text: str) -> Any:
            signature = datasketch.MinHash(VALUES, hashfunc=xxhash.xxh32_intdigest)
            signature.update_batch([gram.encode() for gram in python_shingles(text)])
            return signature

        sides["datasketch + xxhash: text to signature"] = lambda: [sketched(text) for text in texts]
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(repeats):
        for name, side in sides.items():
            begun = time.process_time()
            side()
            best[name] = min(best[name], time.process_time() - begun)
    own = best["crawl2chat: text to signature"]
    print(f"{len(texts):,} real pages, {size:.1f} MB, {len(sets.hashes) / len(texts):.0f} shingles a page")
    print(f"{'one core':<42} {'MB/s':>8} {'pages/s':>9} {'ratio':>7}")
    for name, seconds in best.items():
        print(f"{name:<42} {size / seconds:>8.1f} {len(texts) / seconds:>9.0f} {own / seconds:>7.2f}")
    print()


def python_shingles(text: str) -> list[str]:
    """Word 5-grams as the peers are given them."""
    words = WORDS.findall(text.lower())
    return [" ".join(words[first : first + 5]) for first in range(max(1, len(words) - 4))]


def module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed: left out")
        return None


def recall(texts: Sequence[str]) -> None:
    """Print what is removed of real pages and edits of them, by the exact similarity of pairs."""
    chance = random.Random(0)
    documents = [document(f"page {number}", text, "2020") for number, text in enumerate(texts)]
    for number, text in enumerate(texts):
        for copy in range(2):
            documents.append(document(f"edit {number} {copy}", edited(chance, text), "2021"))
    sets = shingles([one.text for one in documents])
    found = [near_dedup(documents, partitions) for partitions in (1, 2, 7)]
    agree = found[0] == found[1] == found[2]
    exact = similar_pairs(sets, EDGES[0])
    table = {edge: [0, 0] for edge in EDGES[:-1]}
    for (one, other), similarity in exact.items():
        edge = max(edge for edge in EDGES[:-1] if edge <= similarity)
        table[edge][0] += 1
        table[edge][1] += one in found[0] or other in found[0]
    print(f"{len(documents):,} documents (real pages, two edits of each), threshold {THRESHOLD}, 14 bands of 8 rows")
    print(f"{'similarity':<14} {'pairs':>8} {'of which one is removed':>24}")
    for edge, following in itertools.pairwise(EDGES):
        number, gone = table[edge]
        print(f"{edge:.2f} to {following:<6.2f} {number:>8,} {gone / max(1, number):>24.4f}")
    high = [pair for edge, pair in table.items() if edge >= 0.85]
    print(
        f"{'.85 and more':<14} {sum(pair[0] for pair in high):>8,} {sum(pair[1] for pair in high) / sum(pair[0] for pair in high):>24.4f}"
    )
    lowest = min(jaccard(sets[one], sets[survivor]) for one, (survivor, _) in found[0].items())
    kept = all(survivor not in found[0] for survivor, _ in found[0].values())
    print(f"removed {len(found[0]):,}; least similar to the document that stays instead: {lowest:.3f}; all of these stay: {kept}")
    print(f"1, 2 and 7 partitions agree: {agree}\n")


def known_pairs(pairs: Sequence[dict[str, Any]]) -> None:
    """Print what is found of the labelled pairs, each pair a corpus of its own."""
    groups: dict[str, list[bool]] = {}
    for pair in pairs:
        kind = pair["relation"]
        if kind in ("revision", "rewrite"):
            kind += f", similarity {'≥ .8' if pair['jaccard'] >= 0.8 else '≥ .5' if pair['jaccard'] >= 0.5 else '< .5'}"
        removed = near_dedup([document("a", pair["a"], "2020"), document("b", pair["b"], "2021")], 1)
        groups.setdefault(kind, []).append(bool(removed))
    print(f"{'labelled pairs':<34} {'pairs':>6} {'one removed':>12}")
    for kind, found in sorted(groups.items()):
        print(f"{kind:<34} {len(found):>6} {sum(found):>12}")


def document(name: str, text: str, date: str) -> Document:
    return Document(hashlib.sha256(name.encode()).hexdigest()[:32], "", text, date, name)


def edited(chance: random.Random, text: str) -> str:
    """The text with a random share of its words replaced, from none to one in ten."""
    words = text.split(" ")
    rate = chance.random() ** 2 / 10
    return " ".join(f"edit{chance.randrange(1000)}" if chance.random() < rate else word for word in words)


def near_dedup(documents: Sequence[Document], partitions: int) -> dict[int, tuple[int, float]]:
    """The steps of the stage in this process: number of each removed document → (the one that stays, their similarity)."""
    signing = Signing()
    with tempfile.TemporaryDirectory() as folder:
        write_signed(lambda suffix: f"{folder}/part{suffix}", documents, signing)
        part = Part("part", len(documents), {suffix: f"{folder}/part{suffix}" for suffix in SUFFIXES})
        collection = Collection([part], signing.bands * signing.rows)
        linked = [f"{folder}/links-{partition}" for partition in range(partitions)]
        for partition, path in enumerate(linked):
            links(*collection.entries(partition, partitions), collection.minima, THRESHOLD).astype("<i8").tofile(path)
        members = [f"{folder}/members-{partition}" for partition in range(partitions)]
        written = write_members(members, linked, collection, "oldest", folder)
        numbers = {one.id: number for number, one in enumerate(documents)}
        found = {}
        for path, rows in zip(members, written, strict=True):
            if rows:
                for removal in settled(path, collection, False, THRESHOLD, signing.sketch).get("part", []):
                    found[removal.row] = numbers[removal.survivor], removal.similarity
        return dict(sorted(found.items()))


def similar_pairs(sets: Shingles, threshold: float) -> dict[tuple[int, int], float]:
    """All pairs of at least this similarity, exactly: a pair must share one of the rarest shingles of either."""
    import numpy

    _, places, counts = numpy.unique(sets.hashes, return_inverse=True, return_counts=True)
    rarity = counts[places]
    prefixes: dict[int, list[int]] = {}
    for number in range(len(sets)):
        first, last = int(sets.bounds[number]), int(sets.bounds[number + 1])
        size = last - first
        order = numpy.lexsort((sets.hashes[first:last], rarity[first:last]))[: size - int(numpy.ceil(threshold * size)) + 1]
        for place in places[first:last][order].tolist():
            prefixes.setdefault(place, []).append(number)
    candidates = {(one, other) for group in prefixes.values() for at, one in enumerate(group) for other in group[at + 1 :]}
    found = {pair: jaccard(sets[pair[0]], sets[pair[1]]) for pair in sorted(candidates)}
    return {pair: similarity for pair, similarity in found.items() if similarity >= threshold}


if __name__ == "__main__":
    main()
