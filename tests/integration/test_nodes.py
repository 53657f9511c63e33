"""A cluster of two nodes of which one goes away in the middle of a training."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import ClusterConfig, connect
from pipeline.stage import UserError
from tests.integration.test_train_resume import training
from tests.trainer.worlds import pretraining
from trainer import launch
from trainer.launch import train_on_ray
from trainer.loop import LOOK_EVERY_S
from trainer.model.transformer import Transformer
from trainer.objectives.language_model import TokenBatch
from trainer.tasks.language_model import Pretraining


@dataclass
class Waits(Pretraining):
    """In its sixth step, the first time it gets there, it waits for its end."""

    marker: str = ""

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        if step == 5 and not Path(self.marker).exists():
            Path(self.marker).touch()
            time.sleep(300)
        return super().micro_batches(step, model)


@dataclass
class Pauses(Pretraining):
    """Notes the steps it begins with, and waits in two of them until it may go on."""

    folder: str = ""

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        if self._place.rank == 0:
            with Path(self.folder, "begun").open("a") as begun:
                begun.write(f"{step} ")
        if step in (4, 6):
            Path(self.folder, f"at-{step}-{self._place.rank}").touch()
            until(Path(self.folder, f"on-from-{step}").exists)
        return super().micro_batches(step, model)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, ray_token: None) -> Iterator[Any]:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    connect(ClusterConfig(kind="existing", address=nodes.address))
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def notes(events: Path) -> list[str]:
    told = map(json.loads, events.read_text().splitlines()) if events.exists() else ()
    return [event["text"] for event in told if event["event"] == "note"]


def until(seen: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not seen():
        assert time.monotonic() < end, "it did not come to it"
        time.sleep(0.1)


@pytest.mark.proof
def test_a_training_whose_node_goes_waits_for_another_and_says_so(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, events = tmp_path / "waits", tmp_path / "cut.jsonl"
    cut = training(tmp_path, pretraining(tmp_path, kind=Waits, marker=str(marker)), "cut")
    waits = "waits 2 minutes for nodes: test.run.workers=2: 2 ranks need 2 CPUs, the cluster has 1; set test.run.workers=1"

    def without_a_node(seconds: float) -> Future[Any]:
        """The training, after one of its two nodes is gone."""
        monkeypatch.setattr(launch, "NODES_RETURN_S", seconds)
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        begun = thread.submit(train_on_ray, cut, "cut")
        until(marker.exists)
        cluster.remove_node(node, allow_graceful=False)
        return begun

    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(UserError, match=r"2 ranks need 2 CPUs, the cluster has 1; set test\.run\.workers=1, or add nodes"):
            without_a_node(0).result()
        marker.unlink()
        begun = without_a_node(120)
        until(lambda: any(note.startswith(waits) for note in notes(events)))
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        begun.result()
        whole = training(tmp_path, pretraining(tmp_path), "whole")
        thread.submit(train_on_ray, whole, "whole").result()
    assert sum(note.startswith(waits) for note in notes(events)) == 1
    weights = [(tmp_path / f"{name}-weights" / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.proof
def test_a_node_that_is_about_to_go_is_met_with_a_checkpoint_and_counts_no_more_once_its_time_is_up(tmp_path: Path, cluster: Any) -> None:
    task = pretraining(tmp_path, kind=Pauses, folder=str(tmp_path))
    cut, events = training(tmp_path, task, "cut"), tmp_path / "cut.jsonl"
    cut = replace(cut, run=replace(cut.run, checkpoint_every=100))
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    with ThreadPoolExecutor(1) as thread:
        begun = thread.submit(train_on_ray, cut, "cut")
        until(lambda: all((tmp_path / f"at-4-{rank}").exists() for rank in range(2)))
        told = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address, "--node-id", node.node_id]
        preempted = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "wanted back", "--deadline-remaining-seconds", "30"]
        subprocess.run([*told, *preempted], check=True)
        time.sleep(LOOK_EVERY_S)
        (tmp_path / "on-from-4").touch()
        until(lambda: all((tmp_path / f"at-6-{rank}").exists() for rank in range(2)))
        assert next(cut.trajectory.complete()).step == 5
        until(lambda: any(note.startswith("waits 15 minutes for nodes") for note in notes(events)))
        (tmp_path / "on-from-6").touch()
        cluster.add_node(num_cpus=1)
        begun.result()
        whole = training(tmp_path, pretraining(tmp_path), "whole")
        thread.submit(train_on_ray, whole, "whole").result()
    assert (tmp_path / "begun").read_text() == "0 1 2 3 4 5 6 5 6 7 "
    leaves, lost, waits = notes(events)
    assert leaves == "a node is about to go: checkpoint of step 5"
    assert lost.startswith("ranks lost (Training was interrupted by node preemption") and lost.endswith("restart 1 of 1")
    assert waits.endswith("2 ranks need 2 CPUs, the cluster has 1; set test.run.workers=1, or add nodes")
    weights = [(tmp_path / f"{name}-weights" / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]
