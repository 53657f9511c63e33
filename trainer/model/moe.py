"""Mixture of experts in place of a feed-forward layer: Qwen3-MoE's and Glm4Moe's.

- a router scores all experts for each token; the k best compute it, and their outputs are added up by weight
- no capacity: no token is dropped, however unequal the load
- Qwen3-MoE: scores are a softmax; the load is balanced by an auxiliary loss (Switch Transformer, arXiv:2101.03961)
- Glm4Moe: scores are sigmoids, experts may come in groups, shared experts compute every token; the load is balanced by a bias
  that takes part in choosing experts but not in weighing them (arXiv:2408.15664)
- an expert's matrices are slices of one stacked parameter, so that one grouped product serves all of them

transformers holds the same stacks (`experts.gate_up_proj`, `experts.down_proj`) under the same names; in checkpoints each
expert has matrices of its own, which `trainer.model.hf` cuts out of the stacks and puts back.

Shapes: n tokens, d hidden width, x experts, k experts of a token, i an expert's width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.by_hand import trained_as_written
from trainer.model.config import ModelConfig

Load = tuple[Tensor, Tensor, Tensor]  # of one layer: tokens an expert [x], score sums [x], sum of squared log-normalisers []


class Router(nn.Module):
    """Chooses experts. `tokens_per_expert` are those of the last step, on all ranks together; 0 before the first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts_of_token, self.normalised = config.num_experts_per_tok, config.norm_topk_prob
        self.groups, self.open_groups, self.scale = config.n_group, config.topk_group, config.routed_scaling_factor
        self.biased = config.architecture == "glm4_moe"
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.tokens_per_expert: Tensor
        self.register_buffer("tokens_per_expert", torch.zeros(config.num_experts, dtype=torch.int64))
        if self.biased:
            self.e_score_correction_bias: Tensor
            self.register_buffer("e_score_correction_bias", torch.zeros(config.num_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[n, d] → chosen experts [n, k] and their weights [n, k], logits [n, x], scores [n, x] that add up to 1 for each token."""
        if self.biased:
            logits = F.linear(x.float(), self.weight.float()) if x.dtype != torch.float64 else F.linear(x, self.weight)
            scores = logits.sigmoid()
            chosen = self.open(scores.detach() + self.e_score_correction_bias).topk(self.experts_of_token, dim=-1).indices
            weights = scores.gather(1, chosen)
            if self.normalised:
                weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
            return chosen, weights * self.scale, logits, scores / scores.sum(dim=-1, keepdim=True)
        logits = F.linear(x, self.weight)
        scores = logits.softmax(dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
        weights, chosen = scores.topk(self.experts_of_token, dim=-1)
        if self.normalised:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return chosen, weights.to(logits.dtype), logits, scores

    def open(self, scores: Tensor) -> Tensor:
        """Scores [n, x] with those of closed groups at -∞. A group counts as the sum of its two best experts."""
        if self.groups == 1:
            return scores
        grouped = scores.unflatten(1, (self.groups, -1))
        best = grouped.topk(2, dim=-1).values.sum(dim=-1).topk(self.open_groups, dim=-1).indices
        closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(1, best, False)
        return grouped.masked_fill(closed[..., None], -math.inf).flatten(1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """A model cast to bf16 keeps the bias in fp32, where its small steps are not lost."""
        bias = self._buffers.get("e_score_correction_bias")
        super()._apply(fn, recurse)
        if bias is not None and self.e_score_correction_bias.dtype != bias.dtype:
            self.e_score_correction_bias = bias.to(self.e_score_correction_bias.device)
        return self


class Experts(nn.Module):
    """The experts' SwiGLU layers, stacked: gate and up projections one below the other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        x, d, i = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(x, 2 * i, d))
        self.down_proj = nn.Parameter(torch.empty(x, d, i))

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """[n, d], the chosen experts and their weights [n, k] → [n, d]."""
        n, k = chosen.shape
        order = chosen.flatten().argsort(stable=True)  # places n·k by expert, an expert's in the order of tokens
        sizes = torch.bincount(chosen.flatten(), minlength=len(self.down_proj))
        output = grouped_swiglu(x.index_select(0, order // k), self.gate_up_proj, self.down_proj, sizes)
        # back to the order of tokens: adding up along k is the same sum at every run, scattering would not be
        places = torch.empty_like(order).scatter_(0, order, torch.arange(n * k, device=order.device))
        return (output.index_select(0, places).view(n, k, -1) * weights[..., None]).sum(dim=1).to(x.dtype)


def grouped_swiglu(x: Tensor, gate_up: Tensor, down: Tensor, sizes: Tensor) -> Tensor:
    """`sizes[e]` rows of [n, d], one expert's after another's, each through its SwiGLU layer of [x, 2·i, d] and [x, d, i] → [n, d]."""
    if trained_as_written():
        output: Tensor = GroupedSwiGLU.apply(x, gate_up, down, sizes)
        return output
    return grouped_linear(activated(grouped_linear(x, gate_up, sizes)), down, sizes)


class GroupedSwiGLU(torch.autograd.Function):
    """Keeps what the first product gives and, of the weights, the parameters themselves: autograd would keep views of them, and at ZeRO 3
    with these the gathered experts of every layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor, sizes: Tensor) -> Tensor:
        halves = grouped_linear(x, gate_up, sizes)
        ctx.save_for_backward(x, gate_up, down, sizes, halves)
        return grouped_linear(activated(halves), down, sizes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_up, down, sizes, halves = ctx.saved_tensors
        gate, up = halves.chunk(2, dim=-1)
        of_product = grouped_linear(gradient, down.transpose(1, 2), sizes)
        of_gate = torch.ops.aten.silu_backward(of_product * up, gate)
        of_halves = torch.cat((of_gate, of_product.mul_(F.silu(gate))), dim=-1)
        down_gradient = grouped_outer(gradient, activated(halves), sizes)
        return grouped_linear(of_halves, gate_up.transpose(1, 2), sizes), grouped_outer(of_halves, x, sizes), down_gradient, None


def activated(halves: Tensor) -> Tensor:
    """[…, 2·i], gate and up projections → [..., i]"""
    gate, up = halves.chunk(2, dim=-1)
    return F.silu(gate) * up


def grouped_linear(x: Tensor, weight: Tensor, sizes: Tensor) -> Tensor:
    """`sizes[e]` rows of [n, in], one expert's after another's, each times its matrix of [x, out, in] → [n, out].

    One kernel on GPUs in bf16; elsewhere a product for each expert that has rows. The gradient of an expert without rows is 0.
    """
    if has_kernel(x, weight.shape[1]):
        return F.grouped_mm(x, weight.transpose(1, 2), offs=sizes.cumsum(0, dtype=torch.int32))
    parts = zip(x.split(sizes.tolist()), weight.unbind(), strict=True)
    return torch.cat([F.linear(rows, matrix) for rows, matrix in parts if len(rows)])


def grouped_outer(x: Tensor, y: Tensor, sizes: Tensor) -> Tensor:
    """Of each expert's rows of [n, p] and [n, q] the sum of outer products → [x, p, q]: the gradient of its matrix. 0 without rows."""
    if has_kernel(x, y.shape[1]):
        product = F.grouped_mm(x.transpose(0, 1), y, offs=sizes.cumsum(0, dtype=torch.int32))
        return product.masked_fill_((sizes == 0)[:, None, None], 0)  # not every GPU's kernel writes what has no rows
    found = x.new_empty(len(sizes), x.shape[1], y.shape[1])
    for number, (rows, others) in enumerate(zip(x.split(sizes.tolist()), y.split(sizes.tolist()), strict=True)):
        torch.mm(rows.T, others, out=found[number])
    return found


def has_kernel(x: Tensor, width: int) -> bool:
    """Whether torch can multiply all experts' rows at once: on GPUs from 2.10 on, with addresses that are multiples of 16 bytes."""
    return x.is_cuda and x.dtype == torch.bfloat16 and hasattr(F, "grouped_mm") and x.shape[1] % 8 == 0 and width % 8 == 0


class MixtureOfExperts(nn.Module):
    """`shared` computes every token; None where there is no such expert."""

    def __init__(self, config: ModelConfig, shared: nn.Module | None) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        if shared is not None:
            self.shared_experts = shared

    def forward(self, x: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Load | None]:
        """[b, s, d] → [b, s, d], and the load that the tokens where `counted` [b, s] is True gave (None: not wanted)."""
        rows = x.flatten(0, 1)
        chosen, weights, logits, scores = self.gate(rows)
        y = self.experts(rows, chosen, weights).view_as(x)
        if hasattr(self, "shared_experts"):
            y = y + self.shared_experts(x)
        return y, None if counted is None else load_of(chosen, logits, scores, counted.flatten())


def load_of(chosen: Tensor, logits: Tensor, scores: Tensor, counted: Tensor) -> Load:
    """What a layer's losses and metrics are made of, for the tokens where `counted` [n] is True. Only the counts have no gradient."""
    votes = counted[:, None].expand_as(chosen).flatten().to(torch.int64)
    tokens = torch.zeros(logits.shape[1], dtype=torch.int64, device=logits.device).scatter_add_(0, chosen.flatten(), votes)
    kept = counted.to(scores.dtype)
    normalisers = logits.to(scores.dtype).logsumexp(dim=-1)
    return tokens, kept @ scores, kept @ normalisers.square()


@dataclass(frozen=True)
class Routing:
    """What the routers did in one forward pass, of those tokens that are no padding. l layers with experts.

    tokens    [l, x] int64: how many each expert got
    scores    [l, x]: sums of the scores it had
    squares   [l]: sums of the squared log-normalisers of the router's logits
    previous  [l, x] int64: `tokens` of the last step, all micro-batches and ranks together; 0 before the first
    """

    tokens: Tensor
    scores: Tensor
    squares: Tensor
    previous: Tensor
    experts_of_token: int


def routing_of(model: nn.Module, loads: list[Load]) -> Routing:
    """The loads of a model's layers as one."""
    tokens, scores, squares = (torch.stack(parts) for parts in zip(*loads, strict=True))
    gates = routers(model)
    return Routing(tokens, scores, squares, torch.stack([gate.tokens_per_expert for gate in gates]), gates[0].experts_of_token)


def balance_loss(routing: Routing) -> Tensor:
    """The auxiliary loss that evens out the load, summed over tokens: divided by their number it is a layer's x · Σ f_e · P_e,
    the mean over layers. Its least value is k, at an equal load.

    P_e is the mean score of expert e; f_e the share of tokens that chose it, which has no gradient. f_e is that of the whole
    step before: the shares within a micro-batch would hold any few sequences to an equal load, where only the load as a whole
    matters (arXiv:2501.11873), and the gradient would depend on how a step is cut into micro-batches. Before the first step
    all shares count as equal, which gives no gradient.

    Layers are balanced one by one. transformers' own function adds up the counts of all layers first, so that one layer can
    make up for another; for a single layer the two are the same.
    """
    experts = routing.scores.shape[1]
    previous = routing.previous.to(routing.scores.dtype)
    chosen = previous.sum(dim=1, keepdim=True)
    shares = torch.where(chosen > 0, previous / chosen.clamp(min=1), 1 / experts)
    return experts * routing.experts_of_token * (shares * routing.scores).sum(dim=1).mean()


def router_z_loss(routing: Routing) -> Tensor:
    """logsumexp(logits)² of the routers, summed over tokens, the mean over layers: it keeps their logits small (arXiv:2202.08906)."""
    return routing.squares.mean()


class Balancer:
    """Follows a training's load from step to step. Every rank has one and calls it alike.

    bias_rate  by how much a step changes an expert's selection bias (Glm4Moe; 0: never): up where it got fewer tokens than
               the mean, down where it got more
    """

    def __init__(self, model: nn.Module, bias_rate: float = 0.0) -> None:
        self.routers, self.bias_rate = routers(model), bias_rate
        self.tokens: Tensor | None = None

    def add(self, routing: Routing | None, counted: bool = True) -> None:
        """Take in what a micro-batch's forward pass has left in `model.routing`. `counted`: False for a repeated batch."""
        if routing is not None and counted:
            self.tokens = routing.tokens if self.tokens is None else self.tokens + routing.tokens

    def finish(self) -> dict[str, float]:
        """End a step: the routers learn the load of all ranks, biases move. Returns the step's metrics; {} for a dense model."""
        if not self.routers:
            return {}
        tokens = torch.zeros_like(torch.stack([router.tokens_per_expert for router in self.routers]))
        if self.tokens is not None:
            tokens += self.tokens
        self.tokens = None
        if dist.is_initialized():
            dist.all_reduce(tokens)
        for router, load in zip(self.routers, tokens, strict=True):
            router.tokens_per_expert.copy_(load)
            if router.biased and self.bias_rate:
                router.e_score_correction_bias += self.bias_rate * (load.double().mean() - load).sign().float()
        return load_metrics(tokens)


def load_metrics(tokens: Tensor) -> dict[str, float]:
    """How even the load [l, x] is.

    expert_load_max      tokens of the most loaded expert over the mean, in the worst layer: 1 is even, x/k the most
    expert_load_entropy  of the load over experts, as a share of the greatest possible, the mean over layers: 1 is even
    """
    load = tokens.double()
    shares = load / load.sum(dim=1, keepdim=True).clamp(min=1)
    entropy = -torch.xlogy(shares, shares).sum(dim=1) / math.log(max(2, load.shape[1]))
    return {"expert_load_max": float(shares.max()) * load.shape[1], "expert_load_entropy": float(entropy.mean())}


def routers(model: nn.Module) -> list[Router]:
    """The routers of a model, in the order of its layers; none where it is dense."""
    return [module for module in model.modules() if isinstance(module, Router)]
