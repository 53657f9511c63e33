"""Training a lossless byte-pair vocabulary with sentencepiece (Sennrich et al. 2016; Kudo and Richardson 2018)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain

import sentencepiece

from data_prep.tokenizer.control import CONTROL_TOKENS, END_OF_DOCUMENT, PAD
from pipeline.stage import UserError

SPACE_MARK = "\u2581"  # sentencepiece's own sign for a space inside pieces
MAX_SENTENCE_BYTES = 65_536  # sentencepiece leaves longer sentences out
MAX_SENTENCE_CHARACTERS = MAX_SENTENCE_BYTES // 4


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """A sentencepiece BPE model of exactly `vocab_size` ids, as the bytes of its file.

    The same texts in the same order give the same bytes in every process. Ids: 0 unknown (never produced), then CONTROL_TOKENS,
    newline, the 256 bytes, then the learned pieces. Raises UserError if the texts cannot fill the vocabulary or do not fit in it.
    """
    sentences = _sentences(texts)
    first = next(sentences, None)
    if first is None:
        raise UserError("the corpus holds no text to train on: look at what the stages before it rejected")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chain([first], sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            # Nothing may be lost on the way in.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            # Arithmetic is learned digit by digit, so every digit needs an id, however rare in the sample.
            split_digits=True,
            required_chars="0123456789",
            user_defined_symbols=["\n"],
            unk_id=0,
            bos_id=-1,
            eos_id=1,
            eos_piece=END_OF_DOCUMENT,
            pad_id=2,
            pad_piece=PAD,
            control_symbols=[token for token in CONTROL_TOKENS if token not in (END_OF_DOCUMENT, PAD)],
            max_sentence_length=MAX_SENTENCE_BYTES,
            # Recorded in the model file, and so part of its bytes.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(error, vocab_size) from error
    return model.getvalue()


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Lines, cut where sentencepiece would leave them out or could learn nothing across the cut."""
    for text in texts:
        for part in re.split(f"[\n{SPACE_MARK}]+", text):
            while len(part) > MAX_SENTENCE_CHARACTERS:
                cut = part.rfind(" ", 1, MAX_SENTENCE_CHARACTERS)
                cut = cut if cut > 0 else MAX_SENTENCE_CHARACTERS
                yield part[:cut]
                part = part[cut:]
            if part:
                yield part


def _explained(error: RuntimeError, vocab_size: int) -> Exception:
    """The trainer's two complaints about the vocabulary's size in our words; any other error as it is."""
    if found := re.search(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)", str(error)):
        return UserError(f"this corpus is too small for vocab_size={vocab_size}: set vocab_size to at most {found[1]}, or give more text")
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
        return UserError(f"vocab_size={vocab_size} is too small for the characters of this corpus: set it to {found[1]} or more")
    return error
