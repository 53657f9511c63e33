"""How many tokens a language costs: the table that tells a vocabulary good for one language from one good for many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from data_prep.segment import segment
from data_prep.tokenizer.encoder import Tokenizer
from data_prep.tokenizer.sampling import Text

MEASURED_BYTES = 100_000  # of each language: two digits of a ratio, in a fraction of a second


@dataclass(frozen=True, slots=True)
class Fertility:
    """One language. A word is a word of `data_prep.segment` with a letter or digit (one character where words have no spaces).

    held_out  whether the texts are others than the tokenizer was trained on
    """

    language: str
    documents: int
    bytes: int
    words: int
    tokens: int
    held_out: bool

    def row(self) -> dict[str, str | int | float | bool | None]:
        """All of it as plain JSON values with the two ratios, None where there is nothing to divide by."""
        ratios = {
            "tokens_per_word": round(self.tokens / self.words, 4) if self.words else None,
            "bytes_per_token": round(self.bytes / self.tokens, 4) if self.tokens else None,
        }
        counted = {name: getattr(self, name) for name in ("language", "documents", "bytes", "words", "tokens")}
        return counted | ratios | {"held_out": self.held_out}


def fertility(tokenizer: Tokenizer, held_out: Iterable[Text], trained_on: Iterable[Text]) -> list[Fertility]:
    """Every language of the texts, by code: measured on the held-out ones, and on the others where a language has none of those."""
    measured: dict[str, Fertility] = {}
    for texts, fresh in ((held_out, True), (trained_on, False)):
        for text in texts:
            known = measured.get(text.language, Fertility(text.language, 0, 0, 0, 0, fresh))
            if known.bytes >= MEASURED_BYTES or known.held_out != fresh:
                continue
            measured[text.language] = Fertility(
                text.language,
                known.documents + 1,
                known.bytes + len(text.text.encode()),
                known.words + int((~segment([text.text]).symbols).sum()),
                known.tokens + len(tokenizer.encode_arrays([text.text])[0]),
                fresh,
            )
    return [measured[language] for language in sorted(measured)]
