"""Sparse upcycling: a mixture of experts that begins as a trained dense model (Komatsuzaki et al. 2022, arXiv:2212.05055).

Every routed expert is a copy of the layer's feed-forward network. The weights of a token's experts add up to 1, so that whatever
the new router chooses, the output is the dense model's: training goes on from its loss. Experts part as they get different tokens.
Shared experts begin with a down projection of 0, that is as a branch that adds nothing yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor

from trainer.model.config import ModelConfig
from trainer.model.transformer import Transformer

# what the dense model has nothing of
NEW = (
    "num_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace", "n_group", "topk_group",
    "routed_scaling_factor", "norm_topk_prob", "use_qk_norm",
)  # fmt: skip


def upcycle(state: Mapping[str, Tensor], dense: ModelConfig, sparse: ModelConfig, seed: int) -> dict[str, Tensor]:
    """The state of a model of shape `sparse` that computes what one of shape `dense` with this `state` does.

    Both configs are resolved. `seed` draws the routers and the shared experts' gate and up projections, as for a new model.
    Raises ValueError where the two shapes differ in more than experts, or experts could not be copies.
    """
    _check(dense, sparse)
    found: dict[str, Tensor] = {}
    for name, new in Transformer(sparse, seed).state_dict().items():
        layer, _, part = name.partition(".mlp.")
        if name in state:
            found[name] = state[name].clone()
        elif part == "experts.gate_up_proj":
            stacked = torch.cat([state[f"{layer}.mlp.{kind}_proj.weight"] for kind in ("gate", "up")])
            found[name] = stacked.repeat(sparse.num_experts, 1, 1)
        elif part == "experts.down_proj":
            found[name] = state[f"{layer}.mlp.down_proj.weight"].repeat(sparse.num_experts, 1, 1)
        else:
            found[name] = new.zero_() if part == "shared_experts.down_proj.weight" else new
    return found


def _check(dense: ModelConfig, sparse: ModelConfig) -> None:
    if dense.num_experts or not sparse.num_experts:
        raise ValueError(f"a dense model becomes one with experts; these are {dense.architecture} and {sparse.architecture}")
    if dense.qk_norm != sparse.qk_norm:
        raise ValueError(f"only one of {dense.architecture} and {sparse.architecture} normalises queries and keys; set use_qk_norm alike")
    new = {name: getattr(dense, name) for name in NEW}
    without = replace(sparse, architecture=dense.architecture, **new)
    for name in (field.name for field in fields(ModelConfig)):
        if getattr(without, name) != getattr(dense, name):
            raise ValueError(f"{name} is {getattr(sparse, name)}, the dense model's is {getattr(dense, name)}; they must be the same")
    width = dense.intermediate_size
    if sparse.moe_intermediate_size != width:
        raise ValueError(
            f"moe_intermediate_size is {sparse.moe_intermediate_size}; an expert is a copy, set it to the dense model's {width}"
        )
    if not sparse.norm_topk_prob or sparse.routed_scaling_factor != 1:
        raise ValueError("the weights of a token's experts must add up to 1: set norm_topk_prob=true and routed_scaling_factor=1")
