"""Checkpoints: what is resumed is what was interrupted, bit for bit; other ranks and stages go on from it."""

import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import trainer.checkpoint
from pipeline.stage import UserError
from tests.trainer.test_engine import OFFLOADED
from tests.trainer.worlds import (
    TINY,
    VOCABULARY,
    alone,
    continued,
    crossing,
    crowded,
    drawing,
    elastic,
    equal,
    pretraining,
    resumed,
    same_state,
    samples_read,
    tiny,
    together,
    training,
    trajectory,
)  # fmt: skip
from trainer.engine import Engine, Optimization, TrainRun
from trainer.model.transformer import Transformer
from trainer.objectives.language_model import TokenBatch
from trainer.tasks.language_model import Pretraining

NO_ROOM = r"the checkpoint of step (4|6) cannot be written: .* GB are free; make room and run the same command"
RUN = TrainRun(workers=1, zero=1, checkpoint_every=2)


@pytest.mark.parametrize(("precision", "zero"), [*(("fp32", zero) for zero in range(4)), *(("bf16", zero) for zero in range(1, 4))])
def test_two_ranks_resume_bit_for_bit(two_ranks: dict[str, Any], precision: str, zero: int) -> None:
    assert two_ranks["exact"][precision, zero]


@pytest.mark.parametrize("stages", [(1, 3), pytest.param((0, 2), marks=pytest.mark.proof)])
def test_from_two_ranks_to_one_and_back_is_the_uninterrupted_training(two_ranks: dict[str, Any], stages: tuple[int, ...]) -> None:
    directory = two_ranks["directory"]
    for zero in stages:
        alone(lambda: elastic(directory, 0, steps=4, under=f"elastic-{zero}"))  # noqa: B023, as a rank alone runs, whatever is set
        resumed = [checkpoint.facts["world_size"] for checkpoint in trajectory(directory, f"elastic-{zero}").complete()]
        assert resumed == [1, 1]
        assert not list((directory / f"elastic-{zero}-steps").glob("**/universal*"))
    back = together(2, directory, continued, str(directory), stages)[0]
    for zero, whole in ((zero, two_ranks["whole"][zero]) for zero in stages):
        assert back[zero].weights.keys() == whole.weights.keys()
        for name, tensor in whole.weights.items():
            assert torch.allclose(back[zero].weights[name], tensor, rtol=0, atol=1e-6), (zero, name)
        assert back[zero].state.totals == whole.state.totals
        read = samples_read(directory, f"elastic-{zero}")
        assert len(read) == 6 * 6 and read == samples_read(directory, f"whole-{zero}")
        assert back[zero].state.history[-1]["validation"]["loss"] == pytest.approx(whole.state.history[-1]["validation"]["loss"], abs=1e-6)


@pytest.mark.parametrize("fails_at", [1, 2, 3, 5])
def test_one_rank_resumes_bit_for_bit_whenever_it_failed(tmp_path: Path, fails_at: int) -> None:
    whole = alone(lambda: training(tmp_path, pretraining(tmp_path), RUN, name="whole"))
    assert equal(whole, alone(lambda: resumed(tmp_path, RUN, "cut", fails_at))) and same_state(tmp_path, "whole", "cut")


@pytest.mark.parametrize(("zero", "offload"), OFFLOADED)
def test_what_is_offloaded_resumes_bit_for_bit(tmp_path: Path, zero: int, offload: Any) -> None:
    run = replace(RUN, zero=zero, offload=offload)
    whole = alone(lambda: training(tmp_path, pretraining(tmp_path), run, name="whole"))
    again = alone(lambda: resumed(tmp_path, run, "cut", 5))
    assert equal(whole, again) and same_state(tmp_path, "whole", "cut")
    assert again.counted["tokens"] < whole.counted["tokens"]


def test_best_weights_survive_a_crash_after_them(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"steps": 8, "validate_every": 1, "keep_best": "loss"}
    whole = alone(lambda: training(tmp_path, pretraining(tmp_path), RUN, name="whole", **plan))
    assert equal(whole, alone(lambda: resumed(tmp_path, RUN, "cut", 7, **plan)))


@dataclass
class Damaging(Pretraining):
    """Cuts a checkpoint's file at a step."""

    victim: Callable[[], Path] = Path
    at: int = 0

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        if step == self.at:
            self.victim().write_bytes(b"")
        return super().micro_batches(step, model)


def test_a_best_checkpoint_that_is_damaged_is_made_again_or_one_line_with_the_mend(tmp_path: Path) -> None:
    settings = Optimization(lr=1.0, schedule="constant", warmup_steps=4, clip=0)  # better at first, then ruined
    plan: dict[str, Any] = {"settings": settings, "steps": 10, "validate_every": 1, "keep_best": "loss"}
    whole = alone(lambda: training(tmp_path, pretraining(tmp_path), RUN, **plan))
    best = whole.state.best_step

    def victim(name: str) -> Path:
        [found] = [checkpoint for checkpoint in trajectory(tmp_path, name).complete() if checkpoint.step == best < 9]
        return next(Path(found.directory, "state").iterdir())

    victim("one").write_bytes(b"")
    assert equal(whole, alone(lambda: training(tmp_path, pretraining(tmp_path), RUN, **plan)))
    damaging = pretraining(tmp_path, kind=Damaging, victim=lambda: victim("late"), at=9)
    with pytest.raises(
        UserError, match=rf"late-steps: the checkpoint of step {best}, the best one, is gone or damaged; remove this folder"
    ):
        alone(lambda: training(tmp_path, damaging, RUN, name="late", **plan))


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole = alone(lambda: training(tmp_path, pretraining(tmp_path), RUN, name="whole"))
    steps = [checkpoint.step for checkpoint in trajectory(tmp_path, "whole").complete()]
    assert steps[0] == 6 and len(steps) > 1
    newest = next(trajectory(tmp_path, "whole").complete())
    victim = next(path for path in sorted(Path(newest.directory, "state").iterdir()))
    victim.write_bytes(victim.read_bytes()[:-1])
    again = alone(lambda: training(tmp_path, pretraining(tmp_path), RUN, name="whole"))
    assert again.counted == {"tokens": (6 - steps[1]) * 6 * 24} and equal(whole, again)
    assert f"a checkpoint is passed over: {victim}" in (tmp_path / "whole.jsonl").read_text()


def test_each_stage_goes_on_from_the_others(tmp_path: Path) -> None:
    whole = alone(lambda: elastic(tmp_path, 1, steps=8, name="whole"))
    stages = (1, 2, 0, 1, 3, 0, 3, 1)
    for steps, zero in enumerate(stages, start=1):
        found = alone(lambda: elastic(tmp_path, zero, steps=steps, under="changing"))  # noqa: B023
    told = (tmp_path / "changing.jsonl").read_text()
    assert all(f"from 1 rank at ZeRO {first} to 1 rank at ZeRO {second}" in told for first, second in pairwise(stages))
    assert found.counted == {"tokens": 6 * 24}
    assert all(torch.allclose(found.weights[name], tensor, rtol=0, atol=1e-6) for name, tensor in whole.weights.items())


def test_what_is_offloaded_goes_on_at_other_stages(tmp_path: Path) -> None:
    whole = alone(lambda: elastic(tmp_path, 1, steps=3, name="whole"))
    kinds = [(2, "optimizer"), (1, "none"), (3, "parameters")]
    for steps, (zero, offload) in enumerate(kinds, start=1):
        found = alone(lambda: elastic(tmp_path, zero, steps=steps, under="moving", offload=offload))  # noqa: B023
        assert found.counted == {"tokens": 6 * 24}
    assert all(torch.allclose(found.weights[name], tensor, rtol=0, atol=1e-6) for name, tensor in whole.weights.items())


@pytest.mark.proof
@pytest.mark.parametrize("stages", [(1, 1, 1), (2, 3, 1), (3, 3, 3), (0, 1, 0)])
def test_ranks_and_stage_change_at_once(two_ranks: dict[str, Any], stages: tuple[int, int, int]) -> None:
    directory, name = two_ranks["directory"], "at-once-" + "-".join(map(str, stages))
    together(2, directory, crossing, str(directory), stages[0], 2, "fp32", name)
    alone(crossing, str(directory), stages[1], 4, "fp32", name)
    back = together(2, directory, crossing, str(directory), stages[2], 6, "fp32", name)[0]
    told = (directory / f"{name}-fp32.jsonl").read_text()
    assert f"from 2 ranks at ZeRO {stages[0]} to 1 rank at ZeRO {stages[1]}" in told
    assert f"from 1 rank at ZeRO {stages[1]} to 2 ranks at ZeRO {stages[2]}" in told
    assert all(torch.allclose(back.weights[name], tensor, rtol=0, atol=1e-6) for name, tensor in two_ranks["whole"][1].weights.items())


@pytest.mark.proof
def test_half_precision_goes_on_at_other_stages_and_on_other_ranks(two_ranks: dict[str, Any]) -> None:
    directory = two_ranks["directory"]
    whole = together(2, directory, crossing, str(directory), 1, 6, "bf16", "whole")[0].state
    for zero, steps in ((1, 2), (3, 4), (2, 5)):
        together(2, directory, crossing, str(directory), zero, steps, "bf16")
    back = together(2, directory, crossing, str(directory), 1, 6, "bf16")[0].state
    assert back.totals == whole.totals
    assert back.history[-1]["validation"]["loss"] == pytest.approx(whole.history[-1]["validation"]["loss"], abs=1e-6)
    for ranks, steps in ((2, 2), (1, 4), (2, 6)):
        found = together(ranks, directory, crossing, str(directory), 1, steps, "bf16", "ranks")[0].state
    assert found.totals == whole.totals
    assert found.history[-1]["validation"]["loss"] == pytest.approx(whole.history[-1]["validation"]["loss"], abs=0.01)


@pytest.mark.parametrize("zero", [1, 3])
def test_a_checkpoint_that_is_written_late_holds_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero: int) -> None:
    def late(files: dict[str, Any]) -> None:
        time.sleep(0.1)  # some steps
        write(files)

    write = trainer.checkpoint._write
    monkeypatch.setattr(trainer.checkpoint, "_write", late)
    run = TrainRun(workers=1, zero=zero, checkpoint_every=2, keep_last=10)
    whole = alone(lambda: training(tmp_path, pretraining(tmp_path), run, name="whole"))
    saved = list(trajectory(tmp_path, "whole").complete())
    assert {6, 4, 2} <= {checkpoint.step for checkpoint in saved}
    for later, checkpoint in pairwise(saved):
        shutil.rmtree(later.directory)
        again = alone(lambda: training(tmp_path, pretraining(tmp_path), run, name="whole"))
        assert again.counted == {"tokens": (6 - checkpoint.step) * 6 * 24} and equal(whole, again)
        for found in list(trajectory(tmp_path, "whole").complete()):
            if found.step > checkpoint.step:
                shutil.rmtree(found.directory)


@dataclass
class Telling(Pretraining):
    """Tells that a step begins."""

    at: int = 0
    begun: threading.Event = field(default_factory=threading.Event)

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        if step == self.at:
            self.begun.set()
        return super().micro_batches(step, model)


def test_steps_are_trained_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(files: dict[str, Any]) -> None:
        waited.append(begun.wait(timeout=30))
        write(files)

    begun = threading.Event()
    task = pretraining(tmp_path, kind=Telling, at=4, begun=begun)  # the first checkpoint is of three steps, one passes
    waited: list[bool] = []
    write = trainer.checkpoint._write
    monkeypatch.setattr(trainer.checkpoint, "_write", late)
    settings = Optimization(lr=1e-2, schedule="constant", warmup_steps=2)
    alone(lambda: training(tmp_path, task, replace(RUN, checkpoint_every=3), settings=settings))
    assert waited == [True, True] and [checkpoint.step for checkpoint in trajectory(tmp_path, "one").complete()] == [6, 3]


@pytest.mark.parametrize("zero", range(4))
def test_a_folder_without_a_checkpoint_is_no_checkpoint(tmp_path: Path, zero: int) -> None:
    engine = alone(lambda: Engine(tiny(), Optimization(), replace(RUN, zero=zero), 1))
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=rf"^{folder}: DeepSpeed finds no checkpoint 'state' in it$"):
            trainer.checkpoint._read(engine, str(folder), trainer.checkpoint.TAG)


def test_as_many_of_the_last_and_of_the_best_stay_as_asked_for(tmp_path: Path) -> None:
    settings = Optimization(lr=1.0, schedule="constant", warmup_steps=4, clip=0)  # better at first, then ruined
    run = TrainRun(workers=1, zero=1, checkpoint_every=3, keep_last=1, keep_best=3)
    outcome = alone(lambda: training(tmp_path, pretraining(tmp_path), run, settings=settings, steps=10, validate_every=1))
    losses = {entry["step"]: entry["validation"]["loss"] for entry in outcome.state.history if entry["step"]}
    best = sorted(losses, key=lambda step: losses[step])[:3]
    assert any(step % 3 for step in best)
    assert [checkpoint.step for checkpoint in trajectory(tmp_path, "one").complete()] == sorted({10, *best}, reverse=True)


def test_those_that_are_kept_for_good_stay_beside_the_last(tmp_path: Path) -> None:
    settings = Optimization(lr=1e-2, schedule="constant", warmup_steps=2)
    run = TrainRun(workers=1, zero=1, checkpoint_every=2, keep_last=1, keep_every=3)
    alone(lambda: training(tmp_path, pretraining(tmp_path), run, settings=settings, steps=7))
    assert [checkpoint.step for checkpoint in trajectory(tmp_path, "one").complete()] == [7, 6, 3]


def test_the_best_of_no_validations_are_refused_before_the_first_step(tmp_path: Path) -> None:
    run = TrainRun(workers=1, keep_best=1)
    with pytest.raises(UserError, match=r"run.keep_best: no validation tells the loss .* set it to 0"):
        alone(lambda: training(tmp_path, pretraining(tmp_path, validation_tokens=0), run))


def test_a_disk_without_room_is_one_line_and_the_checkpoint_before_remains(tmp_path: Path) -> None:
    whole = alone(lambda: training(tmp_path, pretraining(tmp_path), RUN, name="whole"))
    with crowded() as kind, pytest.raises(UserError, match=NO_ROOM) as refused:
        alone(lambda: training(tmp_path, pretraining(tmp_path, kind=kind), RUN, name="full"))
    # the checkpoint that was being written when the room was gone, or the next
    failed = int(re.findall(NO_ROOM, str(refused.value))[0])
    assert next(trajectory(tmp_path, "full").complete()).step == failed - 2
    assert equal(whole, alone(lambda: training(tmp_path, pretraining(tmp_path), RUN, name="full")))


def test_a_disk_without_room_for_one_checkpoint_is_one_line_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = sum(parameter.numel() for parameter in Transformer(TINY.resolved(VOCABULARY)).parameters())
    room = SimpleNamespace(free=12 * parameters)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room)
    alone(lambda: training(tmp_path, pretraining(tmp_path), RUN, name="enough"))
    room.free -= 1
    with pytest.raises(
        UserError, match=r"little-steps: a checkpoint takes .* GB at least, .* are free; make room, or set root to a larger"
    ):
        alone(lambda: training(tmp_path, pretraining(tmp_path), RUN, name="little"))
    assert not (tmp_path / "little.jsonl").exists()


def test_a_disk_without_room_for_a_conversion_is_one_line_and_the_checkpoint_remains(tmp_path: Path) -> None:
    steps = {"settings": Optimization(lr=1e-2, schedule="constant", warmup_steps=0), "name": "full"}
    alone(lambda: training(tmp_path, pretraining(tmp_path), RUN, steps=4, **steps))
    other = replace(RUN, zero=2)
    with (
        crowded() as kind,
        pytest.raises(UserError, match=r"no room to convert it for these ranks, .* make room .* or go on"),
    ):
        alone(lambda: training(tmp_path, pretraining(tmp_path, kind=kind, full_at=0), other, steps=8, **steps))
    assert not list(tmp_path.rglob("source"))  # nothing of the attempt is left
    assert alone(lambda: training(tmp_path, pretraining(tmp_path), other, steps=8, **steps)).counted["tokens"] == 4 * 6 * 24


def test_where_one_rank_has_no_room_all_say_so(two_ranks: dict[str, Any]) -> None:
    assert re.search(NO_ROOM, two_ranks["crowded"])


def test_random_numbers_go_on_where_they_stopped(tmp_path: Path) -> None:
    whole, again = drawing(tmp_path), drawing(tmp_path)
    alone(lambda: training(tmp_path, whole, RUN))
    newest, before, _ = trajectory(tmp_path, "one").complete()
    shutil.rmtree(newest.directory)
    alone(lambda: training(tmp_path, again, RUN))
    assert before.step == 4 and again.drawn == {step: whole.drawn[step] for step in (4, 5)}


@pytest.mark.parametrize("zero", range(4))
def test_random_numbers_of_every_rank_go_on_where_they_stopped(two_ranks: dict[str, Any], zero: int) -> None:
    ranks = two_ranks["drawn"][zero]
    for whole, again in ranks:
        assert again == {step: whole[step] for step in (4, 5)}
    (first, _), (second, _) = ranks
    assert not {*first.values()} & {*second.values()}
