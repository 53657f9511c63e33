"""The transformer: isolation of packed documents, the key-value cache, chunked log-probabilities, its initialisation."""

import pytest
import torch
from torch import Tensor

from trainer.model.attention import document_positions
from trainer.model.config import ModelConfig
from trainer.model.transformer import KeyValueCache, Transformer

TINY = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64).resolved(
    97
)


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 97, shape, generator=torch.Generator().manual_seed(seed))


def test_packed_documents_give_what_they_give_alone() -> None:
    model = Transformer(TINY, seed=1)
    lengths = [5, 1, 17, 9]
    documents = [tokens(1, length, seed=length) for length in lengths]
    ids = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    assert document_positions(ids)[0].tolist() == [i for length in lengths for i in range(length)]
    with torch.no_grad():
        packed = model(torch.cat(documents, dim=1), document_ids=ids).split(lengths, dim=1)
        for part, document in zip(packed, documents, strict=True):
            torch.testing.assert_close(part, model(document), atol=1e-5, rtol=0)


def test_no_token_sees_a_later_one() -> None:
    model = Transformer(TINY, seed=1)
    ids = tokens(1, 20)
    changed = ids.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 97
    with torch.no_grad():
        difference = (model(ids) - model(changed)).abs().amax(dim=-1)[0]
    assert difference[:12].max() == 0 and difference[12:].min() > 0


def test_the_cache_gives_what_a_full_pass_gives_for_unequal_prompts() -> None:
    model = Transformer(TINY, seed=2)
    lengths, answer = [7, 1, 12], 6
    rows = [tokens(length + answer, seed=length) for length in lengths]
    width = max(lengths)
    padding = torch.tensor([width - length for length in lengths])
    prompts = torch.zeros(3, width, dtype=torch.long)
    for row, (ids, length) in enumerate(zip(rows, lengths, strict=True)):
        prompts[row, width - length :] = ids[:length]
    cache = KeyValueCache(TINY, padding, width + answer)
    with torch.no_grad():
        steps = [model(prompts, cache=cache)[:, -1]]
        for step in range(answer - 1):
            steps.append(
                model(torch.stack([ids[length + step] for ids, length in zip(rows, lengths, strict=True)])[:, None], cache=cache)[:, 0]
            )
        for row, (ids, length) in enumerate(zip(rows, lengths, strict=True)):
            full = model(ids[None])[0, length - 1 : length + answer - 1]
            torch.testing.assert_close(torch.stack([step[row] for step in steps]), full, atol=1e-5, rtol=0)


def test_rows_of_a_cache_can_be_repeated_and_dropped() -> None:
    model = Transformer(TINY, seed=2)
    prompts, follow = tokens(2, 6), tokens(3, 1, seed=9)
    padding = torch.tensor([0, 2])
    rows = torch.tensor([1, 1, 0])
    with torch.no_grad():
        cache = KeyValueCache(TINY, padding, 8)
        model(prompts, cache=cache)
        chosen = model(follow, cache=cache.select(rows))
        expected = KeyValueCache(TINY, padding[rows], 8)
        model(prompts[rows], cache=expected)
        torch.testing.assert_close(chosen, model(follow, cache=expected))


def test_a_full_cache_refuses_more() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Transformer(TINY)(tokens(1, 5), cache=KeyValueCache(TINY, torch.zeros(1, dtype=torch.long), 4))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_log_probs_and_their_gradients_equal_those_of_full_logits(temperature: float) -> None:
    model = Transformer(TINY, seed=4)
    ids = tokens(2, 16)
    weights = torch.randn(30, generator=torch.Generator().manual_seed(0))
    results = []
    for chunk in (7, 1000):
        model.zero_grad()
        hidden = model(ids)[:, :-1].reshape(30, -1)
        log_probs = model.log_probs(hidden, ids[:, 1:].reshape(30), temperature, chunk)
        (log_probs * weights).sum().backward()
        results.append((log_probs.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    full = torch.log_softmax(model.logits(model(ids)[:, :-1].reshape(30, -1)) / temperature, -1)
    torch.testing.assert_close(results[0][0], full.gather(1, ids[:, 1:].reshape(30, 1))[:, 0])
    torch.testing.assert_close(results[0], results[1])


def test_a_seed_decides_every_bit_and_depth_does_not_raise_the_scale() -> None:
    first, second = Transformer(TINY, seed=7).state_dict(), Transformer(TINY, seed=7).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], Transformer(TINY, seed=8).state_dict()["model.embed_tokens.weight"])
    scales = []
    for layers in (2, 32):
        config = ModelConfig(hidden_size=64, num_hidden_layers=layers).resolved(97)
        model = Transformer(config, seed=1)
        captured: list[Tensor] = []
        model.model.norm.register_forward_pre_hook(lambda _, inputs, into=captured: into.append(inputs[0]))
        with torch.no_grad():
            model(tokens(2, 32))
        scales.append(captured[0].std().item())
    assert 0.5 < scales[1] / scales[0] < 2


def test_sizes_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        ModelConfig(hidden_size=100, num_attention_heads=3)
    with pytest.raises(ValueError, match="num_key_value_heads"):
        ModelConfig(num_attention_heads=4, num_key_value_heads=3)
    with pytest.raises(ValueError, match="tokenizer"):
        ModelConfig(vocab_size=10).resolved(20)
