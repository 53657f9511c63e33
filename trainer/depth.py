"""One dial: how many layers. Width, heads, learning rate, batch and tokens follow from it (`model.depth`).

- width = 64 · layers, an aspect within the broad optimum of Kaplan et al. (arXiv:2001.08361, figure 5)
- heads of 64, from a width of 2,048 on of 128 where that divides it; the feed-forward layer as wide as the model's own rule says
- tokens = 20 a parameter of the layers (Hoffmann et al., arXiv:2203.15556)
- batch and learning rate by the laws fitted in DeepSeek LLM (arXiv:2401.02954, section 3.1) to the compute C of these tokens, FLOPs
  without vocabulary, with all of attention: 0.2920 · C^0.3271 tokens, 0.3118 · C^-0.1250
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainer.model.config import ModelConfig
from trainer.planning import CHINCHILLA, count_parameters

if TYPE_CHECKING:
    from trainer.stages import PretrainParams

ASPECT = 64  # width over layers
WIDE = 2048  # from here on heads are 128 wide


def from_depth(params: PretrainParams, said: Set[str]) -> tuple[PretrainParams, Sequence[str]]:
    """`params` with what follows from `model.depth`, and a line for each value; keys in `said` stay as they are.

    Without a depth all stays. The depth itself is taken out: what it stands for is the identity.
    """
    if not params.model or not params.model.depth:
        return params, ()
    lines = []

    def follow(key: str, given: Any, value: Any, because: str) -> Any:
        if key in said:
            lines.append(f"{key} = {given}, as set")
            return given
        lines.append(f"{key} = {value:g}: {because}" if isinstance(value, float) else f"{key} = {value}: {because}")
        return value

    model, depth = params.model, params.model.depth
    layers = follow("model.num_hidden_layers", model.num_hidden_layers, depth, f"model.depth={depth}")
    width = follow("model.hidden_size", model.hidden_size, ASPECT * depth, f"{ASPECT} · {depth} layers")
    head = 128 if width >= WIDE and width % 128 == 0 else 64 if width % 64 == 0 else math.gcd(width, 64)
    heads = follow("model.num_attention_heads", model.num_attention_heads, width // head, f"{head} wide each")
    model = replace(
        model,
        depth=0,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        # 0: what follows from the others is filled in where the model is made
        num_key_value_heads=model.num_key_value_heads if "model.num_key_value_heads" in said else 0,
        head_dim=model.head_dim if "model.head_dim" in said else 0,
        intermediate_size=model.intermediate_size if "model.intermediate_size" in said else 0,
    )
    made = model.resolved(1)
    follow("model.num_key_value_heads", made.num_key_value_heads, made.num_key_value_heads, "one for each head")
    follow("model.head_dim", made.head_dim, made.head_dim, "width over heads")
    follow("model.intermediate_size", made.intermediate_size, made.intermediate_size, "follows from the width")

    parameters, compute_per_token = of_layers(model, params.sequence_length)
    tokens = CHINCHILLA * parameters
    compute = compute_per_token * tokens
    rows = 2 ** max(0, round(math.log2(best_batch(compute) / params.sequence_length)))
    because = f"{best_batch(compute):,.0f} tokens by 0.2920 · C^0.3271, C = {compute:.3g}, to a power of two of rows"
    batch = follow("batch_tokens", params.batch_tokens, rows * params.sequence_length, because)
    because = f"{CHINCHILLA} tokens for each of {parameters:,} parameters of the layers"
    steps = follow("max_steps", params.max_steps, max(1, round(tokens / batch)), because)
    lr = follow("lr", params.lr, float(f"{best_lr(compute):.3g}"), "0.3118 · C^-0.1250")
    return replace(params, model=model, batch_tokens=batch, max_steps=steps, lr=lr), lines


def of_layers(model: ModelConfig, sequence_length: int) -> tuple[int, float]:
    """Parameters of the layers' matrices that a token meets, and the FLOPs of a token in them, forward and backward."""
    config = model.resolved(1)
    counted = count_parameters(config)
    parameters = counted.attention + counted.mlp - counted.idle
    scores = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * sequence_length
    return parameters, 6.0 * parameters + scores


def best_batch(compute: float) -> float:
    """Tokens of a step for `compute` FLOPs in all."""
    return 0.2920 * float(compute**0.3271)


def best_lr(compute: float) -> float:
    """Peak learning rate for `compute` FLOPs in all."""
    return 0.3118 * float(compute**-0.1250)
