"""A cluster of two nodes of which one goes away in the middle of a training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import ClusterConfig, connect
from pipeline.stage import UserError
from tests.integration.test_train_resume import training
from tests.trainer.worlds import pretraining
from trainer import launch
from trainer.launch import train_on_ray
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


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # what nodes that come later shall have as well
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    connect(ClusterConfig(kind="existing", address=nodes.address))
    yield nodes
    ray.shutdown()
    nodes.shutdown()


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

    def notes() -> list[str]:
        told = map(json.loads, events.read_text().splitlines())
        return [event["text"] for event in told if event["event"] == "note"]

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
        until(lambda: any(note.startswith(waits) for note in notes()))
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        begun.result()
        whole = training(tmp_path, pretraining(tmp_path), "whole")
        thread.submit(train_on_ray, whole, "whole").result()
    assert sum(note.startswith(waits) for note in notes()) == 1
    weights = [(tmp_path / f"{name}-weights" / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]
