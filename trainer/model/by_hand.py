"""RMS norms and rotations, with forward and backward passes by hand where the time of an operation is what it moves through memory:
in fp32 and fp64 on a CPU. There autograd's own way through the elementary operations is half as fast.

GPUs have kernels for the norm, and a compiler makes its own: there the same formulas stand as they are read.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def by_hand(x: Tensor) -> bool:
    """Whether to train by the passes below; without gradients torch's own operations are as good, and better for single tokens."""
    exact = x.dtype in (torch.float32, torch.float64)
    return exact and x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class RMSNorm(nn.RMSNorm):
    """x / √(mean x² + eps) · weight, over the last dimension (arXiv:1910.07467)."""

    def forward(self, x: Tensor) -> Tensor:
        if not by_hand(x):
            return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        normalised: Tensor = Normalised.apply(x, self.weight, self.eps)
        return normalised


class Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [..., d], weight [d] → [..., d]"""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        width = x.shape[-1]
        units = x * inverse  # root mean square 1
        products = (gradient * units).reshape(-1, width)
        # what of the gradient points along the row is lost: its length is always the same
        along = (products @ weight).view(inverse.shape).div_(-width)
        return units.mul_(along).addcmul_(gradient, weight).mul_(inverse), products.sum(0), None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first r of [b, heads, s, e] by angles [b, 1, s, r/2]; the two halves of these r are the two coordinates of its planes."""
    if by_hand(x):
        rotated: Tensor = Rotated.apply(x, cos, sin)
        return rotated
    first, second, still = _parts(x, cos)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, still), dim=-1)


class Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = torch.empty_like(x)
    first, second, still = _parts(x, cos)
    new_first, new_second, new_still = _parts(turned, cos)
    torch.mul(first, cos, out=new_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=new_second).addcmul_(first, sin)
    new_still.copy_(still)
    return turned


def _parts(x: Tensor, cos: Tensor) -> tuple[Tensor, ...]:
    """The first and the second coordinates of the planes, and what does not turn."""
    half = cos.shape[-1]
    return x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
