"""The tokenizer as the rest of the project uses it: loaded from a directory, encoding text to ids and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizer.control import CONTROL_TOKENS, END_OF_DOCUMENT
from data_prep.tokenizer.training import SPACE_MARK
from pipeline.stage import UserError

MODEL, HUGGING_FACE, CONFIG, ENCODER = TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "encoder.json")
WORD = re.compile(f" *[^ \n{SPACE_MARK}]+| +|\n|{SPACE_MARK}")
REMEMBERED_CHARACTERS = 2_000_000  # a few hundred thousand words, well under 100 MB


class Codec(Protocol):
    """One library's way from text to ids and back. `control` holds the tokens that are no text, by name."""

    @property
    def name(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def control(self) -> Mapping[str, int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Tokenizer:
    """Text to ids and back. No text, whatever it spells, encodes to a control id.

    vocab_size  one more than the largest id
    eos_id      the end of a document
    control     control tokens by name, to be placed by id
    encoder     the library that encodes: gigatoken, sentencepiece or tokenizers

        >>> from data_prep.tokenizer import Tokenizer, train
        >>> tokenizer = Tokenizer.from_model(train(["so many words, so few of them new"] * 9, vocab_size=300))
        >>> tokenizer.decode(tokenizer.encode("new <|endoftext|> words ☃"))
        'new <|endoftext|> words ☃'
        >>> [len(ids) for ids in tokenizer.encode_batch(["", "so many"])]
        [0, 4]
    """

    def __init__(self, codec: Codec, eos_id: int, reference: Codec | None = None) -> None:
        """`reference` is the codec whose ids are right where those of `codec` should differ."""
        self._codec, self._reference = codec, reference
        self.eos_id = eos_id
        self.encoder = codec.name
        self.vocab_size = codec.vocab_size
        self.control = codec.control

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """This project's `tokenizer.model` in `directory`, or else anyone's Hugging Face `tokenizer.json` there.

        Where an `encoder.json` stands beside the model, the fast encoder is used; `verified` compares it with sentencepiece.
        Raises UserError if there is neither, if one is damaged, or if nothing tells how a document ends.
        """
        directory = Path(directory)
        if (directory / MODEL).is_file():
            try:
                codec = SentencePieceCodec((directory / MODEL).read_bytes())
            except RuntimeError as error:
                raise UserError(f"{directory / MODEL} is no sentencepiece model: build or copy it again") from error
            if set(CONTROL_TOKENS) <= set(codec.control):
                encoder = directory / ENCODER
                try:
                    return cls._own(codec, encoder.read_bytes() if encoder.is_file() else None)
                except ValueError as error:
                    raise UserError(f"{encoder} cannot be read ({str(error)[:200]}): build or copy it again, or remove it") from error
            # Other people's models add prefixes and tokens that only their tokenizer.json knows of.
        if not (directory / HUGGING_FACE).is_file():
            raise UserError(f"{directory} has no {HUGGING_FACE} and no {MODEL} with this project's control tokens: add one")
        return cls._from_hugging_face(directory)

    @classmethod
    def from_model(cls, model: bytes, encoder: bytes | None = None) -> Tokenizer:
        """The tokenizer of a model that `train` made, with the fast encoder that `fast_encoder` made of it or with sentencepiece."""
        return cls._own(SentencePieceCodec(model), encoder)

    @classmethod
    def _own(cls, reference: SentencePieceCodec, encoder: bytes | None) -> Tokenizer:
        eos_id = reference.control[END_OF_DOCUMENT]
        if encoder is None:
            return cls(reference, eos_id)
        from data_prep.tokenizer.fast import GigatokenCodec

        return cls(GigatokenCodec(reference, encoder), eos_id, reference)

    @classmethod
    def _from_hugging_face(cls, directory: Path) -> Tokenizer:
        path = directory / HUGGING_FACE
        try:
            codec = HuggingFaceCodec(path.read_text(encoding="utf-8"))
            config = json.loads((directory / CONFIG).read_text(encoding="utf-8")) if (directory / CONFIG).is_file() else {}
        except ValueError as error:
            raise UserError(f"{path} or its {CONFIG} cannot be read ({str(error)[:200]}): build or copy it again") from error
        named = config.get("eos_token")
        for token in (END_OF_DOCUMENT, named["content"] if isinstance(named, dict) else named):
            if token in codec.control:
                return cls(codec, codec.control[token])
        raise UserError(f'{path} has no end of document: name one of its special tokens as "eos_token" in {CONFIG}')

    def verified(self, texts: Sequence[str]) -> Tokenizer:
        """Itself if its encoder gives the ids of sentencepiece for these texts, and otherwise the same tokenizer on sentencepiece."""
        if self._reference is None:
            return self
        pairs = zip(self._codec.encode_batch(texts), self._reference.encode_batch(texts), strict=True)
        return self if all(np.array_equal(ours, theirs) for ours, theirs in pairs) else Tokenizer(self._reference, self.eos_id)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. Raises UnicodeEncodeError (TypeError from a Hugging Face tokenizer) for lone surrogates."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on one core: the same ids as `encode`, with less overhead."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of each text as an array [tokens] uint32: for what is written and not looked at."""
        return self._codec.encode_batch(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`: control tokens give none, bytes that are no valid UTF-8 give U+FFFD."""
        return self._codec.decode(ids)


class SentencePieceCodec:
    """A model that `train` made: decode(encode(text)) == text for any text.

    Learned pieces hold spaces at their beginning only and no newline, so the words between those points encode independently of
    each other. Most words of a text were met before: remembering their ids is several times faster than finding them again.
    """

    name = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._processor.get_piece_size()
        self.control = {
            self._processor.id_to_piece(number): number for number in range(self.vocab_size) if self._processor.is_control(number)
        }
        self._forget()

    def _forget(self) -> None:
        # sentencepiece writes spaces as U+2581 and so reads a literal U+2581 as a space. Its bytes say the character itself.
        self._words = {SPACE_MARK: self.byte_ids(SPACE_MARK)}
        self._characters = 0

    def byte_ids(self, text: str) -> list[int]:
        """The ids of the bytes of `text`."""
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in text.encode()]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        if self._characters > REMEMBERED_CHARACTERS:
            self._forget()
        split = [WORD.findall(text) for text in texts]
        new = list({word: None for words in split for word in words if word not in self._words})
        self._words.update(zip(new, self._processor.encode([word.encode() for word in new], num_threads=1), strict=True))
        self._characters += sum(map(len, new))
        return [np.array([*chain.from_iterable(map(self._words.__getitem__, words))], np.uint32) for words in split]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._processor.decode([int(number) for number in ids]))


class HuggingFaceCodec:
    """Any `tokenizer.json`. Its special tokens are the control tokens: never parsed out of text, never added by themselves."""

    name = "tokenizers"

    def __init__(self, content: str) -> None:
        import tokenizers

        try:
            self._backend: Any = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises bare Exception for content it cannot read
            raise ValueError(str(error)) from error
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True  # the library's name for: spelled in text, they are text
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        added = self._backend.get_added_tokens_decoder()
        self.control = {token.content: number for number, token in sorted(added.items()) if token.special}

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        # One by one: the library's own batch call starts a thread for every core of the machine.
        return [np.array(self._backend.encode(text, add_special_tokens=False).ids, np.uint32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode([int(number) for number in ids], skip_special_tokens=True))
