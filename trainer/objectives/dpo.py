"""Direct preference optimisation: the sigmoid loss on pairs, with a likelihood term of its own weight.

Rafailov et al. 2023, "Direct Preference Optimization". Without the likelihood term the margin can grow while the chosen
answer itself becomes less likely (displacement); the drift of the chosen log-probability shows it, `nll_weight` cures it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PairLogProbs:
    """Summed log-probabilities of a batch of pairs, each `[pairs]`, and the chosen answers' lengths in tokens."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor


def margins(pairs: PairLogProbs) -> Tensor:
    """How much more than the reference the policy prefers the chosen answer, in nats: `[pairs]`."""
    return (pairs.chosen - pairs.reference_chosen) - (pairs.rejected - pairs.reference_rejected)


def preference_loss(pairs: PairLogProbs, beta: float) -> Tensor:
    """−log σ(β·margin) of each pair: `[pairs]`."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * margins(pairs))


def likelihood_loss(pairs: PairLogProbs) -> Tensor:
    """Negative log-likelihood of each chosen answer, per token, so that long answers weigh no more: `[pairs]`."""
    return -pairs.chosen / pairs.chosen_tokens
