"""Rows of real documents: how much padding each packing leaves, how many documents it cuts, and how fast best-fit plans are made.

    python -m benchmarks.packing [--data ../shared/data] [--vocab-size 16000] [--rows 512 2048 8192]

Lengths are those of web pages' main texts, news, stories and whole books under a vocabulary trained on a third of them. `padding` is the
share of the places in rows that hold no token. `cut` is the share of the documents that are in more pieces than their length demands,
which is one piece for what fits into a row. `packed/s` are documents drawn from these lengths, a million or as many as have 500 million
tokens, planned in windows of 65,536, for each second of CPU time, the best of two.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.encoding import divided, pages
from data_prep.tokenizer import Tokenizer, train
from trainer.data.packing import planned, rows_of
from trainer.data.sample_index import keyed_permutation

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MOST_DOCUMENTS, MOST_TOKENS = 1_000_000, 500_000_000
Lengths = NDArray[np.int64]


def texts(data: Path) -> dict[str, list[str]]:
    """Documents by kind."""
    import lzma

    with (
        gzip.open(data / "text/onestopenglish.jsonl.gz", "rt") as news,
        gzip.open(data / "text/tinystories_part.jsonl.gz", "rt") as stories,
    ):
        found = {"news": [json.loads(line)["text"] for line in news], "stories": [json.loads(line)["text"] for line in stories]}
    with lzma.open(data / "text/gutenberg_children.jsonl.xz", "rt") as books:
        found["books"] = [json.loads(line)["text"] for line in books]
    return {"pages": [text for text in pages(data) if text], **found}


def cut_end_to_end(lengths: Lengths, length: int) -> float:
    """The share of documents cut needlessly when all are laid end to end in keyed order."""
    order = keyed_permutation(len(lengths), 0, 0)
    ends = np.cumsum(lengths[order])
    pieces = (ends - 1) // length - (ends - lengths[order]) // length + 1
    return float((pieces > -(-lengths[order] // length)).mean())


def cut_best_fit(lengths: Lengths, plan: NDArray[np.uint32], length: int) -> float:
    """The same of a plan."""
    return float((np.bincount(plan[1], minlength=len(lengths)) > -(-lengths // length)).mean())


def per_second(lengths: Lengths, length: int) -> float:
    """Documents planned in a second of CPU time."""
    drawn = np.random.default_rng(0).choice(lengths, min(MOST_DOCUMENTS, int(MOST_TOKENS / lengths.mean())))
    times = []
    for _ in range(2):
        begun = time.process_time()
        planned(drawn, length)
        times.append(time.process_time() - begun)
    return len(drawn) / min(times)


def measured(kind: str, lengths: Lengths, rows: Sequence[int]) -> None:
    for length in rows:
        plan = planned(lengths, length)
        padding = 1 - lengths.sum() / (length * rows_of(plan))
        together = f"{len(lengths):>10,}{np.median(lengths):>8,.0f}{length:>8,}{(lengths > length).mean():>9.1%}"
        cut = f"{cut_end_to_end(lengths, length):>12.1%}{cut_best_fit(lengths, plan, length):>10.1%}"
        print(f"{kind:<9}{together}{0:>12.2%}{padding:>10.2%}{cut}{per_second(lengths, length):>12,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of real data: web/ and text/")
    parser.add_argument("--vocab-size", type=int, default=16_000)
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 2_048, 8_192], help="tokens of a row")
    options = parser.parse_args()
    kinds = texts(options.data)
    tokenizer = Tokenizer.from_model(train([text for found in kinds.values() for text in divided(found)[0]], options.vocab_size))
    print(f"{'':<44}{'padding':>22}{'cut':>22}")
    print(f"{'documents':<9}{'number':>10}{'median':>8}{'row':>8}{'longer':>9}{'end to end':>12}{'best fit':>10}", end="")
    print(f"{'end to end':>12}{'best fit':>10}{'packed/s':>12}")
    for kind, found in kinds.items():
        measured(kind, np.array([len(ids) + 1 for ids in tokenizer.encode_batch(found)]), options.rows)


if __name__ == "__main__":
    main()
