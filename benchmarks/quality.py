"""FineWeb's rules on English pages: speed and verdicts beside datatrove's four filters.

    python -m benchmarks.quality --peer PEER/bin/python [--data ../shared/data] [--repeats 3]        (PEER as in `benchmarks.crawl`)

The main texts of the real pages in English. Each group of rules is asked about every text, whatever the others said; FineWeb's see what
C4's leave of the lines. agree: share of the texts that both sides keep or both reject. Speed is texts a second of CPU time, the sides in
turn, the best of several repeats; here all rules share one cut into words, which has a row of its own. Definitions are the same but for
the words: see `data_prep.segment`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy

from benchmarks.crawl import Peer
from data_prep.extract import extract
from data_prep.function_words import find
from data_prep.language import identify
from data_prep.quality import gopher, lines
from data_prep.quality.verdicts import Thresholds, limits, missed
from data_prep.segment import batches, segment
from data_prep.sources import Page
from data_prep.sources.warc import read_warc

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
THRESHOLDS = Thresholds().of("en")
WORDS, LINES = "words, lines", "c4, fineweb"
# The reasons of each group of rules.
GROUPS = {
    "gopher repetition": {f"gopher_{one.name}" for one in fields(THRESHOLDS.gopher_repetition)},
    "gopher quality": {f"gopher_{one.name}" for one in fields(THRESHOLDS.gopher_quality)},
    LINES: {f"c4_{one.name}" for one in fields(THRESHOLDS.c4)} | {f"fineweb_{one.name}" for one in fields(THRESHOLDS.fineweb)},
}


def english(data: Path) -> list[str]:
    found = []
    for path in sorted((data / "web").glob("pages-*.warc.gz")):
        for outcome in read_warc(path, 32 << 20):
            if isinstance(outcome, Page):
                text = extract(outcome.body, "blocks", outcome.charset).text
                if text and identify(text)[0] == "en":
                    found.append(text)
    return found


def ours(texts: Sequence[str]) -> tuple[dict[str, list[bool]], dict[str, float]]:
    """(whether each text passes, by group; CPU seconds by part)."""
    spent = dict.fromkeys((WORDS, *GROUPS), 0.0)
    passes: dict[str, list[bool]] = {group: [] for group in GROUPS}
    asked = {group: [limit for limit in limits(THRESHOLDS) if limit.reason in reasons] for group, reasons in GROUPS.items()}

    def timed(part: str, function: Callable[[], Any]) -> Any:
        begun = time.process_time()
        result = function()
        spent[part] += time.process_time() - begun
        return result

    def of_lines() -> dict[str, Any]:
        plain = [lines.without_citations(text) for text in group]
        measured = lines.measure(cut if plain == group else segment(plain), codes)
        return lines.judge(measured, [THRESHOLDS.lines] * len(group))[1]

    for group in batches(texts):
        codes = ["en"] * len(group)
        cut, found = timed(WORDS, lambda: (one := segment(group), find(one)))  # noqa: B023
        scores = timed("gopher repetition", lambda: gopher.repetition(cut, codes))  # noqa: B023
        scores |= timed("gopher quality", lambda: gopher.quality(cut, found, codes))  # noqa: B023
        scores |= timed(LINES, of_lines)
        for number in range(len(group)):
            values = {name: float(column[number]) for name, column in scores.items()}
            for name, own in asked.items():
                passes[name].append(next(missed(values, own), None) is None)
    return passes, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="the Python of datatrove's environment")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of test data: web/")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    texts = english(options.data)
    with tempfile.TemporaryDirectory() as folder, Peer(options.peer, Path(folder)) as peer:
        path = Path(folder, "texts.json")
        path.write_text(json.dumps(texts))
        own_spent: dict[str, float] = {}
        spent: dict[str, float] = {}
        for _ in range(options.repeats):
            verdicts, seconds = peer("verdicts", str(path))
            spent = {name: min(value, spent.get(name, value)) for name, value in seconds.items()}
            passes, own_seconds = ours(texts)
            own_spent = {name: min(value, own_spent.get(name, value)) for name, value in own_seconds.items()}
    size = sum(len(text.encode()) for text in texts) / 1e6
    number = len(texts)
    print(f"{number} English pages, {size:.1f} MB")
    print(f"{'':<20} {'datatrove':>10} {'crawl2chat':>11} {'ratio':>7} {'rejected':>9} {'rejected':>9} {'agree':>7}   texts/s")
    print(f"{WORDS:<20} {'':>10} {number / own_spent[WORDS]:>11,.0f}")
    both = numpy.ones((2, number), bool)
    for name in GROUPS:
        theirs, mine = numpy.array(verdicts[name]), numpy.array(passes[name])
        both &= (theirs, mine)
        print(_row(name, number, spent[name], own_spent[name], theirs, mine))
    whole = sum(own_spent.values())
    print(_row("in all", number, sum(spent.values()), whole, *both))
    print(f"{'in all, MB/s':<20} {size / sum(spent.values()):>10.2f} {size / whole:>11.2f}")


def _row(name: str, number: int, seconds: float, own: float, theirs: Any, mine: Any) -> str:
    rejected = f"{1 - theirs.mean():>9.1%} {1 - mine.mean():>9.1%} {(theirs == mine).mean():>7.1%}"
    return f"{name:<20} {number / seconds:>10,.0f} {number / own:>11,.0f} {seconds / own:>7.1f} {rejected}"


if __name__ == "__main__":
    main()
