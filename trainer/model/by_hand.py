"""RMS norms, rotations and SwiGLU, with forward and backward passes by hand.

Norms and rotations where the time of an operation is what it moves through memory: in fp32 and fp64 on a CPU. There autograd's own way
through the elementary operations is half as fast. SwiGLU everywhere, since it keeps half of what autograd would. A compiler makes its
own passes: for it, and where nothing is trained, the same formulas stand as they are read.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS_AT_ONCE = 1 << 18  # 1 MiB of fp32: what a core's cache holds
TOKENS_AT_LEAST = 256  # with fewer, reading the weights takes longer than multiplying by them


def by_hand(x: Tensor) -> bool:
    """Whether to train by the passes below; without gradients torch's own operations are as good, and better for single tokens."""
    return _exact_on_cpu(x) and trained_as_written()


def _exact_on_cpu(x: Tensor) -> bool:
    return x.dtype in (torch.float32, torch.float64) and x.device.type == "cpu"


def trained_as_written() -> bool:
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


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


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """down · (silu(gate · x) ⊙ (up · x)), of [..., d] and the weights [i, d], [i, d], [d, i] → [..., d] (arXiv:2002.05202)."""
    if trained_as_written():
        output: Tensor = SwiGLU.apply(x.reshape(-1, x.shape[-1]), gate, up, down)
        return output.view(x.shape)
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


class SwiGLU(torch.autograd.Function):
    """Keeps what the two first products give, and makes again what follows from them. On a CPU some tokens go at a time, so that what lies
    between two products is still in the cache."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """x [n, d] → [n, d]"""
        gates, ups, y = x.new_empty(len(x), len(gate)), x.new_empty(len(x), len(up)), torch.empty_like(x)
        for rows in _some_rows(gates):
            torch.mm(x[rows], gate.T, out=gates[rows])
            torch.mm(x[rows], up.T, out=ups[rows])
            torch.mm(F.silu(gates[rows]).mul_(ups[rows]), down.T, out=y[rows])
        ctx.save_for_backward(x, gate, up, down, gates, ups)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, gate, up, down, gates, ups = ctx.saved_tensors
        x_gradient = torch.empty_like(x)
        gate_gradient, up_gradient, down_gradient = (torch.zeros_like(weight) for weight in (gate, up, down))
        for rows in _some_rows(gates):
            activated = F.silu(gates[rows])
            down_gradient.addmm_(gradient[rows].T, activated * ups[rows])
            of_product = gradient[rows] @ down
            of_up = activated.mul_(of_product)
            of_gate = torch.ops.aten.silu_backward(of_product.mul_(ups[rows]), gates[rows])
            torch.mm(of_gate, gate, out=x_gradient[rows]).addmm_(of_up, up)
            gate_gradient.addmm_(of_gate.T, x[rows])
            up_gradient.addmm_(of_up.T, x[rows])
        return x_gradient, gate_gradient, up_gradient, down_gradient


def _some_rows(activations: Tensor) -> list[slice]:
    """Of [n, i] as many at a time as a CPU's cache holds; elsewhere all, and where a sum over parts would lose digits in 16 bits."""
    some = ACTIVATIONS_AT_ONCE // activations.shape[1]
    cached = some >= TOKENS_AT_LEAST and _exact_on_cpu(activations)
    return spans(len(activations), some if cached else len(activations) or 1)


def spans(length: int, size: int) -> list[slice]:
    """0 … length - 1, `size` at a time."""
    return [slice(start, start + size) for start in range(0, length, size)]
