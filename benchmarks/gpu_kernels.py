"""What a GPU computes in a way of its own, attention over packed documents and experts' products, beside a CPU with the same weights.
Part of `benchmarks.gpu_proof`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchmarks.gpu_proof import Box
    from trainer.model.config import ModelConfig


@contextmanager
def as_gpus_do(box: Box) -> Iterator[None]:
    """A CPU takes the kernels that are meant for GPUs, too."""
    from trainer.model import moe, transformer
    from trainer.model.attention import block_mask

    if box.gpu:
        yield
        return
    by_blocks = patch.object(transformer, "document_mask", lambda documents, _: block_mask(documents))
    with by_blocks, patch.object(moe, "has_kernel", lambda *_: True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        yield


def model_differences(box: Box, config: ModelConfig) -> dict[str, float]:
    """Of each token's loss and of the gradients, for rows that share documents of 1, 2, 4, … tokens, up to half a row: what hides parts
    of blocks and what hides none."""
    import torch

    from trainer.model.transformer import Transformer
    from trainer.objectives.language_model import TokenBatch, scored_tokens

    lengths = torch.tensor([1, *(2**power for power in range(box.length.bit_length() - 1))])
    documents = torch.repeat_interleave(lengths)
    documents = torch.stack([documents, documents.flip(0)])
    ids, targets = torch.randint(config.vocab_size, (2, *documents.shape), generator=torch.Generator().manual_seed(0))
    model = Transformer(config, 1)

    def computed(device: str) -> tuple[Tensor, ...]:
        batch = TokenBatch(ids.to(device), targets.to(device), documents.to(device))
        model.to(device)
        with torch.set_grad_enabled(box.gpu):  # FlexAttention has no backward pass on CPUs
            losses, *_ = scored_tokens(model, batch)
        return losses.detach(), *(torch.autograd.grad(losses.sum(), list(model.parameters())) if box.gpu else ())

    losses, *gradients = computed("cpu")
    with as_gpus_do(box):
        found_losses, *found = computed(box.device)
    differences = {"losses": difference([found_losses], [losses])}
    return {**differences, "gradients": difference(found, gradients)} if box.gpu else differences


def product_differences(box: Box) -> dict[str, float]:
    """Of outputs and gradients of experts that get unequal shares of the rows, and one of them none."""
    import torch

    from trainer.model.moe import Experts

    config, generator = box.sparse(), torch.Generator().manual_seed(0)
    experts: nn.Module = Experts(config).bfloat16()
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, 0, config.hidden_size**-0.5, generator)
    rows = torch.randn(box.length, config.hidden_size, generator=generator).bfloat16()
    weights, places = torch.rand(2, box.length, config.num_experts_per_tok, generator=generator)
    chosen = (places.square() * (config.num_experts - 1)).long()

    def computed(device: str) -> tuple[Tensor, ...]:
        experts.to(device)
        x = rows.detach().to(device).requires_grad_()
        outputs = experts(x, chosen.to(device), weights.to(device))
        return outputs.detach(), *torch.autograd.grad(outputs, [x, *experts.parameters()], outputs.detach())

    outputs, *gradients = computed("cpu")
    with as_gpus_do(box):
        found_outputs, *found = computed(box.device)
    return {"outputs": difference([found_outputs], [outputs]), "gradients": difference(found, gradients)}


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest among these tensors, each by its norm and relative; NaN where there is one."""
    import torch

    pairs = ((one.double().cpu(), other.double()) for one, other in zip(found, wanted, strict=True))
    return torch.stack([(one - other).norm() / other.norm() for one, other in pairs]).max().item()
