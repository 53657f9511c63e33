"""Next-token prediction: cross-entropy over the trained tokens, and bits per byte of text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.data.sample_index import Rows
    from trainer.model.transformer import Transformer


@dataclass(frozen=True)
class TokenBatch:
    """Rows on a device: [rows, length] int64 each. Targets below 0 are not trained on.

    text_bytes  UTF-8 bytes of the text the batch predicts, where bits per byte are wanted
    end_id      the end-of-document token, which is no text
    """

    inputs: Tensor
    targets: Tensor
    documents: Tensor
    text_bytes: int | None = None
    end_id: int = -1

    @classmethod
    def of(cls, rows: Rows, device: torch.device, text_bytes: int | None = None, end_id: int = -1) -> TokenBatch:
        import torch

        inputs, targets, documents = (torch.from_numpy(array).to(device) for array in (rows.inputs, rows.targets, rows.documents))
        return cls(inputs, targets, documents, text_bytes, end_id)


def token_counts(batch: TokenBatch) -> dict[str, float]:
    """The denominators: trained tokens, and bytes of text where they are known."""
    counts = {"tokens": float((batch.targets >= 0).sum())}
    return counts if batch.text_bytes is None else {**counts, "bytes": float(batch.text_bytes)}


def routed_tokens(batch: TokenBatch) -> float:
    """The denominator of what routers are trained on: all tokens but padding, trained or not."""
    return float((batch.documents >= 0).sum())


def scored_tokens(model: Transformer, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
    """−log p of every trained token, the log-normaliser of its logits, and these tokens: [n] fp32, [n] fp32, [n] int64."""
    hidden = model(batch.inputs, document_ids=batch.documents)
    trained = batch.targets >= 0
    targets = batch.targets[trained]
    log_probs, normalisers = model.log_probs_and_normalisers(hidden[trained], targets)
    return -log_probs, normalisers, targets


def text_bits(losses: Tensor, targets: Tensor, end_id: int) -> Tensor:
    """Bits spent on text, a scalar: divided by its bytes it is the bits per byte, whatever the tokenizer."""
    return losses[targets != end_id].sum() / math.log(2)
