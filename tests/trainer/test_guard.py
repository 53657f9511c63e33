"""Bad steps: found, undone, their samples skipped for good; and silence where nothing is wrong."""

import doctest
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer.guard
from pipeline.stage import UserError
from tests.data_prep.contexts import context
from tests.trainer.worlds import (
    TINY,
    UNDONE,
    VOCABULARY,
    Broken,
    Corrupt,
    Planted,
    Steep,
    alone,
    equal,
    planted,
    pretraining,
    training,
)  # fmt: skip
from trainer.engine import Optimization, TrainRun
from trainer.guard import ENOUGH, Guard, problem
from trainer.launch import NewModel, launch
from trainer.loop import Outcome, Plan
from trainer.model.transformer import Transformer
from trainer.objectives.language_model import TokenBatch
from trainer.stages import pretrain
from trainer.stages.publishing import training_metrics
from trainer.tasks.language_model import Pretraining

RUN = TrainRun(workers=1, zero=1, checkpoint_every=10)
SETTINGS = Optimization(lr=1e-2, warmup_steps=5, schedule="constant")


def test_the_examples_are_true() -> None:
    assert doctest.testmod(trainer.guard) == (0, 4)


def test_a_fall_is_no_spike_and_few_steps_are_no_measure() -> None:
    steady = [{"loss": 3.0, "norm": 1.0}] * ENOUGH
    assert problem({"loss": 0.1, "norm": 0.1}, steady, 10) is None
    assert problem({"loss": 30.0, "norm": 1.0}, steady[1:], 10) is None
    assert problem({"loss": 30.0, "norm": 1.0}, steady, 0) is None
    assert problem({"loss": 3.0, "norm": 30.0}, steady, 10) == "norm is 30, usual is 1"
    assert problem({"loss": float("inf"), "norm": 1.0}, [], 0) == "loss is inf"
    noisy = [{"loss": 3.0, "norm": 2.0 ** (number % 5)} for number in range(64)]
    assert problem({"loss": 3.0, "norm": 100.0}, noisy, 10) is None


def trained(
    directory: Path, task: Pretraining, name: str, *, run: TrainRun = RUN, settings: Optimization = SETTINGS, **changes: Any
) -> Outcome:
    plan = {"steps": 100, "validate_every": 20, "guard": Guard(), **changes}
    outcome: Outcome = alone(lambda: training(directory, task, run, name=name, settings=settings, **plan))
    return outcome


@dataclass
class Spared(Planted):
    """Knows from the start which samples are to be left out."""

    known: Sequence[int] = ()

    def start(self, place: Any, model: Transformer) -> None:
        super().start(place, model)
        self.skip(())

    def skip(self, samples: Sequence[int]) -> None:
        super().skip([*samples, *self.known])


class Forewarned(Spared):
    """Knows from the start which samples are bad."""

    def skip(self, samples: Sequence[int]) -> None:
        super().skip([*samples, *self.bad_rows])


def test_a_planted_bad_batch_is_undone_and_exactly_its_samples_are_skipped(tmp_path: Path) -> None:
    outcome = trained(tmp_path, planted(tmp_path), "guarded")
    [undone] = outcome.state.skipped
    assert undone["step"] == 91 and undone["samples"] == list(planted(tmp_path).bad_rows) and undone["reason"].startswith("loss is")
    assert "back to step 90, samples 2,160 to 2,183 are skipped" in (tmp_path / "guarded.jsonl").read_text()
    forewarned = trained(tmp_path, planted(tmp_path, Forewarned), "forewarned")
    assert outcome.weights is not None and forewarned.weights is not None
    assert all(torch.equal(outcome.weights[name], tensor) for name, tensor in forewarned.weights.items())
    assert forewarned.state == replace(outcome.state, skipped=[])


OFTEN = replace(RUN, checkpoint_every=2)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_undone_and_its_samples_are_skipped(tmp_path: Path, factor: float) -> None:
    outcome = trained(tmp_path, planted(tmp_path, Corrupt, bad=4, factor=factor), "corrupt", run=OFTEN, steps=5)
    assert outcome.state.skipped == [{"step": 4, "reason": f"loss is {factor}", "samples": [*range(72, 96)]}]
    forewarned = trained(tmp_path, planted(tmp_path, Forewarned, bad=4), "forewarned", run=OFTEN, steps=5)
    assert equal(replace(outcome, state=replace(outcome.state, skipped=[])), forewarned)


@pytest.mark.parametrize(("zero", "factor"), [(0, math.nan), (1, math.inf), (2, math.nan), (3, math.inf)])
def test_a_gradient_that_is_no_number_is_undone_though_its_loss_is_one(tmp_path: Path, zero: int, factor: float) -> None:
    run = replace(OFTEN, zero=zero)
    outcome = trained(tmp_path, planted(tmp_path, Steep, bad=4, factor=factor), "steep", run=run, steps=5)
    assert_undone(outcome, 4)
    forewarned = trained(tmp_path, planted(tmp_path, Forewarned, bad=4), "forewarned", run=run, steps=5)
    assert equal(replace(outcome, state=replace(outcome.state, skipped=[])), forewarned)


@pytest.mark.parametrize(
    ("zero", "offload"), [(1, "none"), (2, "none"), (3, "none"), (1, "optimizer"), (2, "optimizer"), (3, "parameters")]
)
def test_in_16_bits_what_was_no_number_is_forgotten_wherever_it_was_added_up(tmp_path: Path, zero: int, offload: Any) -> None:
    how = {"run": replace(OFTEN, zero=zero, offload=offload), "settings": replace(SETTINGS, precision="bf16"), "steps": 5}
    outcome = trained(tmp_path, planted(tmp_path, Steep, bad=4, factor=math.inf), "steep", **how)
    assert_undone(outcome, 4)
    forewarned = trained(tmp_path, planted(tmp_path, Forewarned, bad=4), "forewarned", **how)
    assert equal(replace(outcome, state=replace(outcome.state, skipped=[])), forewarned)


@pytest.mark.parametrize("zero", range(4))
def test_a_gradient_that_is_far_too_long_is_undone_though_its_loss_is_as_usual(tmp_path: Path, zero: int) -> None:
    task = planted(tmp_path, Steep, bad=ENOUGH + 2, factor=1e4)
    outcome = trained(tmp_path, task, "steep", run=replace(OFTEN, zero=zero), steps=ENOUGH + 3)
    assert_undone(outcome, ENOUGH + 2)


def assert_undone(outcome: Outcome, step: int) -> None:
    """For its gradient's norm, and nothing else was."""
    [undone] = outcome.state.skipped
    assert (undone["step"], undone["samples"]) == (step, [*range(24 * (step - 1), 24 * step)]) and undone["reason"].startswith("norm is")
    assert outcome.weights is not None and all(tensor.isfinite().all() for tensor in outcome.weights.values())


def test_so_many_bad_steps_are_undone_as_may_be_and_one_more_ends_the_training(tmp_path: Path) -> None:
    twice = planted(tmp_path, Corrupt, bad=4, steps=2)
    with pytest.raises(UserError, match=r"step 4: loss is nan, after 1 bad steps were undone; lower lr, or raise guard\.rollbacks"):
        trained(tmp_path, twice, "once", run=OFTEN, steps=5, guard=Guard(rollbacks=1))
    found = trained(tmp_path, twice, "twice", run=OFTEN, steps=5, guard=Guard(rollbacks=2)).state.skipped
    assert [(entry["step"], entry["samples"]) for entry in found] == [(4, [*range(72, 96)]), (4, [*range(96, 120)])]


def test_the_metrics_of_a_training_hold_what_was_skipped(tmp_path: Path) -> None:
    ctx = context(pretrain, tmp_path / "stage")
    ctx.run = replace(OFTEN, workers=0)
    plan, task = Plan(5, 5, guard=Guard()), planted(tmp_path, Corrupt, bad=4)
    report = alone(lambda: launch(ctx, task, plan, SETTINGS, NewModel(TINY.resolved(VOCABULARY), 1)))
    assert training_metrics(report)["skipped"] == [{"step": 4, "reason": "loss is nan", "samples": [*range(72, 96)]}]


@dataclass
class Interrupted(Planted):
    """Fails at a step, the n-th time it comes to it."""

    fails_at: int = 0
    times: int = 1

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        if step == self.fails_at:
            self.times -= 1
            if not self.times:
                raise Broken
        return super().micro_batches(step, model)


@pytest.mark.parametrize("times", [1, 2])
def test_a_crash_before_or_after_going_back_changes_nothing(tmp_path: Path, times: int) -> None:
    whole = trained(tmp_path, planted(tmp_path), "whole")
    at = whole.state.skipped[0]["step"] - 1
    with pytest.raises(Broken):
        trained(tmp_path, planted(tmp_path, Interrupted, fails_at=at, times=times), "cut")
    assert equal(whole, trained(tmp_path, planted(tmp_path), "cut"))


@pytest.mark.parametrize(("kind", "zero", "factor", "bad"), UNDONE)
def test_what_is_wrong_on_one_rank_alone_is_undone_by_all(
    two_ranks: dict[str, Any], kind: type[Corrupt], zero: int, factor: float, bad: int
) -> None:
    [first], [second] = two_ranks["undone"][kind, zero, factor, bad]
    assert first == second and (first["step"], first["samples"]) == (bad, [*range(24 * (bad - 1), 24 * bad)])
    assert first["reason"].startswith("norm is" if kind is Steep else "loss is")


@dataclass
class Ruinous(Planted):
    """What step `bad` reads ruins the weights, which shows in the next step alone."""

    def position(self, step: int) -> dict[str, float]:
        if {*self.bad_rows} & {*self.sample_numbers(step)}:
            with torch.no_grad():
                next(self.model.parameters()).fill_(math.nan)
        return super().position(step)

    def start(self, place: Any, model: Transformer) -> None:
        super().start(place, model)
        self.model = model


@pytest.mark.parametrize("crash", [False, True])
def test_a_checkpoint_that_is_ruined_already_is_not_gone_back_to_again(tmp_path: Path, crash: bool) -> None:
    run = replace(OFTEN, zero=0)
    if crash:

        @dataclass
        class Crashing(Ruinous):
            def skip(self, samples: Sequence[int]) -> None:
                super().skip(samples)
                if len(samples) == 3 * self.rows_per_step:
                    raise Broken

        with pytest.raises(Broken):
            trained(tmp_path, planted(tmp_path, Crashing, bad=4), "ruined", run=run, steps=7)
    outcome = trained(tmp_path, planted(tmp_path, Ruinous, bad=4), "ruined", run=run, steps=7)
    found = [(entry["step"], entry["samples"]) for entry in outcome.state.skipped]
    assert found == [(5, [*range(96, 120)]), (5, [*range(120, 144)]), (4, [*range(72, 96)])]
    assert "back to step 2, samples 72 to 143 are skipped" in (tmp_path / "ruined.jsonl").read_text()

    spared = trained(tmp_path, planted(tmp_path, Spared, bad=4, known=range(72, 144)), "spared", run=run, steps=7)
    assert equal(replace(outcome, state=replace(outcome.state, skipped=[])), spared)


@pytest.mark.parametrize(("bad", "keep_last"), [(3, 2), (5, 1)], ids=["the first checkpoint", "the only one"])
def test_where_there_is_no_other_checkpoint_bad_batches_are_left_out_one_after_another(tmp_path: Path, bad: int, keep_last: int) -> None:
    run = replace(OFTEN, keep_last=keep_last)
    outcome = trained(tmp_path, planted(tmp_path, Corrupt, bad=bad, steps=2), "corrupt", run=run, steps=bad + 2)
    assert [(entry["step"], entry["samples"][0]) for entry in outcome.state.skipped] == [(bad, 24 * (bad - 1)), (bad, 24 * bad)]


def test_what_was_given_up_is_not_gone_back_to(tmp_path: Path) -> None:
    """Three bad batches in a row, of which the third is met before the checkpoint that was taken for ruined is written again."""
    run = replace(OFTEN, zero=0)
    outcome = trained(tmp_path, planted(tmp_path, Corrupt, bad=5, steps=3), "corrupt", run=run, steps=9)
    left_out = sorted(sample for entry in outcome.state.skipped for sample in entry["samples"])

    assert left_out == [*range(72, 168)]
    spared = trained(tmp_path, planted(tmp_path, Spared, bad=1000, known=left_out), "spared", run=run, steps=9)
    assert equal(replace(outcome, state=replace(outcome.state, skipped=[])), spared)


def test_no_more_is_left_out_than_may_be(tmp_path: Path) -> None:
    outcome = trained(tmp_path, planted(tmp_path, Corrupt, bad=5, steps=2), "corrupt", run=OFTEN, steps=9, guard=Guard(rollbacks=2))
    assert [(entry["step"], entry["samples"][0]) for entry in outcome.state.skipped] == [(5, 96), (5, 120)]


def test_one_more_than_may_be_undone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step \d+: (loss|norm) is .* after 0 bad steps were undone; lower lr, or raise guard.rollbacks"):
        trained(tmp_path, planted(tmp_path), "strict", guard=Guard(rollbacks=0))


def test_without_a_checkpoint_there_is_no_way_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint to go back to; lower lr, raise warmup_steps, or lower run.checkpoint_every"):
        trained(tmp_path, planted(tmp_path), "far", run=replace(RUN, checkpoint_every=1000))


@pytest.mark.parametrize("seed", range(5))
def test_healthy_trainings_are_left_alone(tmp_path: Path, seed: int) -> None:
    outcome = trained(tmp_path, pretraining(tmp_path, seed=seed), "healthy", steps=100)
    assert outcome.state.skipped == [] and len(outcome.state.recent) == 64
