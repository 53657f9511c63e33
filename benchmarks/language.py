"""Language of texts in thirty languages: accuracy and speed of this project's identification and of its model alone.

    python -m benchmarks.language [--data ../shared/data] [--repeats 3]

Sentences of one language are joined until they have 200 characters, in the order of the file; what is left over at the end is no
text. The model alone is what datatrove and FineWeb ask: fastText's lid.176 on the whole text, its first answer. Speed is texts a second
of CPU time, from the text on (cutting it into words included), the sides in turn, the best of several repeats.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_prep.function_words import find
from data_prep.language import _model, identify_all
from data_prep.segment import batches, segment

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CHARACTERS = 200
# ISO 639-3 of the sentences → the model's codes: thirty languages that much of the web is written in.
CODES = {
    "eng": "en", "deu": "de", "fra": "fr", "spa": "es", "ita": "it", "por": "pt", "nld": "nl", "rus": "ru", "jpn": "ja", "kor": "ko",
    "cmn": "zh", "ara": "ar", "pol": "pl", "tur": "tr", "swe": "sv", "fin": "fi", "ell": "el", "heb": "he", "tha": "th", "vie": "vi",
    "ces": "cs", "ind": "id", "ukr": "uk", "hun": "hu", "ron": "ro", "dan": "da", "nob": "no", "pes": "fa", "hin": "hi", "ben": "bn",
}  # fmt: skip


def read_texts(data: Path) -> list[tuple[str, str]]:
    """(the model's code, text) of all texts."""
    waiting: dict[str, list[str]] = {}
    found = []
    with gzip.open(data / "langid" / "tatoeba_sentences.jsonl.gz", "rt", encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            if row["lang"] in CODES:
                sentences = waiting.setdefault(row["lang"], [])
                sentences.append(row["text"])
                if sum(map(len, sentences)) >= CHARACTERS:
                    found.append((CODES[row["lang"]], " ".join(sentences)))
                    sentences.clear()
    return found


def ours(texts: Sequence[str]) -> list[str]:
    found: list[str] = []
    for group in batches(texts):
        cut = segment(group)
        found += [code for code, _ in identify_all(cut, find(cut))]
    return found


def model_alone(texts: Sequence[str]) -> list[str]:
    predict = _model().predict
    return [predict(text.replace("\n", " "))[0][0].removeprefix("__label__") for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of test data: langid/")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    labelled = read_texts(options.data)
    texts = [text for _, text in labelled]
    number = Counter(code for code, _ in labelled)
    sides = {"crawl2chat": ours, "model alone": model_alone}
    fastest = dict.fromkeys(sides, float("inf"))
    answers: dict[str, list[str]] = {}
    for side, identify in sides.items():
        answers[side] = identify(texts)
    for _ in range(options.repeats):
        for side, identify in sides.items():
            begun = time.process_time()
            identify(texts)
            fastest[side] = min(fastest[side], time.process_time() - begun)
    right = {
        side: Counter(code for (code, _), answer in zip(labelled, found, strict=True) if code == answer) for side, found in answers.items()
    }
    print(f"{'':<26} {'texts':>6} " + " ".join(f"{side:>12}" for side in sides))
    for code in sorted(number, key=lambda one: min(right[side][one] / number[one] for side in sides)):
        shares = [right[side][code] / number[code] for side in sides]
        if min(shares) < 1:
            print(f"{code:<26} {number[code]:>6} " + " ".join(f"{share:>12.4f}" for share in shares))
    every = sum(all(right[side][code] == number[code] for side in sides) for code in number)
    print(f"{f'the other {every}':<26} {'':>6} " + " ".join(f"{1:>12.4f}" for _ in sides))
    print(
        f"{'mean of the languages':<26} {len(texts):>6} "
        + " ".join(f"{sum(right[s][c] / number[c] for c in number) / len(number):>12.4f}" for s in sides)
    )
    print(f"{'texts/s':<26} {'':>6} " + " ".join(f"{len(texts) / fastest[side]:>12,.0f}" for side in sides))


if __name__ == "__main__":
    main()
