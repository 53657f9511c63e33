"""The task of DPO: pairs in, the preference loss and its diagnosis out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data_prep.tokenizer import Tokenizer
from pipeline.stage import UserError
from trainer.data.chat import ChatFormat
from trainer.data.preferences import PairIds, Preference, answer_rows
from trainer.data.records import read_records
from trainer.engine import gathered
from trainer.objectives.answers import answer_log_probs
from trainer.objectives.dpo import PairLogProbs, likelihood_loss, margins, preference_loss
from trainer.tasks.language_model import epoch_places
from trainer.tasks.task import Place, Task, Term

if TYPE_CHECKING:
    from trainer.model.transformer import Transformer

# tokens the reference reads at once, where not one pair has more: constant, so that its rounding does not depend on ranks and micro-batches
REFERENCE_TOKENS = 1 << 13


@dataclass(frozen=True)
class PairBatch:
    """Pairs as one batch of 2n rows: the n chosen answers, then the n rejected ones."""

    ids: Tensor  # [2n, tokens]
    mask: Tensor  # [2n, tokens] bool: the answers
    reference: Tensor | None  # [2n] summed log-probabilities; None while they are being made

    @property
    def pairs(self) -> int:
        return len(self.ids) // 2


@dataclass
class PreferenceTask(Task):
    """Sigmoid DPO against the model the training begins with, whose log-probabilities are computed once, at the start.

    The pairs of a step follow from its number: every pair once in each pass, in an order of its own.

    train              JSON Lines files with `id`, `prompt`, `chosen`, `rejected`
    validation         the same; may be empty
    tokenizer          directory of the tokenizer
    batch              pairs of a step
    preference_weight  of the sigmoid loss; 0 leaves plain fine-tuning on the chosen answers
    beta               how strongly the reference holds the policy
    nll_weight         of the likelihood of the chosen answers
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    tokenizer: str
    batch: int
    preference_weight: float
    beta: float
    nll_weight: float
    seed: int

    def start(self, place: Place, model: Transformer) -> None:
        self._place = place
        tokenizer = Tokenizer.load(self.tokenizer)
        chat, self._pad = ChatFormat(tokenizer), tokenizer.eos_id
        context = model.config.max_position_embeddings
        self._pairs = {"train": load_pairs(self.train, chat, context), "validation": load_pairs(self.validation, chat, context)}
        self._reference = {name: self._score(model, pairs) for name, pairs in self._pairs.items()}

    def _score(self, model: Transformer, pairs: Sequence[PairIds]) -> Tensor:
        """Summed log-probabilities of the chosen and the rejected answers: [pairs, 2]. Each rank makes its share of them."""
        model.eval()
        scores, first = torch.zeros(len(pairs), 2, device=self._place.device), 0
        with gathered(model), torch.no_grad():
            for number, part in enumerate(within(REFERENCE_TOKENS, pairs)):
                if number % self._place.world == self._place.rank:
                    batch = self._batch(part, None)
                    scores[first : first + len(part)] = answer_log_probs(model, batch.ids, batch.mask).sum(1).view(2, -1).T
                first += len(part)
        if self._place.world > 1:
            torch.distributed.all_reduce(scores)
        return scores

    def _batch(self, pairs: Sequence[PairIds], reference: Tensor | None) -> PairBatch:
        rows = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
        ids, mask = answer_rows(rows, self._pad)
        flat = None if reference is None else reference.T.reshape(-1)
        return PairBatch(ids.to(self._place.device), mask.to(self._place.device), flat)

    def _batches(self, name: str, numbers: list[int]) -> list[PairBatch]:
        parts = [numbers[start : start + self._place.micro_batch] for start in range(0, len(numbers), self._place.micro_batch)]
        return [self._batch([self._pairs[name][number] for number in part], self._reference[name][part]) for part in parts]

    def _by_length(self, name: str, numbers: Sequence[int]) -> list[int]:
        return sorted(numbers, key=lambda number: self._pairs[name][number].length)

    def micro_batches(self, step: int, model: Transformer) -> list[PairBatch]:
        numbers = range(step * self.batch, (step + 1) * self.batch)
        chosen = self._by_length("train", epoch_places(numbers, len(self._pairs["train"]), self.seed))
        # dealt in order of length, so that the ranks have equally much to do
        return self._batches("train", chosen[self._place.rank :: self._place.world])

    def validation_batches(self) -> list[PairBatch]:
        return self._batches("validation", self._by_length("validation", range(len(self._pairs["validation"]))))

    def counts(self, batch: PairBatch) -> Mapping[str, float]:
        return {"pairs": batch.pairs}

    def terms(self, model: Transformer, batch: PairBatch) -> Mapping[str, Term]:
        assert batch.reference is not None
        chosen, rejected = answer_log_probs(model, batch.ids, batch.mask).sum(1).chunk(2)
        reference_chosen, reference_rejected = batch.reference.chunk(2)
        lengths = batch.mask.sum(1)[: batch.pairs]
        pairs = PairLogProbs(chosen, rejected, reference_chosen, reference_rejected, lengths)
        margin = margins(pairs)
        return {
            "preference": Term(preference_loss(pairs, self.beta).sum(), "pairs", self.preference_weight),
            "nll": Term(likelihood_loss(pairs).sum(), "pairs", self.nll_weight),
            "accuracy": Term((margin > 0).float().sum(), "pairs", 0.0),
            "margin": Term(margin.sum(), "pairs", 0.0),
            "chosen_drift": Term((chosen - reference_chosen).sum(), "pairs", 0.0),
            "rejected_drift": Term((rejected - reference_rejected).sum(), "pairs", 0.0),
        }


def within(tokens: int, pairs: Sequence[PairIds]) -> Iterator[Sequence[PairIds]]:
    """The pairs in order, cut into parts whose padded rows have no more tokens than that; a longer pair is a part of its own."""
    start = longest = 0
    for place, pair in enumerate(pairs):
        longest = max(longest, pair.length)
        if place > start and 2 * (place + 1 - start) * longest > tokens:
            yield pairs[start:place]
            start, longest = place, pair.length
    if pairs:
        yield pairs[start:]


def load_pairs(paths: Sequence[str], chat: ChatFormat, context: int) -> list[PairIds]:
    """The pairs of preference files as ids. Raises UserError for a broken row, or a pair longer than the model's context."""
    pairs = []
    for path in paths:
        for number, row in enumerate(read_records([path], ["id", "prompt", "chosen", "rejected"]), start=1):
            where = f"{path}, row {number}"
            pair = render_pair(Preference.from_row(row, where), chat, where)
            if pair.length > context:
                raise UserError(f"{where}: {pair.length} tokens do not fit the model's context of {context}; shorten or remove it")
            pairs.append(pair)
    return pairs


def render_pair(preference: Preference, chat: ChatFormat, where: str) -> PairIds:
    """One renderer: an answer's ids are what the whole conversation has after its prompt."""
    prompt = chat.prompt(preference.prompt, where)
    chosen, rejected = (
        chat.render([*preference.prompt, {"role": "assistant", "content": text}], where).ids[len(prompt) :]
        for text in (preference.chosen, preference.rejected)
    )
    return PairIds(tuple(prompt), chosen, rejected)
