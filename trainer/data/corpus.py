"""A corpus of token shards, and what is wrong with it before a training begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.token_shards import TokenShard, count_tokens, open_shards
from pipeline.stage import File, UserError, hashed

LOOKED_AT = 16  # places of a shard whose ids are looked at
STRETCH = 4_096  # tokens at each


@dataclass(frozen=True)
class Corpus:
    """The files of a corpus.

    role        what its numbers are called
    train       shards that are trained on; none where it is only validated on
    validation  shards that are held out
    tables      for each unit of validation shards the table that names its documents
    plans       the packing of each training shard, in their order; none: documents are laid end to end
    """

    role: str
    train: tuple[File, ...]
    validation: tuple[File, ...] = ()
    tables: tuple[File, ...] = ()
    plans: tuple[File, ...] = ()

    def tokens(self) -> int:
        return count_tokens(self.train)

    def places(self, length: int) -> int:
        """Tokens of an epoch together with its padding, in rows of `length` tokens."""
        return length * sum(plan.records for plan in self.plans) if self.plans else self.tokens()


def require_whole(files: Sequence[File], where: str) -> None:
    """Raise UserError for a file that is gone or not the one that was published, by size or hash. `where` names the corpus."""
    for file in files:
        path = Path(file.path)
        if not path.is_file():
            raise UserError(_trouble(file, where, "is missing"))
        if path.stat().st_size != file.bytes:
            raise UserError(_trouble(file, where, f"has {path.stat().st_size:,} bytes, {file.bytes:,} when it was made"))
    for file, found in zip(files, hashed({file.path: file.path for file in files}), strict=True):
        if found.sha256 != file.sha256:
            raise UserError(_trouble(file, where, "is not the file that was made"))


def _trouble(file: File, where: str, what: str) -> str:
    return f"{where}: {file.name} {what} ({file.path}): put it back, or remove it and run force=[…] for the stage that made it"


def require_ids(files: Sequence[File], vocab_size: int, where: str) -> None:
    """Raise UserError where one of the ids looked at, some of each shard, is not below `vocab_size`."""
    names = [file.name for file in files if file.name.endswith(".bin")]
    for name, shard in zip(names, open_shards(files), strict=True):
        highest = _highest(shard)
        if highest >= vocab_size:
            raise UserError(
                f"{where}: {name} holds the id {highest}, the vocabulary has {vocab_size} tokens: "
                "tokenize it with the tokenizer of the model"
            )


def _highest(shard: TokenShard) -> int:
    """The highest id of some stretches spread evenly over a shard."""
    starts = np.unique(np.linspace(0, max(0, len(shard.tokens) - STRETCH), LOOKED_AT).astype(np.int64))
    return max(int(shard.tokens[start : start + STRETCH].max(initial=0)) for start in starts)
