"""A training's losses are the stored ones, and the same to the bit every time on one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.write import CURVES
from tests.trainer.worlds import alone, golden_curves

STORED: dict[str, list[float]] = json.loads(CURVES.read_text())["losses"]


def test_losses_are_the_stored_ones_and_equal_to_the_bit_when_run_again(tmp_path: Path) -> None:
    first, second = (alone(golden_curves, tmp_path, name) for name in ("first", "second"))
    assert first == second
    assert_stored(first)


def test_two_ranks_have_the_same_losses(two_ranks: dict[str, Any]) -> None:
    assert_stored(two_ranks["curves"])


def assert_stored(curves: dict[str, list[float]]) -> None:
    assert curves.keys() == STORED.keys()
    for name, losses in curves.items():
        assert losses == pytest.approx(STORED[name], abs=1e-3, rel=0), f"{name}: after a change that is meant: python -m tests.golden.write"


def test_the_stored_curve_is_one_of_learning() -> None:
    for losses in STORED.values():
        assert losses[-1] < 1 < 3 < losses[0]
