"""Advantages within groups and the clipped token loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.objectives.grpo import clipped_loss, group_advantages

groups = st.lists(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.booleans()), min_size=6, max_size=6), min_size=1, max_size=4)


def tensors(rows):
    rewards = torch.tensor([[reward for reward, _ in row] for row in rows], dtype=torch.float64)
    return rewards, torch.tensor([[scorable for _, scorable in row] for row in rows])


@given(groups, st.booleans())
def test_advantages_of_a_group_sum_to_zero_and_leave_out_the_unscorable(rows, divide_by_std):
    rewards, scorable = tensors(rows)
    advantages = group_advantages(rewards, scorable, divide_by_std=divide_by_std)
    assert torch.allclose(advantages.sum(1), torch.zeros(len(rows), dtype=torch.float64), atol=1e-9)
    assert (advantages[~scorable] == 0).all() and advantages.isfinite().all()


@given(groups, st.booleans())
def test_the_reward_of_an_unscorable_sample_changes_nothing(rows, divide_by_std):
    rewards, scorable = tensors(rows)
    other = torch.where(scorable, rewards, rewards + 7)
    before, after = (group_advantages(values, scorable, divide_by_std=divide_by_std) for values in (rewards, other))
    assert torch.equal(before, after)


def test_a_group_without_contrast_has_no_advantage_at_all():
    rewards = torch.full((2, 7), 0.1)  # a mean of 0.1s is not 0.1 in floating point
    assert (group_advantages(rewards, torch.ones(2, 7, dtype=torch.bool), divide_by_std=True) == 0).all()


def test_advantages_are_the_published_numbers():
    rewards, scorable = torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([[True, True, True, True]])
    assert group_advantages(rewards, scorable, divide_by_std=False).tolist() == [[0.5, -0.5, -0.5, 0.5]]
    assert group_advantages(rewards, scorable, divide_by_std=True).tolist() == [pytest.approx([1, -1, -1, 1], abs=1e-4)]


def loss_of(log_probs, behaviour, advantages, mask=None, **settings):
    log_probs, behaviour, advantages = torch.tensor(log_probs), torch.tensor(behaviour), torch.tensor(advantages)
    mask = torch.ones_like(log_probs) if mask is None else torch.tensor(mask)
    return clipped_loss(log_probs, behaviour, advantages, mask, **({"clip_low": 0.2, "clip_high": 0.2} | settings))


def test_on_policy_the_loss_is_minus_the_advantage_of_every_token():
    terms = loss_of([[-1.0, -2.0], [-3.0, -0.5]], [[-1.0, -2.0], [-3.0, -0.5]], [1.0, -0.5])
    assert terms.loss.item() == pytest.approx(-1.0) and terms.clipped.item() == 0 and terms.ratio_gap.item() == 0


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "expected", "clipped"),
    [(1.0, 1.0, -1.2, 1), (-1.0, 1.0, -0.3679, 0), (1.0, -1.0, 2.7183, 0), (-1.0, -1.0, 0.8, 1)],
)
def test_the_clip_only_removes_steps_that_go_too_far(log_ratio, advantage, expected, clipped):
    terms = loss_of([[-2.0 + log_ratio]], [[-2.0]], [advantage])
    assert terms.loss.item() == pytest.approx(expected, abs=1e-4) and terms.clipped.item() == clipped


def test_a_clipped_token_has_no_gradient():
    log_probs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    behaviour = torch.tensor([[-2.0, -2.0]])
    clipped_loss(log_probs, behaviour, torch.ones(1), torch.ones(1, 2), clip_low=0.2, clip_high=0.28).loss.backward()
    assert log_probs.grad.tolist() == [[0.0, -1.0]]


def test_masked_tokens_count_for_nothing_whatever_their_values():
    ratio_blown_up = loss_of([[-1.0, 500.0]], [[-1.0, -500.0]], [1.0], [[1.0, 0.0]])
    assert ratio_blown_up.loss.item() == pytest.approx(-1.0)


def test_k3_is_never_negative_and_zero_at_the_reference():
    reference = torch.tensor([[-1.0, -3.0]])
    at_reference = loss_of([[-1.0, -3.0]], [[-1.0, -3.0]], [0.0], kl_weight=0.1, reference_log_probs=reference)
    away = loss_of([[-2.0, -1.0]], [[-2.0, -1.0]], [0.0], kl_weight=0.1, reference_log_probs=reference)
    assert at_reference.kl.item() == 0 and away.kl.item() == pytest.approx((2.71828 - 2) + (0.13534 + 2 - 1), abs=1e-3)
    assert away.loss.item() == pytest.approx(0.1 * away.kl.item())


def test_a_kl_weight_without_a_reference_is_refused():
    with pytest.raises(ValueError, match="reference"):
        loss_of([[-1.0]], [[-1.0]], [1.0], kl_weight=0.1)
