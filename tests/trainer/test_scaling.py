"""The law of loss over size and tokens: found again where it is known, and sure only where it can be."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.scaling import Law, Run, fit

CHINCHILLA = Law(1.69, 406.4, 0.34, 410.7, 0.28)  # arXiv:2203.15556, equation 10
SIZES = (44e6, 90e6, 175e6, 425e6, 1e9, 2.8e9)
RATIOS = (5.0, 20.0, 80.0)


def ladder(law: Law, noise: float = 0.0, seed: int = 0, sizes: tuple[float, ...] = SIZES) -> list[Run]:
    """Trainings of all sizes, of several numbers of tokens a parameter each."""
    generator = np.random.default_rng(seed)
    return [
        Run(size, size * ratio, law.loss(size, size * ratio) * float(np.exp(noise * generator.standard_normal())))
        for size in sizes
        for ratio in RATIOS
    ]


def test_a_law_without_noise_is_found_again() -> None:
    found = fit(ladder(CHINCHILLA), draws=1).law
    for name in ("E", "A", "a", "B", "b"):
        assert getattr(found, name) == pytest.approx(getattr(CHINCHILLA, name), rel=1e-3)


@pytest.mark.parametrize(("ladders", "least_held"), [(5, 3), pytest.param(40, 30, marks=pytest.mark.proof)])
def test_a_size_that_was_not_run_is_predicted_with_its_interval(ladders: int, least_held: int) -> None:
    """25 times the largest run, from runs with noise of half a percent: within 5 %, and in most 90 % intervals."""
    parameters, tokens, held = 70e9, 1.4e12, 0
    truth = CHINCHILLA.loss(parameters, tokens)
    for seed in range(ladders):
        value, low, high = fit(ladder(CHINCHILLA, 0.005, seed), draws=20).predict(parameters, tokens, 0.9)
        held += low <= truth <= high
        assert value == pytest.approx(truth, rel=0.05)
    assert held >= least_held


DEMO = Law(0.3, 4000.0, 0.8, 2e5, 0.95)  # of models as small as the demo's ladder has


@pytest.mark.parametrize(("ladders", "least_held"), [(5, 2), pytest.param(60, 39, marks=pytest.mark.proof)])
def test_a_run_yet_to_be_made_is_in_its_interval_about_as_often_as_that_says(ladders: int, least_held: int) -> None:
    """Twice the largest size, from three sizes and four lengths, all runs with errors of a percent: 80 % intervals."""
    held = 0
    for seed in range(ladders):
        generator = np.random.default_rng(seed)
        sizes, lengths = (26_112, 60_160, 133_120), (409_600, 655_360, 1_024_000, 1_536_000)
        stray = iter(np.exp(0.01 * generator.standard_normal(13)))
        runs = [Run(size, length, DEMO.loss(size, length) * next(stray)) for size in sizes for length in lengths]
        _, low, high = fit(runs, draws=40, seed=seed).predict(270_336, 1_536_000)
        held += low <= DEMO.loss(270_336, 1_536_000) * next(stray) <= high
    assert held >= least_held


def test_errors_of_runs_are_part_of_what_is_predicted() -> None:
    """Of runs on the law nothing is unsure; the more others stray, the wider is the interval."""
    widths = []
    for noise in (0.0, 0.005, 0.02):
        value, low, high = fit(ladder(CHINCHILLA, noise), draws=40).predict(1e9, 2e10)
        widths.append((high - low) / value)
    assert widths[0] < 1e-3 and 0.008 < widths[1] < widths[2] / 2


def test_one_spoilt_run_changes_little() -> None:
    runs = ladder(CHINCHILLA)
    runs[4] = Run(runs[4].parameters, runs[4].tokens, 2 * runs[4].loss)
    assert fit(runs, draws=1).law.loss(70e9, 1.4e12) == pytest.approx(CHINCHILLA.loss(70e9, 1.4e12), rel=0.01)


def test_the_same_runs_give_the_same_fit() -> None:
    runs = ladder(CHINCHILLA, 0.01)
    assert fit(runs, draws=5) == fit(runs, draws=5)


@pytest.mark.parametrize("runs", [ladder(CHINCHILLA)[:4], ladder(CHINCHILLA, sizes=(1e6, 2e6))])
def test_too_few_runs_are_refused(runs: list[Run]) -> None:
    with pytest.raises(ValueError, match="cannot tell five numbers"):
        fit(runs)
