"""Multiple-choice questions put to a base model: every choice is scored by its log-probability after its context.

The ids are those of lm-evaluation-harness (Gao et al. 2024): context and choice are encoded as one text, and the choice's ids are those
that come after as many as the context alone has. White space between the two belongs to the choice. Before everything stands the
end-of-document token, after which every document was trained to begin. What is longer than the model's context loses its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.stage import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from data_prep.tokenizer import Tokenizer
    from trainer.data.questions import Question
    from trainer.model.transformer import Transformer


@dataclass(frozen=True)
class Continuation:
    """Ids the model reads, and those it should say at the last places of them."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class EncodedQuestion:
    """A question as ids. `bytes`: UTF-8 bytes of each choice without the space before it; empty where nothing is compared per byte."""

    choices: tuple[Continuation, ...]
    gold: int = 0
    bytes: tuple[int, ...] = ()

    @property
    def rows(self) -> list[tuple[int, ...]]:
        """What has to be read, longest first: inputs with which others begin hold those too, since no token sees a later one."""
        rows: list[tuple[int, ...]] = []
        for inputs in sorted({choice.inputs for choice in self.choices}, key=lambda ids: (-len(ids), ids)):
            if not any(row[: len(inputs)] == inputs for row in rows):
                rows.append(inputs)
        return rows


@dataclass(frozen=True)
class Verdict:
    """Whether the right choice has the highest log-probability, and the highest per byte (None: not compared). A tie is not right."""

    right: bool
    per_byte: bool | None


@dataclass(frozen=True)
class QuestionBatch:
    """Whole questions on a device. Choices that read the same share a row, so that four letters after one question cost one.

    inputs   [rows, tokens] int64, padded on the right
    places   [n] int64: where in the flattened inputs a token of a choice is predicted
    targets  [n] int64: that token
    owners   [n] int64: which of the batch's choices it belongs to
    numbers  place of each question in the list the batches were made of
    """

    questions: tuple[EncodedQuestion, ...]
    numbers: tuple[int, ...]
    inputs: Tensor
    places: Tensor
    targets: Tensor
    owners: Tensor

    @property
    def choices(self) -> int:
        return sum(len(question.choices) for question in self.questions)


def continuations(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], context: int) -> list[Continuation]:
    """(context, text after it) → ids, of at most `context` tokens. Raises UserError for a text that alone is longer."""
    kept = [before.rstrip() for before, _ in pairs]
    wholes = tokenizer.encode_batch([before + text for before, text in pairs])
    found = []
    for number, (before, whole) in enumerate(zip(tokenizer.encode_batch(kept), wholes, strict=True)):
        ids = [tokenizer.eos_id, *whole]
        targets = whole[len(before) :]
        if len(targets) > context:
            raise UserError(f"a text of {len(targets)} tokens does not fit the model's context of {context}: {pairs[number][1]!r:.80}")
        found.append(Continuation(tuple(ids[:-1][-context:]) or (tokenizer.eos_id,), tuple(targets)))
    return found


def encode_questions(tokenizer: Tokenizer, questions: Sequence[Question], context: int) -> list[EncodedQuestion]:
    """Questions as ids for a model that reads `context` tokens. UserError names the row of a choice that is too long."""
    encoded = []
    for question in questions:
        try:
            choices = continuations(tokenizer, [(choice.context, choice.text) for choice in question.choices], context)
        except UserError as error:
            raise UserError(f"{question.where}: {error}; remove the row") from None
        sizes = tuple(len(choice.text.strip().encode()) for choice in question.choices) if question.per_byte else ()
        encoded.append(EncodedQuestion(tuple(choices), question.gold, sizes))
    return encoded


def question_batches(questions: Sequence[EncodedQuestion], tokens: int, device: torch.device) -> list[QuestionBatch]:
    """Questions, longest first, in batches of at most `tokens` tokens with padding, and of one question at least."""
    rows = [question.rows for question in questions]
    order = sorted(range(len(questions)), key=lambda number: -len(rows[number][0]))
    parts: list[list[int]] = []
    height = width = 0
    for number in order:
        if not parts or (height + len(rows[number])) * width > tokens:
            parts.append([])
            height, width = 0, len(rows[number][0])
        parts[-1].append(number)
        height += len(rows[number])
    return [_batch([questions[number] for number in part], part, device) for part in parts]


def _batch(questions: Sequence[EncodedQuestion], numbers: Sequence[int], device: torch.device) -> QuestionBatch:
    import torch

    rows: list[tuple[int, ...]] = []
    places: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    owner = 0
    width = len(questions[0].rows[0])
    for question in questions:
        own = question.rows
        for choice in question.choices:
            row = next(row for row, ids in enumerate(own, start=len(rows)) if ids[: len(choice.inputs)] == choice.inputs)
            end = row * width + len(choice.inputs)
            places += range(end - len(choice.targets), end)
            targets += choice.targets
            owners += [owner] * len(choice.targets)
            owner += 1
        rows += own
    inputs = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in rows])
    arrays = (torch.tensor(values, dtype=torch.long, device=device) for values in (places, targets, owners))
    return QuestionBatch(tuple(questions), tuple(numbers), inputs.to(device), *arrays)


def scores(model: Transformer, batch: QuestionBatch, chunk: int = 0) -> tuple[list[float], list[bool]]:
    """Log-probability of each choice, summed over its tokens in fp64, and whether each of them is the likeliest token.

    The second is found only where a question has a single choice, and for that logits of `chunk` positions at a time are held (0: of
    all at once, so that every batch calls the output layer once, as sharded weights need).
    """
    import torch

    hidden = model(batch.inputs).flatten(0, 1)[batch.places]
    likeliest = torch.ones(batch.choices, dtype=torch.long)
    if any(len(question.choices) == 1 for question in batch.questions):
        found, misses = [], []
        for part, targets in zip(hidden.split(chunk or len(hidden)), batch.targets.split(chunk or len(hidden)), strict=True):
            logits = model.logits(part)
            found.append(logits.log_softmax(-1).gather(1, targets[:, None])[:, 0])
            misses.append(logits.argmax(-1) != targets)
        log_probs = torch.cat(found)
        likeliest -= torch.zeros_like(likeliest).index_add_(0, batch.owners.cpu(), torch.cat(misses).long().cpu()).clamp(max=1)
    else:
        log_probs = model.log_probs(hidden, batch.targets)
    # on the CPU, where the order of a sum is the same every time
    sums = torch.zeros(batch.choices, dtype=torch.float64).index_add_(0, batch.owners.cpu(), log_probs.double().cpu())
    return sums.tolist(), likeliest.bool().tolist()


def verdicts(model: Transformer, batch: QuestionBatch, chunk: int = 0) -> list[Verdict]:
    """One for each question of the batch."""
    log_probs, likeliest = scores(model, batch, chunk)
    found, at = [], 0
    for question in batch.questions:
        span = slice(at, at + len(question.choices))
        found.append(judge(question, log_probs[span], likeliest[span]))
        at = span.stop
    return found


def judge(question: EncodedQuestion, log_probs: Sequence[float], likeliest: Sequence[bool]) -> Verdict:
    """The verdict on a question whose choices have these log-probabilities."""
    if len(question.choices) == 1:
        return Verdict(likeliest[0], None)
    per_byte = [value / size for value, size in zip(log_probs, question.bytes, strict=True)] if question.bytes else None
    return Verdict(_highest(log_probs, question.gold), None if per_byte is None else _highest(per_byte, question.gold))


def _highest(values: Sequence[float], place: int) -> bool:
    return all(values[place] > value for number, value in enumerate(values) if number != place)


def answer(model: Transformer, questions: Sequence[EncodedQuestion], tokens: int) -> list[Verdict]:
    """The verdict on every question, in their order; batches of `tokens` tokens. The same arguments give the same bits."""
    import torch

    device = model.lm_head.weight.device
    found: dict[int, Verdict] = {}
    model.eval()
    with torch.inference_mode():
        for batch in question_batches(questions, tokens, device):
            found.update(zip(batch.numbers, verdicts(model, batch), strict=True))
    return [found[number] for number in range(len(questions))]
