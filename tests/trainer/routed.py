"""Trainings of a mixture of experts on two ranks, for tests: losses of the routers, biases, every ZeRO stage, a resumption."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import set_z3_leaf_modules

from tests.trainer import worlds
from trainer.engine import Engine, Optimization, TrainRun
from trainer.loop import Outcome, Place, Plan, Term, train
from trainer.model.config import ModelConfig
from trainer.model.moe import Balancer, balance_loss, leaf_modules, router_z_loss
from trainer.model.transformer import Transformer
from trainer.objectives.language_model import TokenBatch, routed_tokens, scored_tokens
from trainer.tasks.language_model import Pretraining

SPARSE = ModelConfig(
    hidden_size=16, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=64, architecture="glm4_moe", num_experts=4,
    num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=1, first_k_dense_replace=1,
).resolved(worlds.VOCABULARY)  # fmt: skip


@dataclass
class Routed(Pretraining):
    """Pretraining with a z-loss and the routers' losses; `fails_at` is a step that crashes (below 0: none)."""

    fails_at: int = -1

    def start(self, place: Place, model: Transformer) -> None:
        super().start(place, model)
        self.balancer = Balancer(model, bias_rate=0.01)

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        if step == self.fails_at:
            raise worlds.Broken
        return super().micro_batches(step, model)

    def counts(self, batch: TokenBatch) -> Mapping[str, float]:
        return {**super().counts(batch), "routed": routed_tokens(batch)}

    def terms(self, model: Transformer, batch: TokenBatch) -> Mapping[str, Term]:
        losses, normalisers, _ = scored_tokens(model, batch)
        assert model.routing is not None
        if torch.is_grad_enabled():
            self.balancer.add(model.routing)
        return {
            "loss": Term(losses.sum(), "tokens"),
            "z": Term(normalisers.square().sum(), "tokens", 1e-3),
            "balance": Term(balance_loss(model.routing), "routed", 0.01),
            "router_z": Term(router_z_loss(model.routing), "routed", 1e-3),
        }


class Balanced(Engine):
    """Ends a step of the balancer with each of the optimizer's."""

    def step(self, number: int) -> float:
        norm = super().step(number)
        self.deepspeed.module.task.balancer.finish()
        return norm


def training(directory: Path, name: str, run: TrainRun, precision: str = "fp32", recompute: bool = False, **changes: Any) -> Outcome:
    model = Transformer(SPARSE, seed=1)
    model.set_recompute("layer" if recompute else "none")
    if run.zero == 3:
        set_z3_leaf_modules(model, leaf_modules(model))
    settings = Optimization(lr=1e-2, warmup_steps=2, precision=precision)  # type: ignore[arg-type]
    return train(
        model, worlds.pretraining(directory, kind=Routed, rows_per_step=8, **changes), Plan(4, 4), settings, run,
        device=torch.device("cpu"), inputs={"corpus": "random"}, trajectory=worlds.trajectory(directory, name),
        progress=worlds.Progress(str(directory / f"{name}.jsonl"), "test"),
    )  # fmt: skip


def cases(directory: str, stages: tuple[int, ...] = (0, 1, 2, 3)) -> dict[str, Any]:
    """Weights and buffers after 4 steps by ZeRO stage and with layers computed again; whether a resumption gives the same bits;
    the weights in bf16."""
    import trainer.loop

    trainer.loop.Engine = Balanced  # type: ignore[misc]
    folder = Path(directory) / f"world-{dist.get_world_size()}"
    folder.mkdir(exist_ok=True)
    weights, exact = {}, {}
    for zero in stages:
        whole = training(folder, f"whole-{zero}", TrainRun(zero=zero, micro_batch=2))
        again = training(folder, f"again-{zero}", TrainRun(zero=zero, micro_batch=2), recompute=True)
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
