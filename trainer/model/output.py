"""The language-model head: logits, or log-probabilities of given targets without ever holding all logits, unless they are few.

At a vocabulary of 128k the logits of a batch are larger than everything else a training holds, and so is their gradient.
Here they are made for some positions at a time and, in the backward pass, made again. Up to LOGITS_KEPT of them are kept instead.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.by_hand import spans
from trainer.planning import LOGITS_AT_ONCE, LOGITS_KEPT, POSITIONS_AT_LEAST


class ChunkedLogProbs(torch.autograd.Function):
    """log softmax(hidden @ weightᵀ / temperature) at one target a row, and the row's log-normaliser (logsumexp), with never
    more than `chunk` rows of logits, unless all of them are few: then they are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int) -> tuple[Tensor, Tensor]:
        log_probs = torch.empty(len(targets), dtype=exact(hidden), device=hidden.device)
        normaliser = torch.empty_like(log_probs)
        kept: list[Tensor] = []
        few = any(ctx.needs_input_grad) and len(targets) * len(weight) <= LOGITS_KEPT
        for rows in spans(len(targets), chunk):
            logits = F.linear(hidden[rows], weight).to(log_probs.dtype).div_(temperature)
            scores = logits.log_softmax(dim=-1)  # one pass, where logsumexp takes three
            log_probs[rows] = scores.gather(1, targets[rows, None])[:, 0]
            normaliser[rows] = logits.gather(1, targets[rows, None])[:, 0] - log_probs[rows]
            if few:
                kept.append(scores)
            del logits, scores  # or they would be there until the next chunk's are
        ctx.save_for_backward(hidden, weight, targets, normaliser, *kept)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.set_materialize_grads(False)
        return log_probs, normaliser

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, normaliser, *kept = ctx.saved_tensors
        of_log_probs, of_normaliser = gradients
        if of_log_probs is None:
            of_log_probs = torch.zeros_like(normaliser)
        # d log p(target) / d logit = [is the target] - p, and d normaliser / d logit = p
        of_p = -of_log_probs if of_normaliser is None else of_normaliser - of_log_probs
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros(weight.shape, dtype=normaliser.dtype, device=weight.device)
        for number, rows in enumerate(spans(len(targets), ctx.chunk)):
            if kept:
                p = kept[number].exp()
            else:
                p = F.linear(hidden[rows], weight).to(normaliser.dtype).div_(ctx.temperature).sub_(normaliser[rows, None]).exp_()
            logit_gradient = p.mul_(of_p[rows, None] / ctx.temperature)
            logit_gradient.scatter_add_(1, targets[rows, None], of_log_probs[rows, None] / ctx.temperature)
            logit_gradient = logit_gradient.to(weight.dtype)
            hidden_gradient[rows] = logit_gradient @ weight
            if weight.dtype == weight_gradient.dtype:
                weight_gradient.addmm_(logit_gradient.T, hidden[rows])  # the product is never held beside the sum
            else:
                weight_gradient += logit_gradient.T @ hidden[rows]
            del p, logit_gradient
        return hidden_gradient, weight_gradient.to(weight.dtype), None, None, None


def exact(tensor: Tensor) -> torch.dtype:
    """fp32, or fp64 for a model in fp64: what sums and logarithms are taken in."""
    return torch.promote_types(tensor.dtype, torch.float32)


class OutputLayer(nn.Linear):
    """Logits, or log-probabilities and log-normalisers. Both go through `forward`, where a sharded optimizer gathers the weight."""

    def forward(self, hidden: Tensor, targets: Tensor | None = None, temperature: float = 1.0, chunk: int = 0) -> Any:
        if targets is None:
            return F.linear(hidden, self.weight)
        chunk = chunk or max(POSITIONS_AT_LEAST, LOGITS_AT_ONCE[hidden.device.type] // self.out_features)
        return ChunkedLogProbs.apply(hidden, self.weight, targets, temperature, chunk)
