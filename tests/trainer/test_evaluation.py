"""Intervals, style, and the table of models side by side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.preferences import Preference
from trainer.evaluation import Share, cell, has_style, table


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (500, 1000, 0.4691, 0.5309)],
)
def test_the_interval_is_wilsons(successes, total, low, high):
    assert Share(successes, total).interval == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_value_and_mirrors_failures(counts):
    successes, total = counts
    low, high = Share(successes, total).interval
    assert 0 <= low <= successes / total <= high <= 1 and low < high
    other_low, other_high = Share(total - successes, total).interval
    assert (1 - other_high, 1 - other_low) == pytest.approx((low, high), abs=1e-9)


def test_more_trials_make_the_interval_narrower():
    widths = [high - low for low, high in (Share(n // 4, n).interval for n in (40, 400, 4000))]
    assert widths == sorted(widths, reverse=True)


def test_style_is_the_rows_pattern_or_the_chosen_answer_itself():
    prompt = ({"role": "user", "content": "Which colour?"},)
    by_pattern = Preference("1", prompt, "The gate is red.", "red", r"^[A-Z]\S*( \S+){2,}\.$")
    assert has_style("Its colour is green.", by_pattern) and not has_style("red", by_pattern)
    without = Preference("1", prompt, "The gate is red.", "red")
    assert has_style(" The gate is red.", without) and not has_style("The gate is green.", without)


def test_the_table_has_a_row_for_each_model_and_a_column_for_what_was_measured():
    reports = {
        "pretrain": {"bits_per_byte": 0.8123, "greedy": None, "style": None},
        "grpo": {"bits_per_byte": 0.9, "greedy": Share(613, 1000).plain(), "style": None},
    }
    header, rule, first, second = table(reports).splitlines()
    assert header.split("|")[1:-1] == [" model    ", " bits per byte ", " right answers, greedy "]
    assert set(rule) == {"|", "-"} and len({len(line) for line in (header, rule, first, second)}) == 1
    assert "0.812" in first and "61.3 % (58.2–64.3)" in second


def test_a_cell_without_a_measurement_is_empty():
    assert cell(None) == "" and cell(0.5) == "0.500"
