"""Rollouts sampled in the training process itself, and their records on disk.

A rollout is a function of (weights, seed, step, prompt index, sample): which rank draws it and what was drawn before it do
not matter, so a resumed run samples the same ones again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.inference.generator import Completion, generate
from trainer.inference.sampling import Sampling, derive_seed

if TYPE_CHECKING:
    from trainer.model.transformer import Transformer


@dataclass(frozen=True)
class RolloutPrompt:
    """A verifiable prompt as the policy reads it."""

    id: str
    ids: tuple[int, ...]
    answer: str


@dataclass(frozen=True)
class Rollout:
    """One sample of a group, judged. `reward` is None where there was no verdict; the training sets the advantage."""

    step: int
    prompt: RolloutPrompt
    sample: int
    completion: Completion
    text: str
    reward: float | None
    advantage: float = 0.0

    @property
    def length(self) -> int:
        return len(self.prompt.ids) + len(self.completion.ids)

    def record(self) -> dict[str, Any]:
        """The rollout as plain values, for the disk."""
        completion = self.completion
        return {
            "step": self.step, "prompt": self.prompt.id, "sample": self.sample, "text": self.text, "answer": self.prompt.answer,
            "reward": self.reward, "advantage": self.advantage, "finished": completion.finished,
            "ids": completion.ids, "log_probs": completion.log_probs,
        }  # fmt: skip


@dataclass(frozen=True)
class Sampler:
    """How groups are sampled and judged."""

    seed: int
    samples: int  # per prompt
    sampling: Sampling
    max_new_tokens: int
    stop_ids: Collection[int]
    decode: Callable[[Sequence[int]], str]
    verify: Callable[[str, str, bool], float | None]  # text, right answer, whether the stop token came

    def groups(self, model: Transformer, prompts: Sequence[RolloutPrompt], indices: Sequence[int], step: int) -> list[list[Rollout]]:
        """A judged group for each of `prompts[index]`."""
        asked = [(prompts[index], index, sample) for index in indices for sample in range(self.samples)]
        completions = generate(
            model,
            [prompt.ids for prompt, _, _ in asked],
            [derive_seed("rollout", self.seed, step, index, sample) for _, index, sample in asked],
            stop_ids=self.stop_ids,
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
        )
        rollouts = []
        for (prompt, _, sample), completion in zip(asked, completions, strict=True):
            text = self.decode(completion.text_ids())
            rollouts.append(Rollout(step, prompt, sample, completion, text, self.verify(text, prompt.answer, completion.finished)))
        return [rollouts[start : start + self.samples] for start in range(0, len(rollouts), self.samples)]
