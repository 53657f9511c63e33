"""The loop: invariance to how a step is cut, best weights, early stopping, longer trainings."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.stage import UserError
from tests.trainer.worlds import TINY, VOCABULARY, Broken, alone, equal, pretraining, training, trajectory
from trainer import loop
from trainer.data.mixture import Mixture
from trainer.engine import Engine, Optimization, TrainRun
from trainer.guard import Guard
from trainer.loop import Outcome, Scored
from trainer.model.transformer import Transformer
from trainer.objectives.language_model import TokenBatch
from trainer.tasks.language_model import Pretraining
from trainer.tasks.task import Place

ONE = TrainRun(workers=1, zero=0)


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert set(first) == set(second)
    for name, tensor in first.items():
        difference = (tensor - second[name]).abs().max().item()
        assert difference < 2e-5, f"{name} differs by {difference}"


def test_the_loss_falls_and_the_record_is_complete(tmp_path: Path) -> None:
    outcome = alone(training, tmp_path, pretraining(tmp_path), ONE)
    first, middle, last = outcome.state.history
    assert [entry["step"] for entry in outcome.state.history] == [0, 3, 6]
    assert last["validation"]["loss"] < middle["validation"]["loss"] < first["validation"]["loss"]
    assert set(first["validation"]) == {"loss", "bits_per_byte"} and set(last["train"]) == {"loss"}
    assert outcome.state.totals == {"tokens": 6 * 6 * 24}
    events = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert [event["done"] for event in events if event["event"] == "progress"] == [1, 2, 3, 4, 5, 6]


def test_a_node_that_is_about_to_go_is_met_with_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOOK_EVERY_S", 0.0)
    told = iter([(), ("one",), ("one",), ("two", "one"), ("two",), ("two",)])
    run = replace(ONE, checkpoint_every=100, keep_last=9)
    outcome = alone(lambda: training(tmp_path, pretraining(tmp_path), run, leaving=lambda: next(told)))
    assert sorted(checkpoint.step for checkpoint in trajectory(tmp_path).complete()) == [2, 4, 6]
    events = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert [event["text"] for event in events if event["event"] == "note"] == [
        f"a node is about to go: checkpoint of step {step}" for step in (2, 4)
    ]
    assert equal(outcome, alone(lambda: training(tmp_path, pretraining(tmp_path), run, name="alone")))
    assert next(told, None) is None


def test_a_step_whose_gradients_fp16_has_no_room_for_applies_nothing_and_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 is refused on CPUs: the engine tells what it would tell there."""

    def overflowing(engine: Engine, number: int) -> float | None:
        if number == 3:
            engine.deepspeed.zero_grad()
            return None
        return step(engine, number)

    step = Engine.step
    monkeypatch.setattr(Engine, "step", overflowing)
    outcome = alone(lambda: training(tmp_path, pretraining(tmp_path), ONE, guard=Guard()))
    assert outcome.state.totals == {"tokens": 6 * 6 * 24} and not outcome.state.skipped
    events = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    told = [event for event in events if event["event"] == "progress"]
    assert [event["done"] for event in told if "norm" in event] == [1, 2, 3, 5, 6] and [event["done"] for event in told] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_gradients_do_not_depend_on_the_cut_into_micro_batches(tmp_path: Path) -> None:
    model = Transformer(TINY.resolved(VOCABULARY), seed=1).double()
    gradients = []
    for size in (1, 4, 7):
        task = pretraining(tmp_path, rows_per_step=7)
        task.start(Place(0, 1, torch.device("cpu"), size), model)
        scored = Scored(model, task)
        batches = task.micro_batches(0, model)
        tokens = sum(task.counts(batch)["tokens"] for batch in batches)
        model.zero_grad()
        for batch in batches:
            scored(batch, {"tokens": tokens})[0].backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None})
    for name, gradient in gradients[0].items():
        for other in gradients[1:]:
            torch.testing.assert_close(gradient, other[name], atol=1e-6, rtol=1e-6)  # log-probabilities are fp32


def test_neither_ranks_nor_zero_stage_nor_accumulation_change_the_result(tmp_path: Path, two_ranks: dict[str, Any]) -> None:
    task = pretraining(tmp_path, rows_per_step=7)
    alone_weights = dict(alone(lambda: training(tmp_path, task, TrainRun(workers=1, zero=0, micro_batch=7), steps=4)).weights)
    for weights in two_ranks["weights"].values():
        assert_close(alone_weights, weights)


def test_the_best_weights_are_kept_and_training_stops_when_nothing_improves(tmp_path: Path) -> None:
    settings = Optimization(lr=1.0, schedule="constant", warmup_steps=4, clip=0)  # better at first, then ruined
    run = TrainRun(workers=1, zero=1, checkpoint_every=1)
    task = pretraining(tmp_path)
    plan: dict[str, Any] = {"steps": 30, "validate_every": 1, "keep_best": "loss", "patience": 3}
    outcome = alone(lambda: training(tmp_path, task, run, settings=settings, **plan))
    validations = {entry["step"]: entry["validation"]["loss"] for entry in outcome.state.history if entry["step"]}
    best = min(validations, key=lambda step: validations[step])
    assert outcome.state.best_step == best < outcome.steps == best + 3 < 30
    short = alone(lambda: training(tmp_path, task, run, name="short", settings=settings, steps=best, validate_every=1))
    assert all(torch.equal(short.weights[name], outcome.weights[name]) for name in short.weights)


def test_the_best_weights_of_a_shorter_training_are_not_taken_for_those_of_a_longer_one(tmp_path: Path) -> None:
    @dataclass
    class Ruined(Pretraining):
        """From the seventh step on."""

        def start(self, place: Place, model: Transformer) -> None:
            super().start(place, model)
            self.model = model

        def position(self, step: int) -> dict[str, float]:
            if step >= 6:
                with torch.no_grad():
                    next(self.model.parameters()).mul_(9)
            return super().position(step)

    plan: dict[str, Any] = {"settings": Optimization(lr=1e-2, warmup_steps=1), "validate_every": 3, "keep_best": "loss"}
    run, task = TrainRun(workers=1, zero=0, checkpoint_every=100), pretraining(tmp_path, Ruined)
    shorter = alone(lambda: training(tmp_path, task, run, name="shorter", steps=10, **plan))
    shutil.copytree(tmp_path / "shorter-steps", tmp_path / "longer-steps")
    longer, fresh = (alone(lambda: training(tmp_path, task, run, name=name, steps=14, **plan)) for name in ("longer", "fresh"))  # noqa: B023
    assert longer.state.best_step == shorter.state.best_step == 6  # the cosine of the longer one has fallen less
    assert equal(longer, fresh)


@pytest.mark.parametrize("schedule", ["constant", "wsd", "cosine"])
def test_a_longer_training_continues_where_learning_rates_coincide(tmp_path: Path, schedule: Any) -> None:
    settings = Optimization(lr=1e-2, schedule=schedule, warmup_steps=1, decay=0.5)
    run = TrainRun(workers=1, zero=1, checkpoint_every=100)
    task = pretraining(tmp_path)
    alone(lambda: training(tmp_path, task, run, name="grown", settings=settings, steps=6))
    grown = alone(lambda: training(tmp_path, task, run, name="grown", settings=settings, steps=12))
    fresh = alone(lambda: training(tmp_path, task, run, name="fresh", settings=settings, steps=12))
    reused = {"constant": 6, "wsd": 3, "cosine": 1}[schedule]
    assert grown.counted["tokens"] == (12 - reused) * 6 * 24
    assert grown.state == fresh.state
    assert all(torch.equal(grown.weights[name], fresh.weights[name]) for name in fresh.weights)


@dataclass
class Spoiled(Pretraining):
    """The loss of what reads one of these rows is no number."""

    bad: tuple[int, ...] = ()

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        self.now = float("nan") if {*self.bad} & {*self.sample_numbers(step)} else 1.0
        return super().micro_batches(step, model)

    def terms(self, model: Transformer, batch: Any) -> Any:
        return {name: replace(term, numerator=term.numerator * self.now) for name, term in super().terms(model, batch).items()}


@pytest.mark.parametrize(("bad", "branch"), [((), 3), ((8,), 2), ((8, 20), 2)], ids=["none", "one before", "one before, one after"])
def test_a_longer_training_goes_on_from_where_the_mixture_begins_to_change(tmp_path: Path, bad: tuple[int, ...], branch: int) -> None:
    def phased(name: str, steps: int) -> Outcome:
        changes = [(steps // 2 * whole.rows_per_step, [1.0, 1.0])]
        task = replace(whole, corpora=parts, mixture=Mixture([3.0, 1.0], [None, None], changes))
        plan = {"steps": steps, "branch": steps // 2, "guard": Guard()}
        outcome: Outcome = alone(lambda: training(tmp_path, task, run, name=name, settings=settings, **plan))
        return outcome

    whole = pretraining(tmp_path, Spoiled, validation_tokens=0, bad=bad)
    [corpus] = whole.corpora
    parts = tuple(replace(corpus, role=role, train=files) for role, files in (("books", corpus.train[:2]), ("web", corpus.train[2:])))
    settings, run = Optimization(lr=1e-2, schedule="constant", warmup_steps=1), TrainRun(workers=1, checkpoint_every=1, keep_last=1)
    phased("grown", 6)
    # the samples of the bad step are left out, and those of the other phase move up
    assert [checkpoint.step for checkpoint in trajectory(tmp_path, "grown").complete()] == [6, branch]
    grown, fresh = phased("grown", 12), phased("fresh", 12)
    assert grown.counted["tokens"] == (12 - branch) * 6 * 24
    assert equal(grown, fresh)


def test_a_loss_that_is_no_number_stops_the_training_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Optimization(lr=1.0, schedule="constant", warmup_steps=0, clip=0)
    task = pretraining(tmp_path)
    original = task.terms
    passes: list[bool] = []

    def broken(model: Transformer, batch: Any) -> Any:
        terms = original(model, batch)
        passes.append(torch.is_grad_enabled())
        factor = float("nan") if sum(passes) > 2 else 1.0  # from the third step on
        return {name: type(term)(term.numerator * factor, term.denominator, term.weight) for name, term in terms.items()}

    monkeypatch.setattr(task, "terms", broken)
    with pytest.raises(UserError, match=r"step 3: loss is nan.*lower lr"):
        alone(lambda: training(tmp_path, task, ONE, settings=settings))


@dataclass
class Refused(Pretraining):
    """Ends as it begins, with the model that it was given."""

    def start(self, place: Place, model: Transformer) -> None:
        raise Broken(model)


@pytest.mark.parametrize("run", [TrainRun(), TrainRun(recompute="layer"), TrainRun(compile=True)])
def test_the_model_learns_how_its_layers_are_to_be_computed(tmp_path: Path, run: TrainRun) -> None:
    with pytest.raises(Broken) as ended:
        alone(lambda: training(tmp_path, pretraining(tmp_path, kind=Refused), run))
    [model] = ended.value.args
    assert model.model.recompute is (run.recompute == "layer")
    assert [block._compiled_call_impl is not None for block in model.model.layers] == [run.compile] * TINY.num_hidden_layers
