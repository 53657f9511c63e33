"""The Hugging Face form of a tokenizer: `tokenizer.json` and the small files beside it, with the same ids as the model file.

transformers parses a control token spelled in text as that token, unless it is called with `split_special_tokens=True`; only then
are its ids those of `Tokenizer.encode` for such text. It is left at its default here because `apply_chat_template` relies on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from data_prep.tokenizer.control import CONTROL_TOKENS, END_OF_DOCUMENT, OWN_CHAT, PAD
from data_prep.tokenizer.encoder import CONFIG, HUGGING_FACE, HuggingFaceCodec, SentencePieceCodec
from data_prep.tokenizer.training import SPACE_MARK
from data_prep.tokenizer.vocabulary import merges, pieces


def export(model: bytes) -> dict[str, bytes]:
    """The files that let transformers load the tokenizer of a sentencepiece model made by `train`: contents by name."""
    processor = SentencePieceCodec(model)
    control = {token: processor.control[token] for token in CONTROL_TOKENS}
    return {
        HUGGING_FACE: tokenizer_json(model).encode(),
        CONFIG: _json(_config(control)),
        "special_tokens_map.json": _json(_special_tokens()),
        "chat_template.jinja": OWN_CHAT.template().encode(),
    }


def tokenizer_json(model: bytes) -> str:
    """A byte-fallback BPE whose merges reproduce sentencepiece's choices.

    Pieces are written with real spaces: a literal U+2581 is then in no piece and falls back to its bytes, as `Tokenizer` encodes
    it, and neither normaliser nor decoder has anything to replace.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models

    marked, scored = pieces(model)
    vocabulary = {piece.replace(SPACE_MARK, " "): number for piece, number in marked.items()}
    scores = {piece.replace(SPACE_MARK, " "): score for piece, score in scored.items()}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges(vocabulary, scores), byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    return str(backend.to_str(pretty=True))


CHECKED_BYTES = 2_000_000


@dataclass(frozen=True)
class Checked:
    """How much text the check covered: UTF-8 bytes and the tokens they became."""

    bytes: int
    tokens: int


def check_export(model: bytes, exported: str, texts: Iterable[str]) -> Checked:
    """Encode texts (the first 2 MB of them) with sentencepiece, with `Tokenizer` and with the exported `tokenizer.json`.

    Raises RuntimeError, quoting the text, where the ids are not the same: such a tokenizer must not be published.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours, theirs = SentencePieceCodec(model), HuggingFaceCodec(exported)
    size = tokens = 0
    for text in texts:
        ids, others = (codec.encode_batch([text])[0].tolist() for codec in (ours, theirs))
        # sentencepiece itself cannot tell a literal U+2581 from a space.
        if ids != others or (SPACE_MARK not in text and ids != processor.encode(text)):
            raise RuntimeError(f"the exported tokenizer gives other ids than sentencepiece for {text[:200]!r}")
        size, tokens = size + len(text.encode()), tokens + len(ids)
        if size >= CHECKED_BYTES:
            break
    return Checked(size, tokens)


def _config(control: dict[str, int]) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "added_tokens_decoder": {str(number): {"content": token, **flags} for token, number in control.items()},
        "chat_template": OWN_CHAT.template(),
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_special_tokens(),
    }


def _special_tokens() -> dict[str, Any]:
    others = [token for token in CONTROL_TOKENS if token not in (END_OF_DOCUMENT, PAD)]
    return {"additional_special_tokens": others, "eos_token": END_OF_DOCUMENT, "pad_token": PAD}


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
