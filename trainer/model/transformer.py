"""A decoder-only transformer: Qwen3 or Llama where it is dense, Qwen3-MoE or Glm4Moe with experts (`trainer.model.moe`).

- pre-norm RMSNorm, no biases (Glm4Moe: optional ones of queries, keys and values), optional tied embeddings
- rotary positions with the stretchings of Llama 3 and Qwen3, grouped-query attention, RMS-normalised queries and keys (not Llama)
- SwiGLU feed-forward layers
- documents packed into one row never see each other
- log-probabilities in chunks, so that the logits of a long batch are never held at once
- activations of a layer kept, or made again in the backward pass (`recompute`)
- a preallocated key-value cache for batches of unequal prompts (left padding)

Parameter names are those of transformers' classes, so a Hugging Face directory is read and written without renaming.
Shapes below: b rows, s tokens, h query heads, k key-value heads, e head width, d hidden width, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.model.attention import Mask, attend, document_mask, document_positions, rotary
from trainer.model.by_hand import RMSNorm, rotate, swiglu
from trainer.model.config import ModelConfig
from trainer.model.moe import Load, MixtureOfExperts, Routing, routing_of
from trainer.model.output import OutputLayer, exact

Settle = Callable[[nn.Parameter], None]


def as_made(parameter: nn.Parameter) -> None:
    """Leaves a parameter on the CPU, in fp32."""


def on(device: torch.device | str, dtype: torch.dtype = torch.float32) -> Settle:
    """Settles a parameter whole on one device."""

    def settle(parameter: nn.Parameter) -> None:
        parameter.data = parameter.data.to(device, dtype)

    return settle


class KeyValueCache:
    """Keys and values of the tokens seen so far, for generation.

    Rows of unequal length are padded on the **left**: column `padding[row]` holds a row's first token, and every row
    writes its next token into the same column. Columns left of it are never attended to.
    """

    def __init__(self, config: ModelConfig, padding: Tensor, capacity: int, dtype: torch.dtype = torch.float32) -> None:
        """`padding` [b] int64: columns of padding in each row; `capacity`: columns in all, prompt and answer together."""
        shape = (config.num_hidden_layers, 2, len(padding), config.num_key_value_heads, capacity, config.head_dim)
        self.store = torch.zeros(shape, dtype=dtype, device=padding.device)
        self.padding = padding
        self.padded = bool(padding.any())
        self.length = 0

    def select(self, rows: Tensor) -> KeyValueCache:
        """A cache of the given rows only, in that order; a row may be named more than once."""
        chosen = KeyValueCache.__new__(KeyValueCache)
        chosen.store = self.store[:, :, rows]
        chosen.padding = self.padding[rows]
        chosen.padded = self.padded
        chosen.length = self.length
        return chosen

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write [b, k, s, e] after the columns seen so far; returns everything up to and with them."""
        end = self.length + keys.shape[2]
        if end > self.store.shape[4]:
            raise ValueError(f"{end} tokens do not fit into a cache of {self.store.shape[4]}")
        cached_keys, cached_values = self.store[layer]
        cached_keys[:, :, self.length : end] = keys
        cached_values[:, :, self.length : end] = values
        return cached_keys[:, :, :end], cached_values[:, :, :end]

    def positions(self, tokens: int) -> Tensor:
        """[b, tokens]: positions of the next `tokens` columns; padding counts as position 0."""
        columns = torch.arange(self.length, self.length + tokens, device=self.padding.device)
        return (columns - self.padding[:, None]).clamp(min=0)

    def mask(self, tokens: int) -> Tensor | None:
        """[b, 1, tokens, seen + tokens], True where attention is allowed; None where nothing needs hiding."""
        if not self.padded and (tokens == 1 or self.length == 0):
            return None  # one query sees all, or the mask is the causal one
        end = self.length + tokens
        columns = torch.arange(end, device=self.padding.device)
        queries = columns[self.length :, None]
        allowed = (columns <= queries) & (columns >= self.padding[:, None, None])
        # a padding query sees itself: softmax over nothing is NaN
        return (allowed | (columns == queries)).unsqueeze(1)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.normalised = config.qk_norm
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask | None, cache: KeyValueCache | None) -> Tensor:
        b, s, _ = x.shape
        q, k, v = (project(x).view(b, s, -1, self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.normalised:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        return self.o_proj(attend(q, k, v, mask).transpose(1, 2).reshape(b, s, -1))


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return swiglu(x, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)


def mixture_of_experts(config: ModelConfig) -> MixtureOfExperts:
    shared = config.n_shared_experts * config.moe_intermediate_size
    return MixtureOfExperts(config, FeedForward(config.hidden_size, shared) if shared else None)


class Block(nn.Module):
    """One layer: [b, s, d] → [b, s, d], and the load of its experts where it has some and `counted` [b, s] is given."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.sparse = config.sparse(layer)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = mixture_of_experts(config) if self.sparse else FeedForward(config.hidden_size, config.intermediate_size)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Mask | None,
        cache: KeyValueCache | None,
        counted: Tensor | None,
    ) -> tuple[Tensor, Load | None]:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)
        normalised = self.post_attention_layernorm(x)
        y, load = self.mlp(normalised, counted) if self.sparse else (self.mlp(normalised), None)
        return x + y, load


class Backbone(nn.Module):
    """Everything but the output layer; its only reason is the `model.` in the parameters' names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # given its weight, torch does not load a compiler to draw one
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=torch.empty(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.recompute = False

    def forward(
        self,
        ids: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Mask | None,
        cache: KeyValueCache | None,
        counted: Tensor | None,
    ) -> tuple[Tensor, list[Load]]:
        x = self.embed_tokens(ids)
        loads = []
        for block in self.layers:
            if self.recompute and torch.is_grad_enabled():
                # nothing in a block is random, so no state of a generator needs to be kept
                x, load = checkpoint(block, x, cos, sin, mask, cache, counted, use_reentrant=False, preserve_rng_state=False)
            else:
                # what is generated grows by a token each time: no compiled layer would serve twice
                layer = block if cache is None else block.forward
                x, load = layer(x, cos, sin, mask, cache, counted)
            if load is not None:
                loads.append(load)
        return self.norm(x), loads


class Transformer(nn.Module):
    """`forward` gives hidden states; `logits` or `log_probs` turn them into predictions. `config` must be resolved.

    routing  of the last forward pass without a cache; None for a dense model
    """

    def __init__(self, config: ModelConfig, seed: int | None = 0, settle: Settle = as_made) -> None:
        """Weights drawn from `seed`, each put where it is to stay as soon as it is drawn; the buffers, which are small, are on the CPU.
        `seed` None: without memory (on the meta device), for `fill`."""
        super().__init__()
        if not config.trainable:
            raise ValueError(
                f"a {config.architecture} model can be planned, not built; set architecture to qwen3, llama, qwen3_moe or glm4_moe"
            )
        self.config = config
        self.routing: Routing | None = None
        with torch.device("meta"):  # no time spent on torch's own initialisation
            self.model = Backbone(config)
            self.lm_head = OutputLayer(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        if seed is not None:
            self.fill(self.drawn(seed), settle)

    @torch.no_grad()
    def fill(self, read: Callable[[str, Tensor], None], settle: Settle = as_made) -> None:
        """Make the parameters one after the other: `read` is given a name and the tensor on the CPU, fp32, to be filled, and `settle` puts
        the parameter where it is to stay. No more than one is held in full beside what has settled. Buffers become 0."""
        for name, empty in list(self.named_parameters()):
            module, _, own = name.rpartition(".")
            parameter = nn.Parameter(torch.empty(empty.shape, dtype=torch.float32))
            read(name, parameter)
            settle(parameter)
            setattr(self.get_submodule(module), own, parameter)
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        for name, buffer in list(self.named_buffers()):
            module, _, own = name.rpartition(".")
            setattr(self.get_submodule(module), own, torch.zeros_like(buffer, device="cpu"))

    def drawn(self, seed: int) -> Callable[[str, Tensor], None]:
        """Matrices ~ N(0, 1/fan-in), so that activations keep their scale (embedding, output layer and routers: 1/d); each
        expert's like those of a feed-forward layer.

        The two matrices that write into the residual stream are divided by √(2 · layers): the stream's variance at
        the top then does not grow with depth (GPT-2). Norms are 1, biases 0. The same seed gives the same bits on any device, if the
        parameters are asked for in their order.
        """
        generator = torch.Generator().manual_seed(seed)
        depth = math.sqrt(2 * self.config.num_hidden_layers)

        def draw(name: str, tensor: Tensor) -> None:
            if tensor.dim() == 1:
                tensor.fill_(0.0 if name.endswith(".bias") else 1.0)
                return
            scale = 1 / math.sqrt(tensor.shape[-1])
            if name.endswith(("o_proj.weight", "down_proj.weight", "experts.down_proj")):
                scale /= depth
            tensor.normal_(0.0, scale, generator=generator)

        return draw

    def set_recompute(self, kind: Literal["none", "layer"]) -> None:
        """`layer`: keep only what enters a layer and compute the rest again in the backward pass: the same gradients, a third
        more work, far less memory."""
        self.model.recompute = kind == "layer"

    def compile_layers(self) -> None:
        """Let torch.compile make one kernel of many in each layer: a minute at the first step, then faster."""
        for block in self.model.layers:
            block.compile()

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """[b, s] int64 → hidden states [b, s, d].

        document_ids  [b, s]: tokens of different documents in a row do not see each other; positions restart with each;
                      below 0 is padding, which is no part of `routing`
        position_ids  [b, s]: only where they are neither a document's own nor 0…s-1
        cache         `input_ids` continue what it holds; it takes them in
        """
        s = input_ids.shape[1]
        mask: Mask | None = None
        if cache is not None:
            mask = cache.mask(s)
            position_ids = cache.positions(s)
        elif document_ids is not None:
            mask = document_mask(document_ids, self.model.norm.weight.dtype)
            position_ids = document_positions(document_ids) if position_ids is None else position_ids
        if position_ids is None:
            position_ids = torch.arange(s, device=input_ids.device)[None]
        cos, sin = rotary(self.config, position_ids, self.model.norm.weight.dtype)
        counted = None
        if self.config.num_experts and cache is None:
            counted = torch.ones_like(input_ids, dtype=torch.bool) if document_ids is None else document_ids >= 0
        hidden, loads = self.model(input_ids, cos, sin, mask, cache, counted)
        self.routing = routing_of(self, loads) if loads else None
        if cache is not None:
            cache.length += s
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d] → [..., v] fp32."""
        output: Tensor = self.lm_head(hidden)
        return output.to(exact(output))

    def log_probs(self, hidden: Tensor, targets: Tensor, temperature: float = 1.0, chunk: int = 0) -> Tensor:
        """log p(target) of each position: [n, d], [n] → [n] fp32.

        The logits are made for `chunk` positions at a time (0: as many as suit the device) and made again in the
        backward pass; kept instead where they are few.
        """
        return self.log_probs_and_normalisers(hidden, targets, temperature, chunk)[0]

    def log_probs_and_normalisers(self, hidden: Tensor, targets: Tensor, temperature: float = 1.0, chunk: int = 0) -> tuple[Tensor, Tensor]:
        """The same, and log Σ exp(logit) of each position: its square is the z-loss (PaLM, arXiv:2204.02311)."""
        found: tuple[Tensor, Tensor] = self.lm_head(hidden, targets, temperature, chunk)
        return found
