"""Personal data: recall and precision on labelled text, findings on real pages, speed.

    python -m benchmarks.pii [--data FOLDER] [--pages DOCUMENTS.parquet …] [--samples FILE]

--data     folder with `pii/` (generated texts with labelled spans) and `web/` (WARC files)
--pages    documents that an ingest has made already, instead of the WARC files
--samples  write findings to read, one of every kind in turn; holds personal data

A finding is right if a labelled span of the same kind overlaps it; a labelled span is found if a finding of its kind overlaps it. Speed is
CPU time of one process, best of three, beside the two detectors by form alone (e-mail and IP addresses).
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.extract import extract
from data_prep.pii import DEFAULT_KINDS, Kind, Span, find
from data_prep.sources import Page
from data_prep.sources.warc import read_warc

KINDS_OF_GOLD: dict[str, Kind] = {
    "EMAIL_ADDRESS": "email",
    "US_SSN": "ssn",
    "CREDIT_CARD": "credit_card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "PHONE_NUMBER": "phone",
    "ADDRESS": "address",
}
NUMBERS: tuple[Kind, ...] = ("email", "ssn", "credit_card", "iban", "ip", "phone")  # precision is asked over these


@dataclass
class Tally:
    """Labelled spans and how many are found; findings and how many are right."""

    labelled: int = 0
    met: int = 0
    found: int = 0
    right: int = 0

    @property
    def recall(self) -> float:
        return self.met / self.labelled if self.labelled else float("nan")

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else float("nan")


def read_gold(folder: Path) -> list[tuple[str, list[Span]]]:
    """The labelled texts of a folder with their spans of the kinds that are compared."""
    texts = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for entry in map(json.loads, lines):
                spans = [
                    Span(span["start_position"], span["end_position"], KINDS_OF_GOLD[span["entity_type"]], 1.0)
                    for span in entry["spans"]
                    if span["entity_type"] in KINDS_OF_GOLD
                ]
                texts.append((entry["full_text"], spans))
    return texts


def measure(gold: Iterable[tuple[str, Sequence[Span]]], detector: Callable[[str], Sequence[Span]]) -> dict[Kind, Tally]:
    """What the detector finds of the labelled spans, by kind."""
    tallies: dict[Kind, Tally] = {}
    for text, labelled in gold:
        found = detector(text)
        for span in labelled:
            tally = tallies.setdefault(span.kind, Tally())
            tally.labelled += 1
            tally.met += any(_meet(span, other) for other in found)
        for span in found:
            tally = tallies.setdefault(span.kind, Tally())
            tally.found += 1
            tally.right += any(_meet(span, other) for other in labelled)
    return tallies


def _meet(span: Span, other: Span) -> bool:
    return span.kind == other.kind and span.start < other.end and other.start < span.end


def main_texts(warcs: Sequence[Path]) -> list[str]:
    """The main texts of the pages of WARC files."""
    pages = [outcome for path in warcs for outcome in read_warc(path, 32 << 20) if isinstance(outcome, Page)]
    return [text for page in pages if (text := extract(page.body, "cascade", page.charset).text)]


def megabytes_per_second(texts: Sequence[str], detector: Callable[[str], object]) -> float:
    """CPU speed over the texts in UTF-8, best of three."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    best = float("inf")
    for _ in range(3):
        begun = time.process_time()
        for text in texts:
            detector(text)
        best = min(best, time.process_time() - begun)
    return size / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--pages", type=Path, nargs="+")
    parser.add_argument("--samples", type=Path)
    arguments = parser.parse_args()

    gold = read_gold(arguments.data / "pii")
    tallies = measure(gold, find)
    private = measure(gold, lambda text: find(text, kinds=["ip"], private_ips=True))["ip"]
    print(f"labelled text, {len(gold):,} entries\n{'kind':<22}{'labelled':>9}{'recall':>8}{'findings':>9}{'precision':>10}")
    for kind in (*NUMBERS, "address"):
        _row(kind, tallies.get(kind, Tally()))
    _row("ip, private ones too", private)
    together = [tallies[kind] for kind in NUMBERS if kind in tallies]
    _row("the six numbers", Tally(*(sum(getattr(tally, name) for tally in together) for name in ("labelled", "met", "found", "right"))))

    if arguments.pages:
        from data_prep.documents import read_documents

        pages = [document.text for path in arguments.pages for document in read_documents(path)]
    else:
        pages = main_texts(sorted((arguments.data / "web").glob("*.warc.gz")))
    found = [find(text) for text in pages]
    findings = Counter(span.kind for spans in found for span in spans)
    holding = Counter(kind for spans in found for kind in {span.kind for span in spans})
    print(f"\nreal pages, {len(pages):,}\n{'kind':<22}{'findings':>9}{'per 100':>9}{'pages':>9}")
    for kind in DEFAULT_KINDS:
        print(f"{kind:<22}{findings[kind]:>9,}{findings[kind] * 100 / len(pages):>9.2f}{holding[kind]:>9,}")
    print(f"{'all':<22}{findings.total():>9,}{findings.total() * 100 / len(pages):>9.2f}{sum(map(bool, found)):>9,}")

    some = pages[::4]
    print(f"\nspeed on {sum(map(len, some)) / 1e6:.1f} M characters of them\n{'detectors':<22}{'MB/s':>9}")
    for name, kinds in (("email, ip", ("email", "ip")), ("all but names", DEFAULT_KINDS), *((kind, (kind,)) for kind in DEFAULT_KINDS)):
        print(f"{name:<22}{megabytes_per_second(some, lambda text, kinds=kinds: find(text, kinds=kinds)):>9.1f}")  # type: ignore[misc]

    if arguments.samples:
        arguments.samples.write_text("".join(_samples(pages, found)), encoding="utf-8")


def _row(name: str, tally: Tally) -> None:
    print(f"{name:<22}{tally.labelled:>9,}{tally.recall:>8.3f}{tally.found:>9,}{tally.precision:>10.3f}")


def _samples(pages: Sequence[str], found: Sequence[Sequence[Span]]) -> Iterable[str]:
    """Findings with their surroundings: of every kind in turn, from pages spread evenly."""
    by_kind: dict[Kind, list[str]] = {}
    for text, spans in zip(pages, found, strict=True):
        for span in spans:
            line = f"{text[max(0, span.start - 60) : span.start]}«{text[span.start : span.end]}»{text[span.end : span.end + 40]}"
            by_kind.setdefault(span.kind, []).append(f"{span.kind}\t{span.confidence}\t" + line.replace("\n", "⏎") + "\n")
    for kind in sorted(by_kind):
        lines = by_kind[kind]
        wanted = min(len(lines), max(5, round(100 * len(lines) / sum(map(len, by_kind.values())))))
        yield from (lines[index * len(lines) // wanted] for index in range(wanted))


if __name__ == "__main__":
    main()
