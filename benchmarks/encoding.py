"""How fast text becomes ids, on one core: this project's tokenizer beside the libraries that read its files.

    python -m benchmarks.encoding ../shared/data [--vocab-size 100277] [--repeats 2]

A vocabulary is trained on a third of real pages and books and measured on the rest. Every encoder starts fresh in each repeat and sees
each text once, so that nothing it remembers was made by the measurement itself; of the repeats the fastest counts. Speeds are bytes
of UTF-8 for each second of CPU time. `identical` compares all ids with those of sentencepiece. kitoken is measured where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import lzma
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.decode import decode_html
from data_prep.extract import extract
from data_prep.sources import Page
from data_prep.sources.warc import read_warc
from data_prep.tokenizer import Tokenizer, export, fast_encoder, train
from data_prep.tokenizer.sampling import beginning

Encoder = Callable[[Sequence[str]], Sequence[Any]]
FIRST_BYTES, BOOK_BYTES = 2_000_000, 5_000_000


def pages(data: Path) -> list[str]:
    """Main texts of real pages in many languages."""
    found = []
    for file in sorted((data / "web").glob("pages-*.warc.gz")):
        for outcome in read_warc(str(file), 32 << 20):
            if isinstance(outcome, Page):
                found.append(extract(decode_html(outcome.body, outcome.charset)).text)
    return found


def books(data: Path) -> list[str]:
    """Chapters' worth of English prose."""
    import json

    with lzma.open(data / "text/gutenberg_children.jsonl.xz", "rt") as stream:
        texts = [json.loads(line)["text"] for line in stream]
    return [text[at : at + 6_000] for text in texts for at in range(0, len(text), 6_000)]


def divided(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts to train on and others to measure on. A literal U+2581, which sentencepiece cannot tell from a space, is left out."""
    known = [text for text in texts if text and "\u2581" not in text]
    return known[::3], [text for number, text in enumerate(known) if number % 3]


def encoders(model: bytes) -> dict[str, Callable[[], Encoder]]:
    """By name what makes a fresh encoder. Loading is not timed."""

    def sentencepiece() -> Encoder:
        import sentencepiece

        processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
        return lambda texts: processor.encode(texts, num_threads=1)

    def hugging_face() -> Encoder:
        import tokenizers

        backend = tokenizers.Tokenizer.from_str(exported)
        return lambda texts: [entry.ids for entry in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def kitoken() -> Encoder:
        from kitoken import Kitoken

        encode: Encoder = Kitoken.from_sentencepiece(model).encode_all
        return encode

    def own(arrays: bool) -> Encoder:
        tokenizer = Tokenizer.from_model(model, encoder)
        return tokenizer.encode_arrays if arrays else tokenizer.encode_batch

    exported, encoder = export(model)["tokenizer.json"].decode(), fast_encoder(model)
    made: dict[str, Callable[[], Encoder]] = {
        "sentencepiece": sentencepiece,
        "tokenizers": hugging_face,
        "Tokenizer on sentencepiece": lambda: Tokenizer.from_model(model).encode_arrays,
        "Tokenizer.encode_batch": lambda: own(arrays=False),
        "Tokenizer.encode_arrays": lambda: own(arrays=True),
    }
    if importlib.util.find_spec("kitoken"):
        made["kitoken"] = kitoken
    return made


def measured(make: Callable[[], Encoder], parts: Sequence[list[str]], repeats: int) -> tuple[list[float], list[Any]]:
    """Best MB/s of each part, encoded one after the other by the same encoder, and all ids."""
    best = [0.0] * len(parts)
    ids: list[Any] = []
    for _ in range(repeats):
        encode, ids = make(), []
        for place, texts in enumerate(parts):
            size = sum(len(text.encode()) for text in texts)
            begun = time.process_time()
            ids += encode(texts)
            best[place] = max(best[place], size / 1e6 / (time.process_time() - begun))
    return best, ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path, help="folder of real data: web/ and text/")
    parser.add_argument("--vocab-size", type=int, default=100_277)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    (train_pages, new_pages), (train_books, new_books) = divided(pages(options.data)), divided(books(options.data))
    model = train([*train_pages, *train_books], options.vocab_size)
    first = len(beginning(new_pages, FIRST_BYTES))
    parts = [new_pages[:first], new_pages[first:], beginning(new_books, BOOK_BYTES)]
    made = encoders(model)
    results = {name: measured(make, parts, options.repeats) for name, make in made.items()}
    reference = results["sentencepiece"][1]
    sizes = [sum(len(text.encode()) for text in texts) / 1e6 for texts in parts]
    print(f"vocabulary of {options.vocab_size:,}; MB/s a core; pages {sizes[0]:.1f} + {sizes[1]:.1f} MB, books {sizes[2]:.1f} MB")
    print(f"{'encoder':<28}{'first pages':>12}{'more pages':>12}{'books':>9}{'× sentencepiece':>17}  identical")
    for name, (speeds, ids) in results.items():
        ratio = np.mean([ours / theirs for ours, theirs in zip(speeds, results["sentencepiece"][0], strict=True)])
        same = all(np.array_equal(a, b) for a, b in zip(ids, reference, strict=True))
        print(f"{name:<28}{speeds[0]:>12.1f}{speeds[1]:>12.1f}{speeds[2]:>9.1f}{ratio:>17.1f}  {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()
