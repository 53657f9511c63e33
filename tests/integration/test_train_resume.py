"""Two ranks under Ray Train: a rank that dies is replaced and leaves no trace in the weights; errors arrive as they were raised."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cluster import ClusterConfig, connect
from pipeline.progress import Progress
from pipeline.stage import UserError
from tests.trainer.worlds import TINY, VOCABULARY, alone, pretraining, trajectory
from trainer.engine import Optimization, TrainRun
from trainer.launch import NewModel, Training, stopping_at_a_checkpoint, train_on_ray, train_rank
from trainer.loop import Plan
from trainer.model.transformer import Transformer
from trainer.objectives.language_model import TokenBatch
from trainer.tasks.language_model import Pretraining


@dataclass
class Dies(Pretraining):
    """Rank 1 is killed before each of these steps, the first time it gets there."""

    marker: str = ""
    before: tuple[int, ...] = (5,)
    asked: int = 0  # a process that is asked to end at the same time

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        marker = Path(f"{self.marker}-{step}")
        if step in self.before and self._place.rank == 1 and not marker.exists():
            marker.touch()
            if self.asked:
                os.kill(self.asked, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().micro_batches(step, model)


def end(number: int, frame: Any) -> None:
    raise SystemExit(143)


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    connect(ClusterConfig(cpus=2))
    yield
    import ray

    ray.shutdown()


def training(folder: Path, task: Pretraining, name: str) -> Training:
    run = TrainRun(zero=1, micro_batch=2, checkpoint_every=2, restarts=1)
    steps = trajectory(folder, name)
    return Training(
        task,
        Plan(steps=8, validate_every=4),
        Optimization(lr=1e-2, warmup_steps=2),
        run,
        NewModel(TINY.resolved(VOCABULARY), seed=1),
        directory=str(folder / f"{name}-weights"),
        inputs={},
        trajectory=steps,
        fence=steps.fence,
        progress=Progress(str(folder / f"{name}.jsonl"), "test"),
    )


def test_a_rank_that_dies_is_replaced_as_often_as_there_is_a_checkpoint_in_between_and_the_weights_are_the_same_bytes(
    tmp_path: Path, own_ray: None
) -> None:
    whole = train_on_ray(training(tmp_path, pretraining(tmp_path), "whole"), "whole")
    dying = training(tmp_path, pretraining(tmp_path, kind=Dies, marker=str(tmp_path / "died"), before=(3, 6)), "dying")
    cut = Path(dying.trajectory.begin(99))
    again = train_on_ray(replace(dying, run=replace(dying.run, checkpoint_every=1)), "dying")
    assert not cut.exists()  # a checkpoint that ranks which are gone left unfinished
    assert (tmp_path / "died-3").exists() and (tmp_path / "died-6").exists()
    assert (tmp_path / "dying-weights" / "model.safetensors").read_bytes() == (
        tmp_path / "whole-weights" / "model.safetensors"
    ).read_bytes()
    assert again["history"] == whole["history"] and again["totals"] == whole["totals"] == {"tokens": 8 * 6 * 24}
    notes = [json.loads(line) for line in (tmp_path / "dying.jsonl").read_text().splitlines()]
    assert ["restart 1 of 1" in event["text"] for event in notes if event["event"] == "note"] == [True, True]


def test_a_request_to_end_that_comes_with_the_loss_of_a_rank_is_not_forgotten(tmp_path: Path, own_ray: None) -> None:
    task = pretraining(tmp_path, kind=Dies, marker=str(tmp_path / "died"), asked=os.getpid())
    asked = training(tmp_path, task, "asked")
    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit):
            train_on_ray(asked, "asked")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "died-5").exists() and not asked.trajectory.stop_request.exists()
    assert [checkpoint.step for checkpoint in asked.trajectory.complete()][:1] in ([2], [4])
    # no restart in between: the next launch finds what is lost and goes on
    assert "restart" not in (tmp_path / "asked.jsonl").read_text()
    (tmp_path / "died-5").unlink()
    with pytest.raises(UserError, match=r"ranks were lost 1 times in a row \(.*\): see to the machine's memory and nodes, then run"):
        train_on_ray(replace(asked, task=replace(task, asked=0), run=replace(asked.run, restarts=0)), "again")


def test_a_mistake_on_a_rank_arrives_as_it_was_raised_and_is_not_tried_again(tmp_path: Path, own_ray: None) -> None:
    task = pretraining(tmp_path)
    first, *others = task.corpora[0].train
    corpus = replace(task.corpora[0], train=(replace(first, path=str(tmp_path / "gone.bin")), *others))
    with pytest.raises(UserError, match=r"gone\.bin: cannot be opened"):
        train_on_ray(training(tmp_path, replace(task, corpora=(corpus,)), "broken"), "broken")
    assert not (tmp_path / "broken.jsonl").exists()  # no step, and no note of a restart


def test_more_ranks_than_the_cluster_can_hold_are_refused_with_the_number_it_can(own_ray: None) -> None:
    import ray

    there = int(ray.cluster_resources()["CPU"])
    with pytest.raises(UserError, match=rf"{there + 1} ranks need {there + 1} CPUs.*run\.workers={there}"):
        TrainRun(workers=there + 1).require_room("pretrain", ray.cluster_resources())


@dataclass
class Placed:
    """What Ray Train was told, and when which nodes go."""

    told: list[Any]
    going: dict[str, int]


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> Placed:
    """Four nodes with a CPU and a GPU each, of which one is lost and one about to go."""
    import ray.train.torch

    placed = Placed([], {"going": 0})

    class Recorder:
        """Stands in for Ray Train, which would look for GPUs."""

        def __init__(self, *_: Any, torch_config: Any, **settings: Any) -> None:
            placed.told.append(torch_config)

        def fit(self) -> Any:
            return SimpleNamespace(return_value={})

    resources, own = {"CPU": 1.0, "GPU": 1.0}, SimpleNamespace(get_node_id=lambda: "own")
    nodes = [{"NodeID": name, "Alive": name != "lost", "Resources": resources} for name in ("own", "other", "lost", "going")]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: own)
    monkeypatch.setattr(ray._private.state.state, "get_draining_nodes", lambda: placed.going)
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Recorder)
    return placed


@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (1, "nccl")])
def test_ranks_wait_for_each_other_as_long_as_a_checkpoint_takes_on_any_device(
    tmp_path: Path, placed: Placed, gpus: int, backend: str
) -> None:
    asked = training(tmp_path, pretraining(tmp_path), "told")
    train_on_ray(replace(asked, run=replace(asked.run, gpus_per_worker=gpus)), "told")
    assert [(config.backend, config.timeout_s) for config in placed.told] == [(backend, 7200)]


def test_there_is_room_only_on_nodes_that_stay_and_a_command_whose_own_node_goes_ends(tmp_path: Path, placed: Placed) -> None:
    asked = training(tmp_path, pretraining(tmp_path), "told")
    with pytest.raises(UserError, match=r"3 ranks need 3 CPUs, the cluster has 2; set test\.run\.workers=2"):
        train_on_ray(replace(asked, run=replace(asked.run, workers=3)), "told")
    assert not placed.told
    placed.going["own"] = 0
    with pytest.raises(UserError, match="the node that this command runs on is about to go"):
        train_on_ray(asked, "told")


@dataclass
class Terminated(Pretraining):
    """Is asked to end in its third step, so many times."""

    times: int = 1

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        for _ in range(self.times if step == 2 else 0):
            signal.raise_signal(signal.SIGTERM)
        return super().micro_batches(step, model)


@pytest.mark.parametrize(("times", "saved"), [(1, [3]), (2, [])])
def test_a_request_to_end_waits_for_a_checkpoint_and_a_second_one_does_not(tmp_path: Path, times: int, saved: list[int]) -> None:
    settings, run = Optimization(schedule="constant"), TrainRun(workers=0, checkpoint_every=100)
    asked = replace(training(tmp_path, pretraining(tmp_path, kind=Terminated, times=times), "asked"), settings=settings, run=run)
    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit), stopping_at_a_checkpoint(asked):
            alone(train_rank, asked)
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [checkpoint.step for checkpoint in asked.trajectory.complete()] == saved
    assert not asked.trajectory.stop_request.exists()
