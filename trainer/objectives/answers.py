"""Log-probabilities of answers under a model: the one place where DPO and GRPO read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.model.transformer import Transformer


def answer_log_probs(model: Transformer, ids: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """log p of every masked token, given those before it: [rows, tokens − 1] fp32, 0 outside the mask.

    `ids` [rows, tokens] padded on the right; `mask` [rows, tokens] bool, False in the first column. Logits are made for the
    masked places only.
    """
    import torch

    targets, wanted = ids[:, 1:], mask[:, 1:]
    found = model.log_probs(model(ids[:, :-1])[wanted], targets[wanted], temperature)
    return torch.zeros(wanted.shape, dtype=found.dtype, device=found.device).masked_scatter(wanted, found)
