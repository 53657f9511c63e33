"""Multiple-choice questions as a part of a training's validation: batches that the loop deals out, and their terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from data_prep.tokenizer import Tokenizer
from pipeline.stage import File
from trainer.data.questions import load_questions
from trainer.multiple_choice import QuestionBatch, encode_questions, question_batches, verdicts
from trainer.tasks.task import Place, Term

if TYPE_CHECKING:
    from trainer.model.transformer import Transformer


@dataclass(frozen=True)
class AskedBatch:
    """Questions of one set. `per_byte`: whether the set has answers that are compared per byte as well."""

    name: str
    per_byte: bool
    batch: QuestionBatch


@dataclass(frozen=True)
class Quiz:
    """The questions that a training is asked at every validation.

    files      a set each
    tokenizer  directory of the tokenizer
    at_most    questions of each set, drawn by the seed
    tokens     of a batch; independent of the ranks, so that the sums are too
    """

    files: tuple[File, ...]
    tokenizer: str
    at_most: int
    tokens: int
    seed: int

    def batches(self, place: Place, model: Transformer) -> list[AskedBatch]:
        """The same list on every rank; a batch has whole questions of one set. UserError as for `load_questions`."""
        tokenizer = Tokenizer.load(self.tokenizer)
        asked = []
        for name, questions in load_questions(self.files, self.at_most, self.seed).items():
            encoded = encode_questions(tokenizer, questions, model.config.max_position_embeddings)
            per_byte = any(question.bytes for question in encoded)
            asked += [AskedBatch(name, per_byte, batch) for batch in question_batches(encoded, self.tokens, place.device)]
        return asked


def asked_counts(asked: AskedBatch) -> Mapping[str, float]:
    """The denominator of a batch's terms."""
    return {f"{asked.name}_questions": float(len(asked.batch.questions))}


def asked_terms(model: Transformer, asked: AskedBatch) -> Mapping[str, Term]:
    """How many questions of the batch are answered right, and how many per byte: `<set>_accuracy`, `<set>_accuracy_per_byte`. All of
    weight 0. The model's output layer is called once, as by every other batch."""
    found = verdicts(model, asked.batch)
    right = {"accuracy": [verdict.right for verdict in found]}
    if asked.per_byte:
        right["accuracy_per_byte"] = [bool(verdict.per_byte) for verdict in found]
    return {f"{asked.name}_{name}": _term(values, asked) for name, values in right.items()}


def _term(right: Sequence[bool], asked: AskedBatch) -> Term:
    return Term(torch.tensor(float(sum(right)), device=asked.batch.inputs.device), f"{asked.name}_questions", 0.0)
