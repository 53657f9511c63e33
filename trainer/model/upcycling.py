"""Sparse upcycling: a mixture of experts that begins as a trained dense model (Komatsuzaki et al. 2022, arXiv:2212.05055).

Every routed expert is a copy of the layer's feed-forward network. The weights of a token's experts add up to 1, so that whatever
the new router chooses, the output is the dense model's: training goes on from its loss. Experts part as they get different tokens.
Shared experts begin with a down projection of 0, that is as a branch that adds nothing yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from trainer.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

# what the dense model has nothing of
NEW = (
    "num_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace", "n_group", "topk_group",
    "routed_scaling_factor", "norm_topk_prob", "use_qk_norm",
)  # fmt: skip


@dataclass(frozen=True)
class Sparse:
    """What the mixture of experts has that the dense model has not. Fields are named as in transformers' configs."""

    architecture: Annotated[
        Literal["qwen3_moe", "glm4_moe"], Meta(description="qwen3_moe only from qwen3; glm4_moe, with shared experts, from llama as well")
    ] = "qwen3_moe"
    num_experts: Annotated[int, Meta(ge=1, description="experts of a layer, each a copy of its feed-forward network")] = 8
    num_experts_per_tok: Annotated[int, Meta(ge=1, description="experts a token is sent to")] = 2
    n_shared_experts: Annotated[int, Meta(ge=0, description="glm4_moe: experts every token is sent to; 0: one")] = 0
    first_k_dense_replace: Annotated[int, Meta(ge=0, description="glm4_moe: so many first layers stay dense")] = 0
    n_group: Annotated[int, Meta(ge=1, description="glm4_moe: groups of experts")] = 1
    topk_group: Annotated[int, Meta(ge=1, description="glm4_moe: groups a token's experts may come from")] = 1

    def __post_init__(self) -> None:
        self.shape(ModelConfig(num_hidden_layers=max(1, self.first_k_dense_replace)).resolved(0))

    def shape(self, dense: ModelConfig) -> ModelConfig:
        """Of the model that `dense`, resolved, becomes. Raises ValueError where it cannot."""
        if dense.num_experts:
            raise ValueError(f"the model has experts already (it is {dense.architecture}); give a dense one")
        if self.architecture == "qwen3_moe" and not dense.qk_norm:
            raise ValueError(f"qwen3_moe normalises queries and keys, {dense.architecture} does not; set architecture=glm4_moe")
        values: dict[str, Any] = asdict(self)
        if self.architecture == "glm4_moe":
            values |= {"n_shared_experts": self.n_shared_experts or 1, "use_qk_norm": dense.qk_norm}
        return replace(dense, **values, moe_intermediate_size=dense.intermediate_size)


def upcycle(state: Mapping[str, Tensor], dense: ModelConfig, sparse: ModelConfig, seed: int) -> dict[str, Tensor]:
    """The state of a model of shape `sparse` that computes what one of shape `dense` with this `state` does.

    Both configs are resolved. `seed` draws the routers and the shared experts' gate and up projections, as for a new model.
    Raises ValueError where the two shapes differ in more than experts, or experts could not be copies.
    """
    import torch

    from trainer.model.transformer import Transformer

    _check(dense, sparse)
    found = Transformer(sparse, seed).state_dict()
    for name, place in found.items():
        layer, _, part = name.partition(".mlp.")
        if name in state:
            place.copy_(state[name])
        elif part == "experts.gate_up_proj":
            place.copy_(torch.cat([state[f"{layer}.mlp.{kind}_proj.weight"] for kind in ("gate", "up")]))  # to every expert
        elif part == "experts.down_proj":
            place.copy_(state[f"{layer}.mlp.down_proj.weight"])
        elif part == "shared_experts.down_proj.weight":
            place.zero_()
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
