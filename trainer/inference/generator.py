"""Generation with a key-value cache: batches of unequal prompts, and one answer streamed token by token.

A row's tokens depend on (weights, prompt, seed) alone: its random numbers come from its own seed and position, and padding is
masked. Only the rounding of matrix products may differ with the batch around it. The log-probabilities of what was drawn are
kept beside the ids, so that nothing is ever tokenised again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.inference.sampling import Sampling, draw, seed_array, uniforms

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.model.transformer import KeyValueCache, Transformer

CACHE_BYTES = 8 << 30  # of keys and values at once
ROWS_AT_ONCE = 256
COMPACT_BELOW = 0.8  # finished rows leave the batch once fewer than this share of its rows still run


@dataclass(frozen=True)
class Completion:
    """What was generated after a prompt, a stop token included."""

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]  # of the distribution each id was drawn from: tempered, and cut to the nucleus
    finished: bool  # a stop token was drawn; False: cut off at max_new_tokens

    def text_ids(self) -> tuple[int, ...]:
        """The ids without the stop token."""
        return self.ids[:-1] if self.finished else self.ids


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
    sampling: Sampling,
    batch_rows: int = ROWS_AT_ONCE,
) -> list[Completion]:
    """A completion for each (prompt, seed), in order. Equal prompts of a batch are read only once.

    Raises ValueError for an empty prompt, or one that leaves no room for `max_new_tokens` in the model's context.
    """
    import torch

    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed for each prompt")
    context = model.config.max_position_embeddings
    for prompt in prompts:
        if not 0 < len(prompt) <= context - max_new_tokens:
            raise ValueError(f"a prompt of {len(prompt)} tokens and {max_new_tokens} new ones do not fit the context of {context}")
    was_training = model.training
    model.eval()
    column = model.config.num_hidden_layers * 2 * model.config.num_key_value_heads * model.config.head_dim
    columns = max(map(len, prompts), default=0) + max_new_tokens
    batch_rows = max(1, min(batch_rows, CACHE_BYTES // (columns * column * model.model.norm.weight.element_size())))
    completions: list[Completion] = []
    with torch.inference_mode():
        for start in range(0, len(prompts), batch_rows):
            rows = slice(start, start + batch_rows)
            completions += generate_batch(model, prompts[rows], seeds[rows], stop_ids, max_new_tokens, sampling)
    model.train(was_training)
    return completions


def generate_batch(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    stop_ids: Collection[int],
    max_new_tokens: int,
    sampling: Sampling,
) -> list[Completion]:
    """The completions of one batch; the caller has checked the sizes and switched gradients off."""
    import numpy as np
    import torch

    device = model.model.embed_tokens.weight.device
    distinct = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    place = {prompt: row for row, prompt in enumerate(distinct)}
    cache, logits = prefill(model, distinct, max_new_tokens)
    rows = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
    if len(distinct) < len(prompts):
        cache = cache.select(rows)
    logits = logits[rows]

    ids = np.zeros((len(prompts), max_new_tokens), dtype=np.int64)
    log_probs = np.zeros((len(prompts), max_new_tokens), dtype=np.float32)
    lengths = np.full(len(prompts), max_new_tokens)
    stops, row_seeds = np.array(sorted(stop_ids)), seed_array(seeds)
    batch = np.arange(len(prompts))  # which completion each row of the cache belongs to
    running = np.ones(len(prompts), dtype=bool)
    for step in range(max_new_tokens):
        numbers = uniforms(row_seeds[batch], step)
        drawn, drawn_log_probs = draw(logits, torch.from_numpy(numbers).to(device), sampling)
        tokens = drawn.cpu().numpy()
        live = running[batch]
        ids[batch[live], step] = tokens[live]
        log_probs[batch[live], step] = drawn_log_probs.float().cpu().numpy()[live]
        stopped = batch[live & np.isin(tokens, stops)]
        running[stopped], lengths[stopped] = False, step + 1
        live = running[batch]
        if not live.any() or step + 1 == max_new_tokens:
            break
        if live.sum() < COMPACT_BELOW * len(batch):
            keep = torch.from_numpy(np.flatnonzero(live)).to(device)
            cache, drawn, batch = cache.select(keep), drawn[keep], batch[live]
        logits = model.logits(model(drawn[:, None], cache=cache)[:, -1])
    return [
        Completion(tuple(ids[row, :length].tolist()), tuple(log_probs[row, :length].tolist()), not running[row])
        for row, length in enumerate(lengths)
    ]


def prefill(model: Transformer, prompts: Sequence[Sequence[int]], new_tokens: int) -> tuple[KeyValueCache, Tensor]:
    """Read prompts of unequal length into a cache with room for `new_tokens` more; also the logits [rows, v] after each."""
    import torch

    from trainer.model.transformer import KeyValueCache

    weight = model.model.embed_tokens.weight
    longest = max(map(len, prompts))
    padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=weight.device)
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=weight.device)
    cache = KeyValueCache(model.config, padding, longest + new_tokens, weight.dtype)
    return cache, model.logits(model(ids, cache=cache)[:, -1])


def stream(
    model: Transformer, prompt: Sequence[int], seed: int, *, stop_ids: Collection[int], max_new_tokens: int, sampling: Sampling
) -> Iterator[int]:
    """The ids of one answer as they are drawn, without the stop token: the same ids as `generate` gives."""
    import torch

    model.eval()
    with torch.inference_mode():
        cache, logits = prefill(model, [prompt], max_new_tokens)
    for step in range(max_new_tokens):
        with torch.inference_mode():
            number = torch.from_numpy(uniforms(seed_array([seed]), step)).to(logits.device)
            drawn, _ = draw(logits, number, sampling)
        if int(drawn) in stop_ids:
            return
        yield int(drawn)
        with torch.inference_mode():
            logits = model.logits(model(drawn[:, None], cache=cache)[:, -1])
