"""A decoder-only transformer in Qwen3's layout.

- pre-norm RMSNorm, no biases, optional tied embeddings
- rotary positions, grouped-query attention, RMS-normalised queries and keys
- SwiGLU feed-forward layers
- documents packed into one row never see each other
- log-probabilities in chunks, so that the logits of a long batch are never held at once
- a preallocated key-value cache for batches of unequal prompts (left padding)

Parameter names are those of `Qwen3ForCausalLM`, so a Hugging Face directory is read and written without renaming.
Shapes below: b rows, s tokens, h query heads, k key-value heads, e head width, d hidden width, v vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.config import ModelConfig

LOGITS_AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 26}  # what fits a core's cache; 256 MiB of fp32


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
        if tokens == 1 and not self.padded:
            return None
        end = self.length + tokens
        columns = torch.arange(end, device=self.padding.device)
        queries = columns[self.length :, None]
        allowed = (columns <= queries) & (columns >= self.padding[:, None, None])
        # a padding query sees itself: softmax over nothing is NaN
        return (allowed | (columns == queries)).unsqueeze(1)


def document_mask(document_ids: Tensor) -> Tensor:
    """[b, s] → [b, 1, s, s]: True where the key is of the query's own document and not after it."""
    same = document_ids[:, :, None] == document_ids[:, None, :]
    return same.tril().unsqueeze(1)


def document_positions(document_ids: Tensor) -> Tensor:
    """[b, s] → [b, s]: positions that start again at 0 with every document."""
    columns = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return columns - torch.where(starts, columns, 0).cummax(dim=1).values


def rotary(config: ModelConfig, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [b, 1, s, e/2] (RoFormer, arXiv:2104.09864), computed in fp32 whatever the model's precision."""
    exponents = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float32) / config.head_dim
    angles = positions[:, None, :, None].float() * config.rope_theta**-exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [b, heads, s, e]; the two halves of a head are the two coordinates of its planes."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.grouped = config.num_key_value_heads != config.num_attention_heads
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        b, s, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(b, s, -1, self.head_dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(b, s, -1, self.head_dim)).transpose(1, 2)
        v = self.v_proj(x).view(b, s, -1, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        causal = mask is None and s > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.grouped)
        return self.o_proj(y.transpose(1, 2).reshape(b, s, -1))


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Everything but the output layer; its only reason is the `model.` in the parameters' names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, ids: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x, cos, sin, mask, cache)
        return self.norm(x)


class ChunkedLogProbs(torch.autograd.Function):
    """log softmax(hidden @ weightᵀ / temperature) at one target a row, with never more than `chunk` rows of logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int) -> Tensor:
        log_probs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        normaliser = torch.empty_like(log_probs)
        for rows in _spans(len(targets), chunk):
            logits = F.linear(hidden[rows], weight).float().div_(temperature)
            normaliser[rows] = logits.logsumexp(dim=-1)
            log_probs[rows] = logits.gather(1, targets[rows, None])[:, 0] - normaliser[rows]
        ctx.save_for_backward(hidden, weight, targets, normaliser)
        ctx.temperature, ctx.chunk = temperature, chunk
        return log_probs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, normaliser = ctx.saved_tensors
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for rows in _spans(len(targets), ctx.chunk):
            scaled = gradients[0][rows, None] / ctx.temperature
            logits = F.linear(hidden[rows], weight).float().div_(ctx.temperature)
            # d log p(target) / d logit = [is the target] - p
            logit_gradient = logits.sub_(normaliser[rows, None]).exp_().mul_(-scaled).scatter_add_(1, targets[rows, None], scaled)
            logit_gradient = logit_gradient.to(weight.dtype)
            hidden_gradient[rows] = logit_gradient @ weight
            weight_gradient += logit_gradient.T @ hidden[rows]
        return hidden_gradient, weight_gradient.to(weight.dtype), None, None, None


def _spans(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]


class OutputLayer(nn.Linear):
    """The language-model head: logits, or log-probabilities of given targets without holding all logits.

    Both go through `forward`, where a sharded optimizer gathers the weight.
    """

    def forward(self, hidden: Tensor, targets: Tensor | None = None, temperature: float = 1.0, chunk: int = 0) -> Tensor:
        if targets is None:
            return F.linear(hidden, self.weight)
        chunk = chunk or max(1, LOGITS_AT_ONCE[hidden.device.type] // self.out_features)
        result: Tensor = ChunkedLogProbs.apply(hidden, self.weight, targets, temperature, chunk)
        return result


class Transformer(nn.Module):
    """`forward` gives hidden states; `logits` or `log_probs` turn them into predictions. `config` must be resolved."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):  # no time spent on torch's own initialisation
            self.model = Backbone(config)
            self.lm_head = OutputLayer(config.hidden_size, config.vocab_size, bias=False)
        self.to_empty(device="cpu")
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Matrices ~ N(0, 1/fan-in), so that activations keep their scale (embedding and output layer: 1/d).

        The two matrices that write into the residual stream are divided by √(2 · layers): the stream's variance at
        the top then does not grow with depth (GPT-2). Norms are 1. The same seed gives the same bits.
        """
        generator = torch.Generator().manual_seed(seed)
        depth = math.sqrt(2 * self.config.num_hidden_layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
                continue
            scale = 1 / math.sqrt(parameter.shape[1])
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                scale /= depth
            parameter.normal_(0.0, scale, generator=generator)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """[b, s] int64 → hidden states [b, s, d].

        document_ids  [b, s]: tokens of different documents in a row do not see each other; positions restart with each
        position_ids  [b, s]: only where they are neither a document's own nor 0…s-1
        cache         `input_ids` continue what it holds; it takes them in
        """
        s = input_ids.shape[1]
        mask = None
        if cache is not None:
            mask = cache.mask(s)
            position_ids = cache.positions(s)
        elif document_ids is not None:
            mask = document_mask(document_ids)
            position_ids = document_positions(document_ids) if position_ids is None else position_ids
        if position_ids is None:
            position_ids = torch.arange(s, device=input_ids.device)[None]
        cos, sin = rotary(self.config, position_ids, self.model.norm.weight.dtype)
        hidden: Tensor = self.model(input_ids, cos, sin, mask, cache)
        if cache is not None:
            cache.length += s
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d] → [..., v] fp32."""
        output: Tensor = self.lm_head(hidden)
        return output.float()

    def log_probs(self, hidden: Tensor, targets: Tensor, temperature: float = 1.0, chunk: int = 0) -> Tensor:
        """log p(target) of each position: [n, d], [n] → [n] fp32.

        The logits are made for `chunk` positions at a time (0: as many as suit the device) and made again in the
        backward pass instead of being kept.
        """
        result: Tensor = self.lm_head(hidden, targets, temperature, chunk)
        return result
