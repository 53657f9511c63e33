"""Group relative policy optimisation: advantages of sampled answers, and the clipped token loss.

Shao et al. 2024, "DeepSeekMath"; without division by the standard deviation it is the unbiased form of Liu et al. 2025,
"Understanding R1-Zero-Like Training". Ratios are taken against the log-probabilities stored while sampling.

A baseline changes the variance of the gradient, not its mean. The group's mean is not the one of least variance: a model that
is mostly right and sure of it gets small gradients from right samples and large ones from its rare mistakes, so that centring
makes the gradient noisier. The baseline of least variance weighs each reward by its sample's squared gradient (Weaver and Tao
2001, "The Optimal Reward Baseline for Gradient-Based Reinforcement Learning").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6  # added to a group's standard deviation


def group_advantages(rewards: Tensor, scorable: Tensor, *, divide_by_std: bool) -> Tensor:
    """Each sample's reward against the mean of its group.

    `rewards` [groups, samples] float; `scorable` [groups, samples] bool. Unscorable samples (cut off before the stop
    token, or no verdict) leave the baseline and get advantage 0, as do all samples of a group without contrast.
    Returns [groups, samples].
    """
    import torch

    valid = scorable.to(rewards.dtype)
    number = valid.sum(1, keepdim=True).clamp(min=1)
    centred = (rewards - (rewards * valid).sum(1, keepdim=True) / number) * valid
    low = rewards.masked_fill(~scorable, float("inf")).amin(1, keepdim=True)
    high = rewards.masked_fill(~scorable, float("-inf")).amax(1, keepdim=True)
    # rounding in the mean must not leave a tiny advantage where all rewards are equal
    centred = torch.where(high > low, centred, torch.zeros_like(centred))
    if not divide_by_std:
        return centred
    return centred / ((centred.square().sum(1, keepdim=True) / number).sqrt() + EPSILON)


def squared_gradient(log_probs: Sequence[float]) -> float:
    """How large a sample's ∇ log p is: Σ (1 − p)² over its tokens, the square of their gradients at the drawn logits.

    `log_probs` are those stored while sampling, so this costs no pass through the model.
    """
    return sum((1 - math.exp(log_prob)) ** 2 for log_prob in log_probs)


@dataclass(frozen=True)
class TokenTerms:
    """What the clipped loss gives, tokens outside the mask counted as 0: a differentiable numerator and sums to report."""

    loss: Tensor  # scalar; divide by the number of tokens in the global batch
    clipped: Tensor  # tokens whose gradient the clip removed
    kl: Tensor  # k3 estimate of KL(policy ‖ reference); 0 without a reference
    ratio_gap: Tensor  # |ratio − 1|: how far the trained policy is from the one that sampled


def clipped_loss(
    log_probs: Tensor,
    behaviour_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    kl_weight: float = 0.0,
    reference_log_probs: Tensor | None = None,
) -> TokenTerms:
    """Sum over tokens of −min(ρA, clip(ρ, 1−clip_low, 1+clip_high)·A) + kl_weight·k3.

    `log_probs`, `behaviour_log_probs`, `reference_log_probs` and `mask` are [samples, tokens], `advantages` [samples].
    All log-probabilities are those of the tempered distribution that was sampled. k3 = e^d − d − 1 with
    d = reference − policy (Schulman 2020).
    """
    import torch

    mask = mask.to(log_probs.dtype)
    ratio = ((log_probs - behaviour_log_probs) * mask).exp()
    advantage = advantages[:, None]
    plain, held = ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    loss = -(torch.minimum(plain, held) * mask).sum()
    kl = torch.zeros_like(loss)
    if kl_weight > 0:
        if reference_log_probs is None:
            raise ValueError("a KL weight above 0 needs the reference's log-probabilities")
        difference = (reference_log_probs - log_probs) * mask
        kl = (difference.exp() - difference - 1).sum()
        loss = loss + kl_weight * kl
    clipped = ((held < plain) * mask).sum()
    return TokenTerms(loss, clipped.detach(), kl.detach(), ((ratio - 1).abs() * mask).sum().detach())
