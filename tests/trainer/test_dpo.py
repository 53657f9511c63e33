"""The preference loss."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stage import UserError
from trainer.data.preferences import Preference, answer_rows
from trainer.objectives.dpo import (
    PairLogProbs,
    dpo_loss,
    dpo_statistics,
    margins,
    preference_loss,
)

log_probs = st.lists(st.floats(-60, -0.01), min_size=4, max_size=4)


def pairs(chosen, rejected, reference_chosen, reference_rejected, tokens=(1,)):
    values = [torch.tensor(value, dtype=torch.float64) for value in (chosen, rejected, reference_chosen, reference_rejected, tokens)]
    return PairLogProbs(*values)


def test_the_loss_is_log_two_while_the_policy_is_its_reference():
    same = pairs([-3.0], [-5.0], [-3.0], [-5.0])
    assert dpo_loss(same, beta=0.1, nll_weight=0.0).item() == pytest.approx(math.log(2))


def test_the_loss_is_the_published_formula():
    moved = pairs([-2.0], [-6.0], [-3.0], [-5.0], [4])
    sigmoid = -math.log(1 / (1 + math.exp(-0.3 * 2.0)))
    assert dpo_loss(moved, beta=0.3, nll_weight=0.0).item() == pytest.approx(sigmoid)
    assert dpo_loss(moved, beta=0.3, nll_weight=0.5).item() == pytest.approx(sigmoid + 0.5 * 2.0 / 4)


@given(log_probs, st.floats(0.01, 1.0))
def test_swapping_the_answers_mirrors_the_margin(values, beta):
    a, b, c, d = values
    there, back = pairs([a], [b], [c], [d]), pairs([b], [a], [d], [c])
    assert margins(there).item() == pytest.approx(-margins(back).item())
    difference = preference_loss(there, beta) - preference_loss(back, beta)
    assert difference.item() == pytest.approx(-beta * margins(there).item(), abs=1e-9)


def test_gradients_raise_the_chosen_answer_and_lower_the_rejected_one():
    chosen, rejected = torch.tensor([-3.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)
    dpo_loss(PairLogProbs(chosen, rejected, chosen.detach(), rejected.detach(), torch.ones(1)), beta=0.1, nll_weight=0.0).backward()
    assert chosen.grad.item() == pytest.approx(-0.05) and rejected.grad.item() == pytest.approx(0.05)


def test_displacement_shows_as_negative_drift_beside_a_right_ordering():
    displaced = dpo_statistics(pairs([-8.0], [-20.0], [-3.0], [-5.0]), beta=0.1)
    assert displaced["preferred"] == 1 and displaced["chosen_drift"] == pytest.approx(-5)


def test_an_answer_row_masks_its_prompt_and_its_padding():
    ids, mask = answer_rows([((1, 2), (3, 4)), ((1,), (5,))], pad_id=0)
    assert ids.tolist() == [[1, 2, 3, 4], [1, 5, 0, 0]]
    assert mask.tolist() == [[False, False, True, True], [False, True, False, False]]


@pytest.mark.parametrize("change", [{"chosen": ""}, {"rejected": "yes"}, {"prompt": []}, {"prompt": [{"role": "assistant", "content": "hi"}]}])
def test_a_broken_preference_is_one_line_that_names_the_row(change):
    row = {"id": "1", "prompt": [{"role": "user", "content": "hi"}], "chosen": "yes", "rejected": "no"} | change
    with pytest.raises(UserError, match="pairs.jsonl:7"):
        Preference.from_row(row, "pairs.jsonl:7")
