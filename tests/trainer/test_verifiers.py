"""Rewards of verifiable answers."""

import pytest

from trainer.rollout.verifiers import exact_answer, stated_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("7+8=15,4+3+1=8;85", "85"), ("85", "85"), (" 85 \n", "85"), ("1;2;85", "85"), ("85;", ""), ("", ""), ("a;b 85", "b 85")],
)
def test_the_answer_is_what_follows_the_last_semicolon(text, answer):
    assert stated_answer(text) == answer


def test_right_answers_earn_one_and_wrong_ones_nothing():
    assert exact_answer("7+8=15,4+3+1=8;85", "85", finished=True) == 1.0
    assert exact_answer("7+8=15,4+3+1=8;86", "85", finished=True) == 0.0
    assert exact_answer("85 ", " 85", finished=True) == 1.0
    assert exact_answer("185", "85", finished=True) == 0.0


def test_a_completion_without_its_stop_token_has_no_verdict():
    assert exact_answer("7+8=15,4+3+1=8;85", "85", finished=False) is None
