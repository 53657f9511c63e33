"""The two trainings on next-token prediction: pretraining on token shards, fine-tuning on conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from data_prep.token_shards import open_shards, read_index
from data_prep.tokenizer import Tokenizer
from pipeline.stage import UserError
from trainer.data.chat import ChatFormat
from trainer.data.corpus import Corpus
from trainer.data.mixture import Index, MixedIndex, Mixture
from trainer.data.packing import PackedIndex
from trainer.data.records import read_records
from trainer.data.sample_index import (
    Rows,
    SampleIndex,
    Segment,
    document_segments,
    keyed_permutation,
    pack,
    padded,
    row_numbers,
)
from trainer.objectives.language_model import TokenBatch, routed_tokens, scored_tokens, text_bits, token_counts
from trainer.tasks.questions import AskedBatch, Quiz, asked_counts, asked_terms
from trainer.tasks.task import Place, Task, Term

if TYPE_CHECKING:
    from trainer.model.transformer import Transformer


SHOWN_TEXTS, SHOWN_PROMPT, SHOWN_TOKENS = 3, 16, 48


@dataclass(frozen=True)
class Beside:
    """Weights of what is trained beside the loss: see `trainer.stages.PretrainParams`. `routers`: whether the model has any."""

    z_loss: float = 0.0
    routers: bool = False
    balance: float = 0.0
    router_z: float = 0.0


class NextToken(Task):
    """Counts and terms of a batch of tokens; validation batches that know their bytes give bits per byte as well."""

    beside = Beside()  # what is trained beside the loss
    sequence_length: int

    def row_tokens(self) -> int:
        return self.sequence_length

    def counts(self, batch: TokenBatch) -> Mapping[str, float]:
        return {**token_counts(batch), **({"routed": routed_tokens(batch)} if self.beside.routers else {})}

    def terms(self, model: Transformer, batch: TokenBatch) -> Mapping[str, Term]:
        losses, normalisers, targets = scored_tokens(model, batch)
        terms = {"loss": Term(losses.sum(), "tokens")}
        if self.beside.z_loss:
            terms["z_loss"] = Term((normalisers**2).sum(), "tokens", self.beside.z_loss)
        if self.beside.routers and model.routing is not None:
            from trainer.model.moe import balance_loss, router_z_loss

            terms["balance"] = Term(balance_loss(model.routing), "routed", self.beside.balance)
            terms["router_z"] = Term(router_z_loss(model.routing), "routed", self.beside.router_z)
        if batch.text_bytes is not None:
            terms["bits_per_byte"] = Term(text_bits(losses, targets, batch.end_id), "bytes", weight=0.0)
        return terms


@dataclass(frozen=True)
class HeldOut:
    """A validation batch of one of several corpora."""

    role: str
    batch: TokenBatch


@dataclass
class Pretraining(NextToken):
    """Rows out of token shards.

    corpora            what is read; with several, validation has the numbers of each beside those of all
    tokenizer          directory of the tokenizer, to show what the model writes
    mixture            of the corpora that have training shards, in their order; None: their documents are as of one corpus
    rows_per_step      rows of the global batch, each of `sequence_length` tokens
    validation_tokens  documents of each corpus are taken for validation, in a keyed order, until they have so many tokens
    quiz               questions asked at every validation

    The batch of a step follows from the shards, the seed, the mixture, the step's number, and the rows that are skipped.
    """

    corpora: tuple[Corpus, ...]
    end_id: int
    sequence_length: int
    rows_per_step: int
    validation_tokens: int
    seed: int
    mixture: Mixture | None = None
    tokenizer: str = ""
    beside: Beside = Beside()
    quiz: Quiz | None = None

    def start(self, place: Place, model: Transformer) -> None:
        self._place = place
        self._vocab_size = model.config.vocab_size
        self._skipped: list[int] = []
        self._trained = [corpus for corpus in self.corpora if corpus.train]
        together = [self._trained] if self.mixture is None else [[corpus] for corpus in self._trained]
        self._indexes = [self._index(corpora) for corpora in together if corpora]
        self._beginnings: list[list[int]] = []
        self._validation: list[TokenBatch | HeldOut | AskedBatch] = [
            *(batch for corpus in self.corpora for batch in self._held_out(corpus)),
            *(self.quiz.batches(place, model) if self.quiz else ()),
        ]

    def skip(self, rows: Sequence[int]) -> None:
        """From now on these rows, and no others, belong to no batch. Batches that came before the first of them are unchanged."""
        self._skipped = sorted({*rows})

    def sample_numbers(self, step: int) -> list[int]:
        """The numbers of the rows in the step's global batch, in its order; rank r of n reads every n-th from the r-th on."""
        return row_numbers(step, self.rows_per_step, self._skipped)

    def data_digest(self, steps: int, skipped: Sequence[int]) -> str:
        """What the first `steps` batches follow from that may change when max_steps does, with these rows skipped."""
        rows = row_numbers(steps - 1, self.rows_per_step, sorted({*skipped}))[-1] + 1 if steps else 0
        return sha256(b"").hexdigest() if self.mixture is None else self.mixture.digest(rows)

    def position(self, step: int) -> dict[str, float]:
        """How far the data are before this step: epochs, of each corpus in a mixture, and the phase of that."""
        row = self.sample_numbers(step)[0]
        if self.mixture is None:
            return {"epoch": row / self._indexes[0].rows_per_epoch}
        counts = zip(self._trained, self._indexes, self.mixture.counts(row), strict=True)
        return {f"{corpus.role}_epoch": rows / index.rows_per_epoch for corpus, index, rows in counts} | {"phase": self.mixture.phase(row)}

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        rows = self._read(self.sample_numbers(step)[self._place.rank :: self._place.world])
        if len(rows):
            self._require_known(f"step {step + 1}", max(rows.inputs.max(), rows.targets.max()))
        size = self._place.micro_batch
        return [TokenBatch.of(rows.take(slice(at, at + size)), self._place.device) for at in range(0, len(rows), size)]

    def _require_known(self, where: str, highest: int) -> None:
        if highest >= self._vocab_size:
            raise UserError(
                f"{where}: a token shard holds the id {highest}, the vocabulary has {self._vocab_size} tokens: "
                "tokenize it with the tokenizer of the model"
            )

    def show(self, model: Transformer) -> str:
        """How the model goes on from the beginnings of held-out documents, always with the likeliest token."""
        from trainer.inference.generator import generate
        from trainer.inference.sampling import Sampling

        tokenizer = Tokenizer.load(self.tokenizer)
        prompts = self._beginnings[:SHOWN_TEXTS]
        room = min(SHOWN_TOKENS, model.config.max_position_embeddings - SHOWN_PROMPT)
        completions = generate(model, prompts, [0] * len(prompts), stop_ids={self.end_id}, max_new_tokens=room, sampling=Sampling(0.0))
        pairs = zip(prompts, completions, strict=True)
        return "\n".join(f"{tokenizer.decode(prompt)!r} -> {tokenizer.decode(completion.text_ids())!r}" for prompt, completion in pairs)

    def validation_batches(self) -> Sequence[TokenBatch | HeldOut | AskedBatch]:
        return self._validation

    def counts(self, batch: TokenBatch | HeldOut | AskedBatch) -> Mapping[str, float]:
        if isinstance(batch, AskedBatch):
            return asked_counts(batch)
        if isinstance(batch, TokenBatch):
            return super().counts(batch)
        counts = super().counts(batch.batch)
        by_role = {
            f"{corpus.role}_{name}": value * (corpus.role == batch.role) for corpus in self.corpora for name, value in counts.items()
        }
        return {**counts, **by_role}

    def terms(self, model: Transformer, batch: TokenBatch | HeldOut | AskedBatch) -> Mapping[str, Term]:
        if isinstance(batch, AskedBatch):
            return asked_terms(model, batch)
        if isinstance(batch, TokenBatch):
            return super().terms(model, batch)
        terms = super().terms(model, batch.batch)
        by_role = {
            f"{corpus.role}_{name}": Term(term.numerator * (corpus.role == batch.role), f"{corpus.role}_{term.denominator}", weight=0.0)
            for corpus in self.corpora
            for name, term in terms.items()
        }
        return {**terms, **by_role}

    def _read(self, numbers: Sequence[int]) -> Rows:
        if self.mixture is None:
            return self._indexes[0].rows(numbers)
        return MixedIndex(self._indexes, self.mixture, self.sequence_length).rows(numbers)

    def _index(self, corpora: Sequence[Corpus]) -> Index:
        shards = [shard for corpus in corpora for shard in open_shards(corpus.train)]
        plans = [plan.path for corpus in corpora for plan in corpus.plans]
        if plans:
            return PackedIndex(shards, plans, end_id=self.end_id, length=self.sequence_length, seed=self.seed)
        return SampleIndex(shards, end_id=self.end_id, length=self.sequence_length, seed=self.seed)

    def _held_out(self, corpus: Corpus) -> Sequence[TokenBatch | HeldOut]:
        """The corpus' validation batches; they know the bytes of their text."""
        if not self.validation_tokens:
            return []
        shards = open_shards(corpus.validation)
        sizes = [row.bytes for table in corpus.tables for row in read_index(table.path) if row.split == "validation"]
        documents = [(shard, number) for shard in shards for number in range(len(shard))]
        if len(sizes) != len(documents):
            raise UserError(
                f"{corpus.role}: its validation shards hold {len(documents):,} documents, their tables name {len(sizes):,}: "
                "tokenize it again"
            )
        segments: list[Segment] = []
        tokens = text_bytes = 0
        for chosen in keyed_permutation(len(documents), self.seed):
            if tokens >= self.validation_tokens:
                break
            shard, number = documents[chosen]
            document = shard.document(number)
            self._require_known("validation", document.max(initial=0))
            segments += document_segments(document, self.end_id, self.sequence_length)
            tokens += len(document)
            text_bytes += sizes[chosen]
        self._beginnings += [segment.inputs[:SHOWN_PROMPT].tolist() for segment in segments[:SHOWN_TEXTS]]
        batches = _batches(segments, self.sequence_length, self._place, text_bytes, self.end_id)
        return batches if len(self.corpora) == 1 else [HeldOut(corpus.role, batch) for batch in batches]


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
    width = length if place.device.type == "cuda" else 0  # attention on GPUs is compiled for each width
    parts = [padded(rows[at : at + place.micro_batch], width) for at in range(0, len(rows), place.micro_batch)]
    shares = [text_bytes, *([None if text_bytes is None else 0] * (len(parts) - 1))]
    return [TokenBatch.of(part, place.device, share, end_id) for part, share in zip(parts, shares, strict=False)]
