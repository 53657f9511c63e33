"""The transformer: isolation of packed documents, the key-value cache, chunked log-probabilities, its initialisation."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.identity import identity_of_params
from trainer.model import output
from trainer.model.attention import Spans, attend, block_mask, document_mask, document_positions
from trainer.model.config import ModelConfig, RopeScaling
from trainer.model.moe import balance_loss
from trainer.model.output import ChunkedLogProbs, OutputLayer
from trainer.model.transformer import KeyValueCache, Transformer
from trainer.planning import logits_bytes

TINY = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64).resolved(
    97
)

MIXED = replace(TINY, architecture="qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_more_than_a_chunk_of_logits_is_ever_there(dtype: torch.dtype) -> None:
    class Largest(TorchDispatchMode):
        rows, passes, held = 0, 0, 0

        def __init__(self) -> None:
            super().__init__()
            self.made: dict[StorageWeakRef, int] = {}

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            if isinstance(made, Tensor) and made.dim() == 2 and made.shape[1] == config.vocab_size and made.shape[0] > config.hidden_size:
                self.rows, self.passes = max(self.rows, made.shape[0]), self.passes + (function is torch.ops.aten.mm.default)
                self.made = {storage: size for storage, size in self.made.items() if not storage.expired()}
                self.made[StorageWeakRef(made.untyped_storage())] = made.untyped_storage().nbytes()
                self.held = max(self.held, sum(self.made.values()))
            return made

    config = ModelConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1, head_dim=4).resolved(128_256)
    head, hidden = OutputLayer(4, config.vocab_size, bias=False, dtype=dtype), torch.randn(300, 4, dtype=dtype, requires_grad=True)
    with Largest() as largest:
        log_probs, _ = head(hidden, torch.arange(300))
        log_probs.sum().backward()
    # five chunks, each made in the forward pass and again in the backward pass
    assert (largest.rows, largest.passes) == (64, 10)
    of_gradient = 4 * config.vocab_size * config.hidden_size
    assert largest.held == logits_bytes(config, 300, "cpu") - of_gradient


@pytest.mark.parametrize("kept", [0, 1 << 23], ids=["made again", "kept"])
def test_log_probs_and_normalisers_have_the_gradients_of_their_definition(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LOGITS_KEPT", kept)
    generator = torch.Generator().manual_seed(0)
    head = OutputLayer(5, 11, bias=False).double()
    hidden = torch.randn(7, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.randint(0, 11, (7,), generator=generator)

    def scored(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, normalisers = ChunkedLogProbs.apply(hidden, weight, targets, 0.7, 3)
        return log_probs, normalisers.square()

    assert torch.autograd.gradcheck(scored, (hidden, head.weight))
    logits = head(hidden) / 0.7
    torch.testing.assert_close(
        scored(hidden, head.weight), (-F.cross_entropy(logits, targets, reduction="none"), logits.logsumexp(-1) ** 2)
    )


@pytest.mark.parametrize("config", [TINY, MIXED], ids=["dense", "experts"])
def test_layers_computed_again_give_the_same_gradients_bit_for_bit(config: ModelConfig) -> None:
    results = []
    for kind in ("none", "layer"):
        model = Transformer(config, seed=4)
        model.set_recompute(kind)  # type: ignore[arg-type]
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        documents = torch.arange(24).expand(2, -1) // 7
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            hidden = model(tokens(2, 24), document_ids=documents)
        loss = hidden.square().sum() + (balance_loss(model.routing) if model.routing else 0)
        loss.backward()
        results.append((kept, [parameter.grad for parameter in model.parameters() if parameter.grad is not None], model.routing))
    assert results[1][0] < results[0][0] / 4
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
    if config.num_experts:
        assert torch.equal(results[0][2].tokens, results[1][2].tokens)


@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize("lengths", [(300, 300), (37,) * 16 + (8,), (1, 2, 3, 4, 250, 40, 300), (128, 172, 129, 171), (1,) * 600])
def test_spans_of_documents_attend_as_one_mask_for_all_does(heads: int, lengths: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn((2, 300, number, 8), generator=generator, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for number in (4, heads, heads)
    )
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).view(2, 300)
    over = document_mask(documents, q.dtype)
    assert isinstance(over, Spans) and sum(over.lengths) == 600
    whole = (documents[:, None, :, None] == documents[:, None, None]).tril()
    found = []
    for attended in (attend(q, k, v, over), F.scaled_dot_product_attention(q, k, v, attn_mask=whole, enable_gqa=True)):
        found.append((attended.detach(), *torch.autograd.grad(attended.square().sum(), (q, k, v))))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(("heads", "queries", "keys"), [(4, 300, 300), (2, 129, 200), (1, 5, 200), (4, 1, 7)])
def test_a_cache_s_queries_attend_some_at_a_time_as_all_at_once_do(heads: int, queries: int, keys: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, queries, 8), (2, heads, keys, 8), (2, heads, keys, 8)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    cache = KeyValueCache(TINY, torch.tensor([3, 0]), keys)
    cache.length = keys - queries
    mask = cache.mask(queries)
    assert isinstance(mask, torch.Tensor)
    torch.testing.assert_close(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # meant for GPUs, exact here
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_masks_by_blocks_attend_as_the_exact_ones_do(heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, number, 200, 16) for number in (4, heads, heads)]
    documents = torch.stack([torch.arange(200) // 37, torch.where(torch.arange(200) < 150, 0, -1)])
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    torch.testing.assert_close(
        attend(q, k, v, block_mask(documents)), attend(q, k, v, document_mask(documents, q.dtype)), atol=1e-5, rtol=0
    )


@pytest.mark.proof
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_keeps_documents_apart_as_the_cpu_does() -> None:
    config = replace(TINY, hidden_size=128, head_dim=32, max_position_embeddings=512)
    model = Transformer(config, seed=1)
    ids, documents = tokens(2, 300), torch.arange(300).expand(2, -1) // 47
    expected = model(ids, document_ids=documents)
    expected.square().sum().backward()
    gradient = model.model.layers[0].self_attn.k_proj.weight.grad.clone()
    model.zero_grad()
    found = model.cuda()(ids.cuda(), document_ids=documents.cuda())
    found.square().sum().backward()
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(model.model.layers[0].self_attn.k_proj.weight.grad.cpu(), gradient, atol=1e-2, rtol=1e-2)


@pytest.mark.proof
@pytest.mark.parametrize("config", [TINY, MIXED], ids=["dense", "experts"])
def test_compiled_layers_give_the_same_loss_and_gradients(config: ModelConfig) -> None:
    results = []
    for compiled in (False, True):
        model = Transformer(config, seed=4)
        if compiled:
            model.compile_layers()
        hidden = model(tokens(2, 24), document_ids=torch.arange(24).expand(2, -1) // 7)
        log_probs = model.log_probs(hidden.flatten(0, 1), tokens(48))
        log_probs.sum().backward()
        results.append((log_probs.detach(), [parameter.grad for parameter in model.parameters()]))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_size": 100, "num_attention_heads": 3}, "multiple"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "num_key_value_heads"),
        ({"architecture": "llama", "hidden_size": 100, "num_attention_heads": 3, "head_dim": 32}, "multiple"),
        ({"architecture": "gpt2", "num_key_value_heads": 2}, "gpt2 has as many"),
        ({"num_experts": 4}, "num_experts is no part of qwen3"),
        ({"architecture": "qwen3_moe"}, "needs num_experts"),
        ({"architecture": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 5}, "5 of 4 experts"),
        ({"architecture": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}, "needs moe_intermediate_size"),
        ({**EXPERTS, "architecture": "qwen3_moe", "n_shared_experts": 1}, "n_shared_experts is no part of qwen3_moe"),
        ({**EXPERTS, "architecture": "glm4_moe"}, "always has shared experts"),
        ({**EXPERTS, "architecture": "glm4_moe", "n_shared_experts": 1, "first_k_dense_replace": 5}, "exceeds num_hidden_layers"),
        ({**EXPERTS, "architecture": "glm4_moe", "n_shared_experts": 1, "n_group": 4, "topk_group": 2}, "groups must be equal"),
        ({**EXPERTS, "architecture": "glm4_moe", "n_shared_experts": 1, "partial_rotary_factor": 0.1}, "no even width"),
        ({"architecture": "llama", "attention_bias": True}, "attention_bias is no part of llama"),
        ({"architecture": "gpt2", "rope_scaling": RopeScaling(rope_type="linear", factor=2)}, "rope_scaling is no part of gpt2"),
    ],
)
def test_shapes_that_no_class_has_are_refused_with_the_mend(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        ModelConfig(**values)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        ModelConfig(vocab_size=10).resolved(20)


def test_contradictory_scalings_are_refused() -> None:
    for values in ({"factor": 2.0}, {"rope_type": "linear", "beta_fast": 3.0}, {"rope_type": "llama3", "high_freq_factor": 1.0}):
        with pytest.raises(ValueError, match="rope_scaling"):
            RopeScaling(**values)  # type: ignore[arg-type]


def test_families_that_are_only_planned_are_not_built() -> None:
    for values in ({"architecture": "gpt2"}, {"architecture": "mixtral", "num_experts": 8, "num_experts_per_tok": 2}):
        config = ModelConfig(**values).resolved(97)  # type: ignore[arg-type]
        assert not config.trainable
        with pytest.raises(ValueError, match="can be planned, not built"):
            Transformer(config)


def test_settings_that_came_later_leave_old_fingerprints_alone() -> None:
    later = {"architecture", "rope_scaling", "num_experts", "attention_bias", "partial_rotary_factor"}
    assert not later & set(identity_of_params(ModelConfig()))
    assert later & set(identity_of_params(ModelConfig(architecture="llama"))) == {"architecture"}
