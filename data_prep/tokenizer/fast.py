"""The fast encoder: gigatoken, with the ids of sentencepiece, an order of magnitude sooner.

gigatoken cuts text where no learned piece reaches across (before runs of spaces) and remembers the ids of every unit it has met. It is
never trusted: `Tokenizer.verified` compares it with sentencepiece on the texts at hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizer.encoder import SentencePieceCodec
from data_prep.tokenizer.training import SPACE_MARK
from data_prep.tokenizer.vocabulary import merges, pieces

NEWLINE = "\n"
REMEMBERED_BYTES = 128 << 20  # of text, then it begins anew: its own limit lets it grow beyond a gigabyte


def fast_encoder(model: bytes) -> bytes:
    """The vocabulary of a model that `train` made in the form gigatoken reads: the content of `encoder.json`.

    It is a `tokenizer.json` of a byte-fallback BPE over sentencepiece's own pieces. Newline, a piece in no merge, is declared an
    added token, so that text is cut there as well. Control tokens are not: spelled in text, they are text.
    """
    vocabulary, scores = pieces(model)
    newline = {"id": vocabulary[NEWLINE], "content": NEWLINE, "special": False, "normalized": False}
    backend = {
        "version": "1.0",
        "added_tokens": [newline | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK},
        "model": {"type": "BPE", "byte_fallback": True, "vocab": vocabulary, "merges": merges(vocabulary, scores)},
    }
    absent = dict.fromkeys(("truncation", "padding", "pre_tokenizer", "post_processor", "decoder"))
    return json.dumps(backend | absent, ensure_ascii=False).encode()


class GigatokenCodec:
    """Encodes with gigatoken, decodes with sentencepiece."""

    name = "gigatoken"

    def __init__(self, reference: SentencePieceCodec, encoder: bytes) -> None:
        """`reference` is the codec of the same model, `encoder` what `fast_encoder` gave. Raises ValueError for other content."""
        self._encoder = encoder
        self._forget()
        self._reference = reference
        self.vocab_size, self.control = reference.vocab_size, reference.control
        self._space_mark = np.array(reference.byte_ids(SPACE_MARK), np.uint32)

    def _forget(self) -> None:
        from gigatoken.gigatoken_rs import load_hf_json

        try:
            self._backend: Any = load_hf_json(self._encoder)
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from error
        self._bytes = 0

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return [self._spliced(text) if SPACE_MARK in text else self._encoded(text) for text in texts]

    def _encoded(self, text: str) -> NDArray[np.uint32]:
        # one by one: the library's own batch call starts a thread for every core, and its serial form remembers nothing
        content = text.encode()
        self._bytes += len(content)
        if self._bytes > REMEMBERED_BYTES:
            self._forget()
        ids: NDArray[np.uint32] = self._backend.encode(content)
        return ids

    def _spliced(self, text: str) -> NDArray[np.uint32]:
        """Around a literal U+2581, which is the sign for a space to the model, and has the ids of its bytes here."""
        first, *others = map(self._encoded, text.split(SPACE_MARK))
        return np.concatenate([first, *(part for other in others for part in (self._space_mark, other))])

    def decode(self, ids: Sequence[int]) -> str:
        return self._reference.decode(ids)
