"""What a task is: the whole of what the training loop knows of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from trainer.model.transformer import Transformer


@dataclass(frozen=True)
class Term:
    """A sum over a batch and the name of what it is divided by. The loss is Σ weight · numerator / denominator over all
    ranks' micro-batches; a term of weight 0 is only reported."""

    numerator: Tensor  # scalar
    denominator: str
    weight: float = 1.0


@dataclass(frozen=True)
class Place:
    """Where a rank stands."""

    rank: int
    world: int
    device: torch.device
    micro_batch: int  # rows


class Task(ABC):
    """What a training does. It is pickled, sent to every rank and started there; it holds paths, not data.

    The batch of a step must follow from the step's number and the samples that are skipped (and the weights, where the model itself
    makes the data), so that a resumed training is the uninterrupted one.
    """

    @abstractmethod
    def start(self, place: Place, model: Transformer) -> None:
        """Open what is needed. `model` has the weights the training begins with, also when it is about to resume."""

    @abstractmethod
    def micro_batches(self, step: int, model: Transformer) -> Sequence[Any]:
        """This rank's share of the step's batch, at least one. `model` is live and, except at ZeRO stage 3, whole; there
        `engine.whole(model)` is."""

    @abstractmethod
    def validation_batches(self) -> Sequence[Any]:
        """The whole validation set, the same list on every rank; empty where there is none. The loop deals it out."""

    @abstractmethod
    def counts(self, batch: Any) -> Mapping[str, float]:
        """The batch's denominators by name; the same names for every batch that is trained on."""

    @abstractmethod
    def terms(self, model: Transformer, batch: Any) -> Mapping[str, Term]:
        """The batch's terms by name. Called inside the engine's forward pass, without gradients for validation."""

    def sample_numbers(self, step: int) -> Sequence[int]:
        """The numbers of the samples in the step's global batch; none where they cannot be skipped."""
        return ()

    def skip(self, samples: Sequence[int]) -> None:
        """From now on these samples, and no others, belong to no batch; those that come before the first of them are unchanged."""
        if samples:
            raise ValueError(f"{type(self).__name__} names no samples that could be skipped")

    def data_digest(self, steps: int, skipped: Sequence[int]) -> str:
        """What the first `steps` batches follow from that may change with the length of the training."""
        return ""

    def position(self, step: int) -> Mapping[str, float]:
        """How far the data are before this step, to be shown."""
        return {}

    def row_tokens(self) -> int:
        """The length of a row; 0 where that is not known beforehand."""
        return 0

    def show(self, model: Transformer) -> str:
        """Something the model writes, for people to read. Called on one rank with the whole model."""
        return ""
