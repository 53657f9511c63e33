"""The task of GRPO: groups are sampled from the model as it is, judged, and trained on where a sample has an advantage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from data_prep.tokenizer import Tokenizer
from pipeline.stage import UserError
from trainer.data.chat import ChatFormat
from trainer.data.preferences import answer_rows
from trainer.data.prompts import Prompt
from trainer.data.records import read_records
from trainer.engine import copied, whole
from trainer.inference.sampling import Sampling
from trainer.objectives.answers import answer_log_probs
from trainer.objectives.grpo import clipped_loss, group_advantages, squared_gradient
from trainer.rollout.local import Rollout, RolloutPrompt, Sampler
from trainer.rollout.records import write_records
from trainer.rollout.verifiers import exact_answer
from trainer.tasks.language_model import epoch_places
from trainer.tasks.task import Place, Task, Term

if TYPE_CHECKING:
    from trainer.model.transformer import Transformer


Advantage = Literal["standardized", "centred", "least_variance"]


@dataclass(frozen=True)
class RolloutBatch:
    """Rollouts to train on, and what is counted of the step's rollouts, trained on or not (with the first batch only)."""

    ids: Tensor  # [rows, tokens]
    mask: Tensor  # [rows, tokens] bool: the answers
    behaviour: Tensor  # [rows, tokens − 1] log-probabilities when sampled; 0 outside the mask
    advantages: Tensor  # [rows]
    tallies: Mapping[str, float]


@dataclass
class PolicyTask(Task):
    """The prompts of a step follow from its number, and its rollouts from that and the weights.

    prompts      JSON Lines files with `id`, `prompt`, `answer`
    tokenizer    directory of the tokenizer
    batch        prompts of a step, each answered `samples` times
    records      folder for the rollouts: a file for each step and rank
    """

    prompts: tuple[str, ...]
    tokenizer: str
    batch: int
    samples: int
    temperature: float
    max_new_tokens: int
    advantage: Advantage
    clip_low: float
    clip_high: float
    kl_weight: float
    seed: int
    records: str

    def start(self, place: Place, model: Transformer) -> None:
        self._place = place
        tokenizer = Tokenizer.load(self.tokenizer)
        chat, self._pad = ChatFormat(tokenizer), tokenizer.eos_id
        self._prompts = load_prompts(self.prompts, chat, model.config.max_position_embeddings - self.max_new_tokens)
        self._sampler = Sampler(
            seed=self.seed,
            samples=self.samples,
            sampling=Sampling(self.temperature),
            max_new_tokens=self.max_new_tokens,
            stop_ids=chat.stop_ids,
            decode=tokenizer.decode,
            verify=exact_answer,
        )
        self._reference = copied(model).eval().requires_grad_(False) if self.kl_weight > 0 else None
        Path(self.records).mkdir(parents=True, exist_ok=True)

    def micro_batches(self, step: int, model: Transformer) -> list[RolloutBatch]:
        numbers = range(step * self.batch, (step + 1) * self.batch)
        chosen = epoch_places(numbers, len(self._prompts), self.seed)[self._place.rank :: self._place.world]
        groups = self._sampler.groups(whole(model), self._prompts, chosen, step)
        judged = zip(groups, self.advantages(groups), strict=True)
        rollouts = [replace(rollout, advantage=value) for group, values in judged for rollout, value in zip(group, values, strict=True)]
        write_records(Path(self.records), step, self._place.rank, self._place.world, [rollout.record() for rollout in rollouts])
        trained = sorted((rollout for rollout in rollouts if rollout.advantage != 0), key=lambda rollout: rollout.length)
        size = self._place.micro_batch
        parts = [trained[at : at + size] for at in range(0, len(trained), size)] or [[]]
        return [self._batch(part, tallies(groups) if number == 0 else NO_TALLIES) for number, part in enumerate(parts)]

    def advantages(self, groups: Sequence[Sequence[Rollout]]) -> list[list[float]]:
        """The advantage of each sample; 0 where it had no verdict. All ranks must ask together."""
        if self.advantage == "least_variance":
            baseline = self._least_variance_baseline([rollout for group in groups for rollout in group])
            return [[0.0 if rollout.reward is None else rollout.reward - baseline for rollout in group] for group in groups]
        if not groups:
            return []
        rewards = torch.tensor([[rollout.reward or 0.0 for rollout in group] for group in groups])
        scorable = torch.tensor([[rollout.reward is not None for rollout in group] for group in groups])
        found: list[list[float]] = group_advantages(rewards, scorable, divide_by_std=self.advantage == "standardized").tolist()
        return found

    def _least_variance_baseline(self, rollouts: Sequence[Rollout]) -> float:
        """Mean reward of the global batch, each weighed by its sample's squared gradient."""
        judged = [(squared_gradient(rollout.completion.log_probs), rollout.reward) for rollout in rollouts if rollout.reward is not None]
        sums = [sum(weight * reward for weight, reward in judged), sum(weight for weight, _ in judged)]
        rewarded, whole_weight = summed_over_ranks(sums, self._place)
        return rewarded / whole_weight if whole_weight else 0.0

    def _batch(self, rollouts: Sequence[Rollout], tallied: Mapping[str, float]) -> RolloutBatch:
        if not rollouts:  # every group was without contrast: a row of padding keeps this rank in step with the others
            ids = torch.full((1, 2), self._pad)
            return RolloutBatch(ids, torch.zeros_like(ids, dtype=torch.bool), torch.zeros(1, 1), torch.zeros(1), tallied)
        ids, mask = answer_rows([(rollout.prompt.ids, rollout.completion.ids) for rollout in rollouts], self._pad)
        stored = torch.tensor([log_prob for rollout in rollouts for log_prob in rollout.completion.log_probs])
        behaviour = torch.zeros(mask[:, 1:].shape).masked_scatter(mask[:, 1:], stored)
        advantages = torch.tensor([rollout.advantage for rollout in rollouts])
        device = self._place.device
        return RolloutBatch(ids.to(device), mask.to(device), behaviour.to(device), advantages.to(device), tallied)

    def validation_batches(self) -> list[RolloutBatch]:
        return []

    def counts(self, batch: RolloutBatch) -> Mapping[str, float]:
        return {"tokens": float(batch.mask.sum()), **{name: batch.tallies[name] for name in ("samples", "groups", "drawn_tokens")}}

    def terms(self, model: Transformer, batch: RolloutBatch) -> Mapping[str, Term]:
        log_probs = answer_log_probs(model, batch.ids, batch.mask, self.temperature)
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference = answer_log_probs(self._reference.to(batch.ids.device), batch.ids, batch.mask, self.temperature)
        found = clipped_loss(
            log_probs,
            batch.behaviour,
            batch.advantages,
            batch.mask[:, 1:],
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            kl_weight=self.kl_weight,
            reference_log_probs=reference,
        )
        terms = {
            "loss": Term(found.loss, "tokens"),
            "clipped": Term(found.clipped, "tokens", 0.0),
            "kl": Term(found.kl, "tokens", 0.0),
            "ratio_gap": Term(found.ratio_gap, "tokens", 0.0),
        }
        for name, denominator in TALLIED.items():
            terms[name] = Term(torch.tensor(batch.tallies[name], device=batch.ids.device), denominator, 0.0)
        return terms


# what a step reports of all its rollouts, and what each is divided by
TALLIED = {"reward": "samples", "unscorable": "samples", "uniform": "groups", "length": "samples", "entropy": "drawn_tokens"}
NO_TALLIES = dict.fromkeys([*TALLIED, "samples", "groups", "drawn_tokens"], 0.0)


def tallies(groups: Sequence[Sequence[Rollout]]) -> dict[str, float]:
    """Sums over rollouts: reward, samples without a verdict, groups without contrast, tokens, and −log p (whose mean
    over drawn tokens estimates the entropy)."""
    rollouts = [rollout for group in groups for rollout in group]
    drawn = float(sum(len(rollout.completion.ids) for rollout in rollouts))
    return {
        "reward": sum(rollout.reward or 0.0 for rollout in rollouts),
        "unscorable": float(sum(rollout.reward is None for rollout in rollouts)),
        "uniform": float(sum(len({rollout.reward for rollout in group} - {None}) < 2 for group in groups)),
        "length": drawn,
        "entropy": -sum(sum(rollout.completion.log_probs) for rollout in rollouts),
        "samples": float(len(rollouts)),
        "groups": float(len(groups)),
        "drawn_tokens": drawn,
    }


def summed_over_ranks(values: Sequence[float], place: Place) -> list[float]:
    """Each value's sum over the ranks, the same on all of them."""
    total = torch.tensor(values, dtype=torch.float64, device=place.device)
    if place.world > 1:
        torch.distributed.all_reduce(total)
    found: list[float] = total.tolist()
    return found


def load_prompts(paths: Sequence[str], chat: ChatFormat, room: int) -> list[RolloutPrompt]:
    """The prompts of verifiable tasks as ids. Raises UserError for a broken row, or a prompt longer than `room` tokens."""
    prompts = []
    for path in paths:
        for number, row in enumerate(read_records([path], ["id", "prompt", "answer"]), start=1):
            where = f"{path}, row {number}"
            prompt = Prompt.from_row(row, where)
            ids = tuple(chat.prompt(prompt.messages, where))
            if len(ids) > room:
                raise UserError(f"{where}: a prompt of {len(ids)} tokens leaves no room to answer (at most {room}); shorten it")
            prompts.append(RolloutPrompt(prompt.id, ids, prompt.answer))
    return prompts
