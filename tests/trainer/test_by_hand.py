"""Passes written by hand beside the formulas they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainer.model import by_hand as module
from trainer.model.by_hand import RMSNorm, by_hand, rotate, swiglu


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)), requires_grad=True)


def test_only_exact_numbers_on_a_cpu_that_are_trained_on_are_worth_it() -> None:
    x = torch.ones(2)
    assert by_hand(x) and by_hand(x.double()) and not by_hand(x.bfloat16()) and not by_hand(x.to("meta"))
    with torch.no_grad():
        assert not by_hand(x)


def test_a_norm_and_its_gradients_are_torchs() -> None:
    norm = RMSNorm(6, eps=1e-3).double()
    torch.nn.init.normal_(norm.weight)
    x = drawn(2, 3, 6)
    trained = norm(x)
    with torch.no_grad():
        torch.testing.assert_close(trained, norm(x), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda x, weight: torch.func.functional_call(norm, {"weight": weight}, x), (x, norm.weight))


@pytest.mark.parametrize("turning", [8, 4], ids=["all", "half"])
def test_a_rotation_and_its_gradient_are_the_formulas(turning: int) -> None:
    x = drawn(2, 5, 3, 8).transpose(1, 2)  # as attention has it: heads beside each other in memory
    angles = drawn(2, 1, 5, turning // 2).detach()
    cos, sin = angles.cos(), angles.sin()
    trained = rotate(x, cos, sin)
    with torch.no_grad():
        torch.testing.assert_close(trained, rotate(x, cos, sin), rtol=1e-12, atol=1e-15)
    assert torch.equal(trained[..., turning:], x[..., turning:])
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x,))


@pytest.mark.parametrize("at_once", [7, 14, 1 << 18], ids=["a token", "two tokens and a rest", "all"])
def test_a_feed_forward_layer_and_its_gradients_are_the_formula(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACTIVATIONS_AT_ONCE", at_once)
    monkeypatch.setattr(module, "TOKENS_AT_LEAST", 1)
    inputs = (drawn(3, 5, 4).transpose(0, 1), drawn(7, 4), drawn(7, 4), drawn(4, 7))
    trained = swiglu(*inputs)
    with torch.no_grad():
        torch.testing.assert_close(trained, swiglu(*inputs), rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(swiglu, inputs)


def test_in_sixteen_bits_a_feed_forward_layer_sums_over_all_tokens_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [tensor.detach().bfloat16().requires_grad_() for tensor in (drawn(64, 8), drawn(16, 8), drawn(16, 8), drawn(8, 16))]
    whole = torch.autograd.grad(swiglu(*inputs).sum(), inputs)
    monkeypatch.setattr(module, "ACTIVATIONS_AT_ONCE", 16)
    monkeypatch.setattr(module, "TOKENS_AT_LEAST", 1)
    assert all(torch.equal(*pair) for pair in zip(whole, torch.autograd.grad(swiglu(*inputs).sum(), inputs), strict=True))
    monkeypatch.setattr(module, "trained_as_written", lambda: False)  # as a compiler is given it
    for own, usual in zip(whole, torch.autograd.grad(swiglu(*inputs).sum(), inputs), strict=True):
        torch.testing.assert_close(own, usual, rtol=2e-2, atol=2e-2 * float(usual.abs().max()))
