"""The two trainings on next-token prediction: pretraining on token shards, fine-tuning on conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_prep.token_shards import count_tokens, open_shards, read_index
from data_prep.tokenizer import Tokenizer
from pipeline.stage import File, UserError
from trainer.data.chat import ChatFormat
from trainer.data.mixture import MixedIndex, Mixture
from trainer.data.records import read_records
from trainer.data.sample_index import SampleIndex, Segment, document_segments, keyed_permutation, pack, padded
from trainer.loop import Place, Term
from trainer.objectives.language_model import TokenBatch, text_bits, token_counts, token_losses

if TYPE_CHECKING:
    from trainer.model.transformer import Transformer


class NextToken:
    """Counts and terms of a batch of tokens; validation batches that know their bytes give bits per byte as well."""

    def counts(self, batch: TokenBatch) -> Mapping[str, float]:
        return token_counts(batch)

    def terms(self, model: Transformer, batch: TokenBatch) -> Mapping[str, Term]:
        losses, targets = token_losses(model, batch)
        terms = {"loss": Term(losses.sum(), "tokens")}
        if batch.text_bytes is not None:
            terms["bits_per_byte"] = Term(text_bits(losses, targets, batch.end_id), "bytes", weight=0.0)
        return terms


@dataclass(frozen=True)
class Corpus:
    """One corpus of several: the files of its shards, its weight, and how often each of its tokens may be trained on (None: any)."""

    train: tuple[File, ...]
    weight: float
    max_epochs: float | None

    def max_rows(self, sequence_length: int) -> int | None:
        return None if self.max_epochs is None else int(self.max_epochs * count_tokens(self.train) / sequence_length)


def mixture_of(corpora: Sequence[Corpus], sequence_length: int) -> Mixture:
    """Which row of `sequence_length` tokens comes from which of the corpora."""
    return Mixture([corpus.weight for corpus in corpora], [corpus.max_rows(sequence_length) for corpus in corpora])


@dataclass
class Pretraining(NextToken):
    """Rows out of token shards.

    train              files of the shards of one corpus; of none where `corpora` are given
    validation         files of the shards that are held out
    tables             for each unit of validation shards the table that names its documents
    rows_per_step      rows of the global batch, each of `sequence_length` tokens
    validation_tokens  documents are taken for validation, in a keyed order, until they have so many tokens
    """

    train: tuple[File, ...]
    validation: tuple[File, ...]
    tables: tuple[File, ...]
    end_id: int
    sequence_length: int
    rows_per_step: int
    validation_tokens: int
    seed: int
    corpora: tuple[Corpus, ...] = ()

    def start(self, place: Place, model: Transformer) -> None:
        self._place = place
        self._index = self._mixed() if self.corpora else self._sampled(self.train)
        segments, text_bytes = self._held_out()
        self._validation = _batches(segments, self.sequence_length, place, text_bytes, self.end_id)

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        numbers = range(step * self.rows_per_step, (step + 1) * self.rows_per_step)[self._place.rank :: self._place.world]
        rows = self._index.rows(numbers)
        size = self._place.micro_batch
        return [TokenBatch.of(rows.take(slice(at, at + size)), self._place.device) for at in range(0, len(rows), size)]

    def validation_batches(self) -> list[TokenBatch]:
        return self._validation

    def _sampled(self, files: tuple[File, ...]) -> SampleIndex:
        return SampleIndex(open_shards(files), end_id=self.end_id, length=self.sequence_length, seed=self.seed)

    def _mixed(self) -> MixedIndex:
        indexes = [self._sampled(corpus.train) for corpus in self.corpora]
        return MixedIndex(indexes, mixture_of(self.corpora, self.sequence_length))

    def _held_out(self) -> tuple[list[Segment], int]:
        """The validation documents as segments, and the bytes of their text."""
        shards = open_shards(self.validation)
        sizes = [row.bytes for table in self.tables for row in read_index(table.path) if row.split == "validation"]
        documents = [(shard, number) for shard in shards for number in range(len(shard))]
        segments: list[Segment] = []
        tokens = text_bytes = 0
        for chosen in keyed_permutation(len(documents), self.seed):
            if tokens >= self.validation_tokens:
                break
            shard, number = documents[chosen]
            document = shard.document(number)
            segments += document_segments(document, self.end_id, self.sequence_length)
            tokens += len(document)
            text_bytes += sizes[chosen]
        return segments, text_bytes


@dataclass
class FineTuning(NextToken):
    """Conversations, of which the assistant's turns are trained.

    train, validation  JSON Lines files with a column `messages`
    tokenizer          directory of the tokenizer
    sequence_length    longest row, tokens; several conversations share one
    batch              conversations of a step
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    tokenizer: str
    sequence_length: int
    batch: int
    seed: int

    def start(self, place: Place, model: Transformer) -> None:
        self._place = place
        chat = ChatFormat(Tokenizer.load(self.tokenizer))
        self._train = self._segments(chat, self.train)
        self._validation = _batches(self._segments(chat, self.validation), self.sequence_length, place)

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        numbers = range(step * self.batch, (step + 1) * self.batch)
        chosen = [self._train[at] for at in epoch_places(numbers, len(self._train), self.seed)]
        # dealt in order of length, so that the ranks have equally much to do
        dealt = sorted(chosen, key=lambda segment: len(segment.inputs))[self._place.rank :: self._place.world]
        return _batches(dealt, self.sequence_length, self._place)

    def validation_batches(self) -> list[TokenBatch]:
        return self._validation

    def _segments(self, chat: ChatFormat, paths: Sequence[str]) -> list[Segment]:
        segments = []
        for path in paths:
            for number, record in enumerate(read_records([path], ["messages"]), start=1):
                where = f"{path}, row {number}"
                segment = chat.render(record["messages"], where).segment()
                if len(segment.inputs) > self.sequence_length:
                    raise UserError(
                        f"{where}: the conversation has {len(segment.inputs)} tokens, sequence_length is {self.sequence_length}: "
                        "raise it or remove the conversation"
                    )
                segments.append(segment)
        return segments


def epoch_places(numbers: Sequence[int], size: int, seed: int) -> list[int]:
    """Where the n-th item of an endless stream stands in a set of `size`: every epoch holds each item once, in an order
    keyed by seed and epoch."""
    orders = {epoch: keyed_permutation(size, seed, epoch) for epoch in sorted({number // size for number in numbers})}
    return [int(orders[number // size][number % size]) for number in numbers]


def _batches(segments: Sequence[Segment], length: int, place: Place, text_bytes: int | None = None, end_id: int = -1) -> list[TokenBatch]:
    """Segments packed into rows and those into micro-batches. `text_bytes`, of all segments, is counted with the first."""
    rows = pack(segments, length)
    parts = [padded(rows[at : at + place.micro_batch]) for at in range(0, len(rows), place.micro_batch)]
    shares = [text_bytes, *([None if text_bytes is None else 0] * (len(parts) - 1))]
    return [TokenBatch.of(part, place.device, share, end_id) for part, share in zip(parts, shares, strict=False)]
