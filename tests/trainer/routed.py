"""Trainings of a mixture of experts on two ranks, for tests: losses of the routers, biases, every ZeRO stage, a resumption."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.trainer import worlds
from trainer.engine import Optimization, TrainRun
from trainer.loop import Outcome, Plan, train
from trainer.model.config import ModelConfig
from trainer.model.transformer import Transformer
from trainer.objectives.language_model import TokenBatch
from trainer.tasks.language_model import Beside, Pretraining

SPARSE = ModelConfig(
    hidden_size=16, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=64, architecture="glm4_moe", num_experts=4,
    num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=1, first_k_dense_replace=1,
).resolved(worlds.VOCABULARY)  # fmt: skip


BESIDE = Beside(z_loss=1e-3, routers=True, balance=0.01, router_z=1e-3)


@dataclass
class Interrupted(Pretraining):
    """Crashes at a step (below 0: never)."""

    fails_at: int = -1

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        if step == self.fails_at:
            raise worlds.Broken
        return super().micro_batches(step, model)


def training(directory: Path, name: str, run: TrainRun, precision: str = "fp32", **changes: Any) -> Outcome:
    settings = Optimization(lr=1e-2, warmup_steps=2, precision=precision)  # type: ignore[arg-type]
    with worlds.sharded():
        return train(
            Transformer(SPARSE, seed=1), worlds.pretraining(directory, kind=Interrupted, rows_per_step=8, beside=BESIDE, **changes),
            Plan(4, 4, bias_rate=0.01), settings, run,
            device=torch.device("cpu"), inputs={"corpus": "random"}, trajectory=worlds.trajectory(directory, name),
            progress=worlds.Progress(str(directory / f"{name}.jsonl"), "test"),
        )  # fmt: skip


def cases(directory: str, stages: tuple[int, ...] = (0, 1, 2, 3)) -> dict[str, Any]:
    """Weights and buffers after 4 steps by ZeRO stage and with layers computed again; whether a resumption gives the same bits;
    the weights in bf16."""
    folder = Path(directory) / f"world-{dist.get_world_size()}"
    folder.mkdir(exist_ok=True)
    weights, exact = {}, {}
    for zero in stages:
        whole = training(folder, f"whole-{zero}", TrainRun(zero=zero, micro_batch=2))
        again = training(folder, f"again-{zero}", TrainRun(zero=zero, micro_batch=2, recompute="layer"))
        if whole.weights is not None:
            weights[zero], weights[f"{zero} recomputed"] = dict(whole.weights), dict(again.weights or {})
        exact[zero] = same(whole, resumed(folder, f"cut-{zero}", zero))
    half = training(folder, "half", TrainRun(zero=2, micro_batch=2), precision="bf16")
    exact["bf16"] = same(half, resumed(folder, "half-cut", 2, precision="bf16"))
    return {"weights": weights, "exact": exact, "half": half.weights}


def resumed(folder: Path, name: str, zero: int, **changes: Any) -> Outcome:
    run = TrainRun(zero=zero, micro_batch=2, checkpoint_every=1)
    with contextlib.suppress(worlds.Broken):
        training(folder, name, run, fails_at=2, **changes)
        raise AssertionError("the training was to fail")
    return training(folder, name, run, **changes)


def same(first: Outcome, second: Outcome) -> bool:
    """Whether all weights and buffers are the same to the bit; True on ranks that have none."""
    if first.weights is None or second.weights is None:
        return first.weights is second.weights
    return all(torch.equal(tensor, second.weights[name]) for name, tensor in first.weights.items())


def begun(directory: str) -> None:
    """Trainings that crashed after two steps, one at each ZeRO stage."""
    for zero in range(4):
        with contextlib.suppress(worlds.Broken):
            training(Path(directory), f"elastic-{zero}", TrainRun(zero=zero, micro_batch=2, checkpoint_every=1), fails_at=2)


def finished(directory: str) -> dict[int, Outcome]:
    """The same trainings at their end, on however many ranks; at -1 one that never crashed."""
    found = {zero: training(Path(directory), f"elastic-{zero}", TrainRun(zero=zero, micro_batch=2)) for zero in range(4)}
    return {-1: training(Path(directory), "whole", TrainRun(zero=0, micro_batch=2)), **found}
