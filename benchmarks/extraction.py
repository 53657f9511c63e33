"""Main text of the labelled pages: speed and F1 of every extractor, and of the cascade at several thresholds of doubt.

    python -m benchmarks.extraction [--data ../shared/data]

Speed: pages a second of CPU time on one core, from decoded text to main text, over all labelled pages; best of three for the fast
ones. Sent: the share of pages that are given to trafilatura, of the labelled ones and of all there are.

F1, for each half of the labelled pages by host (what there is to choose was chosen on the first alone):
text      pages whose whole text is known. Words are `\\w+` after Unicode NFC, soft hyphens left out; with |a| the number of words and
          a ∩ b the words of both, as often as they are in both: F1 = 2 |found ∩ gold| ÷ (|found| + |gold|); the mean over pages
segments  pages of which some strings must be found and others must not. Over all strings, white space made single spaces:
          F1 = 2 right ÷ (2 right + missed + wrong)
The second kind comes from trafilatura's own tests.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import logging
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data_prep.decode import decode_html
from data_prep.extract import Method, extract
from data_prep.extract.blocks import read_blocks
from data_prep.extract.main_text import MAX_DOUBT, choose
from data_prep.sources import Page
from data_prep.sources.warc import read_warc

KINDS = ("full_text", "segments")
_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_TWO_PART_SUFFIXES = ("co", "com", "org", "net", "gov", "ac", "edu")


@dataclass(frozen=True)
class Labelled:
    """A page in text and what is known of its main text."""

    page: str
    url: str
    gold: Mapping[str, Any]

    @property
    def first_half(self) -> bool:
        host = (urlsplit(self.url).hostname or "").split(".")
        parts = 3 if len(host) > 2 and host[-2] in _TWO_PART_SUFFIXES and len(host[-1]) == 2 else 2
        return hashlib.sha256(".".join(host[-parts:]).encode()).digest()[0] % 2 == 0


def read_pages(data: Path) -> tuple[list[Labelled], list[str]]:
    """(the labelled pages, all pages) of the folder of test data."""
    with gzip.open(data / "web" / "extraction_gold.jsonl.gz", "rt") as lines:
        golds = {row["record_id"]: row for row in map(json.loads, lines) if row["kind"] in KINDS}
    with gzip.open(data / "web" / "manifest.jsonl.gz", "rt") as lines:
        by_digest: dict[str, list[dict[str, Any]]] = {}
        for row in map(json.loads, lines):
            by_digest.setdefault(row["sha1"], []).append(row)
    labelled, pages = [], []
    for path in sorted((data / "web").glob("pages-*.warc.gz")):
        for outcome in read_warc(path, 32 << 20):
            if isinstance(outcome, Page):
                pages.append(decode_html(outcome.body, outcome.charset))
                for row in by_digest.pop(hashlib.sha1(outcome.body).hexdigest(), ()):
                    if row["record_id"] in golds:
                        labelled.append(Labelled(pages[-1], row["url"], golds[row["record_id"]]))
    return labelled, pages


def text_f1(gold: str, found: str) -> float:
    """F1 of two multisets of words."""
    expected, words = (Counter(re.findall(r"\w+", _plain(text))) for text in (gold, found))
    return 2 * (expected & words).total() / max(1, expected.total() + words.total())


def scores(labelled: Iterable[Labelled], texts: Iterable[str]) -> dict[str, float]:
    """Both kinds of F1, by kind."""
    by_page: list[float] = []
    right = missed = wrong = 0
    for item, text in zip(labelled, texts, strict=True):
        if item.gold["kind"] == "full_text":
            by_page.append(text_f1(item.gold["text"], text))
            continue
        line = " ".join(_plain(text).split())
        there = [" ".join(_plain(segment).split()) in line for segment in item.gold["with"]]
        right += sum(there)
        missed += len(there) - sum(there)
        wrong += sum(" ".join(_plain(segment).split()) in line for segment in item.gold["without"])
    return {"full_text": sum(by_page) / max(1, len(by_page)), "segments": 2 * right / max(1, 2 * right + missed + wrong)}


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("\xad", "")


def _ours(method: Method, max_doubt: float = MAX_DOUBT) -> Callable[[str], str]:
    return lambda page: extract(page, method, max_doubt=max_doubt).text


def _trafilatura(fast: bool) -> Callable[[str], str]:
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    return lambda page: trafilatura.extract(page, include_comments=False, fast=fast) or ""


def _timed(read: Callable[[str], str], pages: list[str], repeats: int) -> tuple[list[str], float]:
    """(texts, pages a second)."""
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        texts = [read(page) for page in pages]
        seconds.append(time.process_time() - begun)
    return texts, len(pages) / min(seconds)


def _doubts(pages: Iterable[str]) -> list[float]:
    from resiliparse.parse.html import HTMLTree

    return [choose(read_blocks(HTMLTree.parse(page))).doubt for page in pages]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=_DATA)
    labelled, pages = read_pages(parser.parse_args().data)
    halves = [[number for number, item in enumerate(labelled) if item.first_half is first] for first in (True, False)]
    print(
        f"{len(labelled)} labelled pages, {len(halves[0])} of them in the first half, {len(halves[1])} held out; {len(pages)} pages in all"
    )
    print(f"{'':<22} {'pages/s':>8} {'sent':>6} {'of all':>7} | first: {'text':>6} {'segm.':>6} | held out: {'text':>6} {'segm.':>6}")
    rows: list[tuple[str, Callable[[str], str], float | None]] = [
        ("resiliparse", _ours("resiliparse"), None),
        ("blocks", _ours("blocks"), None),
        *((f"cascade, doubt > {doubt}", _ours("cascade", doubt), doubt) for doubt in (0.95, MAX_DOUBT, 0.8, 0.7, 0.6, 0.5)),
        ("trafilatura, fast", _trafilatura(fast=True), None),
        ("trafilatura", _trafilatura(fast=False), None),
    ]
    doubts = _doubts(item.page for item in labelled), _doubts(pages)
    for name, read, limit in rows:
        read(labelled[0].page)
        texts, speed = _timed(read, [item.page for item in labelled], 1 if name.startswith("trafilatura") else 3)
        f1 = [scores([labelled[number] for number in half], [texts[number] for number in half]) for half in halves]
        first, held_out = (f"{value['full_text']:.4f} {value['segments']:.4f}" for value in f1)
        sent = ["" if limit is None else f"{sum(doubt > limit for doubt in some) / len(some):.1%}" for some in doubts]
        print(f"{name:<22} {speed:>8.0f} {sent[0]:>6} {sent[1]:>7} |        {first} |           {held_out}", flush=True)


if __name__ == "__main__":
    main()
