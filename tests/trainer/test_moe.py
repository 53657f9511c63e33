"""Mixture of experts: against a naive loop and transformers, its losses, its balance over ranks, upcycling."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from pipeline.stage import Artifact
from tests.data_prep.contexts import context
from tests.trainer import routed, worlds
from trainer.inference.generator import generate
from trainer.inference.sampling import Sampling
from trainer.model.config import ModelConfig
from trainer.model.moe import Balancer, MixtureOfExperts, Router, balance_loss, grouped_linear, load_metrics, router_z_loss
from trainer.model.transformer import KeyValueCache, Transformer, mixture_of_experts
from trainer.model.upcycling import upcycle
from trainer.stages import Experts, PretrainParams, pretrain
from trainer.tasks.task import Place

DENSE = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64).resolved(
    97
)
QWEN3_MOE = replace(DENSE, architecture="qwen3_moe", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24)
GLM4_MOE = replace(
    DENSE, architecture="glm4_moe", num_hidden_layers=3, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, n_shared_experts=1,
    first_k_dense_replace=1, n_group=4, topk_group=2, routed_scaling_factor=1.5,
)  # fmt: skip
BOTH = pytest.mark.parametrize("config", [QWEN3_MOE, GLM4_MOE], ids=lambda config: config.architecture)
IDS = torch.randint(0, 97, (3, 20), generator=torch.Generator().manual_seed(0))


def layer(config: ModelConfig, dtype: torch.dtype = torch.float64) -> MixtureOfExperts:
    """A mixture with weights; the last expert's router row is far from all tokens, so that it gets none."""
    model: Any = mixture_of_experts(config).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    model.gate.weight.data[-1] = -10
    return model


def naive(mixture: MixtureOfExperts, config: ModelConfig, x: Tensor) -> Tensor:
    """Token by token, every expert for every token, times its weight or 0."""
    rows = []
    for token in x.flatten(0, 1):
        logits = mixture.gate.weight @ token
        if config.architecture == "qwen3_moe":
            scores = chosen_by = logits.exp() / logits.exp().sum()
        else:
            scores = 1 / (1 + (-logits).exp())
            chosen_by = scores.detach() + mixture.gate.e_score_correction_bias
            groups = chosen_by.reshape(config.n_group, -1)
            values = groups.sort(dim=1, descending=True).values[:, :2].sum(1)
            open_groups = values.argsort(descending=True)[: config.topk_group].tolist()
            chosen_by = torch.stack([group if at in open_groups else group * 0 - 9 for at, group in enumerate(groups)]).flatten()
        best = chosen_by.argsort(descending=True)[: config.num_experts_per_tok].tolist()
        total = sum(scores[expert] for expert in best)
        y: Any = 0
        for expert in range(config.num_experts):
            gate, up = (mixture.experts.gate_up_proj[expert] @ token).chunk(2)
            output = mixture.experts.down_proj[expert] @ (F.silu(gate) * up)
            y = y + output * ((scores[expert] / total * config.routed_scaling_factor) if expert in best else 0)
        if config.n_shared_experts:
            y = y + mixture.shared_experts(token)
        rows.append(y)
    return torch.stack(rows).view_as(x)


@BOTH
def test_outputs_and_gradients_are_those_of_a_naive_loop(config: ModelConfig) -> None:
    mixture = layer(config)
    x = torch.rand(2, 15, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    weights = torch.randn(2, 15, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    results = []
    for compute in (lambda: mixture(x)[0], lambda: naive(mixture, config, x)):
        y = compute()
        results.append((y.detach(), torch.autograd.grad((y * weights).sum(), [x, *mixture.parameters()])))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-6)
    gradients = dict(zip(["x", *(name for name, _ in mixture.named_parameters())], results[0][1], strict=True))
    assert gradients["experts.gate_up_proj"][-1].abs().max() == 0  # the expert without tokens has a gradient: 0


def test_the_kernel_of_gpus_is_the_fallback() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(20, 16, generator=generator), torch.randn(5, 8, 16, generator=generator)
    sizes = torch.tensor([3, 0, 9, 8, 0])
    kernel = F.grouped_mm(x, weight.transpose(1, 2), offs=sizes.cumsum(0, dtype=torch.int32))
    torch.testing.assert_close(grouped_linear(x, weight, sizes), kernel)


@BOTH
def test_a_token_is_computed_the_same_whatever_is_around_it(config: ModelConfig) -> None:
    model = Transformer(config, seed=1)
    with torch.no_grad():
        together = model(IDS)
        for row, ids in enumerate(IDS):
            torch.testing.assert_close(model(ids[None])[0], together[row], atol=1e-5, rtol=0)


@BOTH
def test_generation_with_a_cache_gives_what_full_passes_give(config: ModelConfig) -> None:
    model = Transformer(config, seed=1)
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
    found = generate(model, prompts, [1, 2, 3], stop_ids=[96], max_new_tokens=6, sampling=Sampling(temperature=0.0))
    for prompt, completion in zip(prompts, found, strict=True):
        ids = list(prompt)
        for token in completion.ids:
            with torch.no_grad():
                assert int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax()) == token
            ids.append(token)
    assert model.routing is not None
    with torch.no_grad():
        model(IDS, cache=KeyValueCache(config, torch.zeros(3, dtype=torch.long), 20))
    assert model.routing is None


@BOTH
def test_padding_is_no_part_of_the_load(config: ModelConfig) -> None:
    model = Transformer(config, seed=1)
    documents = torch.zeros(3, 20, dtype=torch.long)
    documents[:, 15:] = -1
    model(IDS, document_ids=documents)
    padded = model.routing
    model(IDS[:, :15])
    assert padded is not None and model.routing is not None
    assert torch.equal(padded.tokens, model.routing.tokens)
    assert padded.tokens.sum(dim=1).tolist() == [3 * 15 * config.num_experts_per_tok] * len(padded.tokens)
    torch.testing.assert_close((padded.scores, padded.squares), (model.routing.scores, model.routing.squares), atol=1e-4, rtol=1e-5)


def logits_of(model: Transformer) -> list[Tensor]:
    """The routers' logits of a forward pass over IDS."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: found.append(output[2]))
        for module in model.modules()
        if isinstance(module, Router)
    ]
    model(IDS)
    for hook in hooks:
        hook.remove()
    return found


def test_the_balance_loss_is_transformers_layer_by_layer_and_so_is_its_gradient() -> None:
    model = Transformer(QWEN3_MOE, seed=1).double()
    gates = [module.weight for module in model.modules() if isinstance(module, Router)]
    logits = logits_of(model)
    theirs = torch.stack([load_balancing_loss_func((layer,), 8, 2) for layer in logits]).mean()  # type: ignore[arg-type]
    balancer = Balancer(model)
    balancer.add(model.routing)
    balancer.finish()
    model(IDS)
    assert model.routing is not None
    ours = balance_loss(model.routing) / IDS.numel()
    torch.testing.assert_close(ours, theirs.double(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(ours, gates), torch.autograd.grad(theirs, gates), atol=1e-6, rtol=1e-5)


def test_the_balance_loss_gives_no_gradient_before_the_first_step_and_is_least_when_even() -> None:
    model = Transformer(QWEN3_MOE, seed=1).double()
    model(IDS)
    assert model.routing is not None
    loss = balance_loss(model.routing) / IDS.numel()
    assert loss.item() == pytest.approx(2)
    gradients = torch.autograd.grad(loss, [module.weight for module in model.modules() if isinstance(module, Router)])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-12


def test_losses_do_not_depend_on_how_a_batch_is_cut() -> None:
    for config in (QWEN3_MOE, GLM4_MOE):
        model = Transformer(config, seed=1).double()
        balancer = Balancer(model, bias_rate=0.01)
        model(IDS)
        balancer.add(model.routing)
        balancer.finish()
        results, loads = [], []
        for size in (3, 2, 1):
            model.zero_grad()
            for rows in IDS.split(size):
                model(rows)
                assert model.routing is not None
                (balance_loss(model.routing) + router_z_loss(model.routing)).backward()
                balancer.add(model.routing)
            assert balancer.tokens is not None
            loads.append(balancer.tokens)
            balancer.tokens = None
            results.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
        assert torch.equal(loads[0], loads[1]) and torch.equal(loads[0], loads[2])
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], atol=1e-9, rtol=1e-9)


def test_the_router_z_loss_is_the_mean_square_of_the_log_normalisers() -> None:
    model = Transformer(GLM4_MOE, seed=1)
    expected = torch.stack([logits.logsumexp(-1).square().sum() for logits in logits_of(model)]).mean()
    assert model.routing is not None
    torch.testing.assert_close(router_z_loss(model.routing), expected)


def test_selection_biases_even_out_the_load_without_a_gradient() -> None:
    config = replace(GLM4_MOE, n_group=1, topk_group=1)
    model = Transformer(config, seed=4)
    balancer = Balancer(model, bias_rate=0.04)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    unevenness = []
    for _ in range(30):
        with torch.no_grad():
            model(IDS)
        balancer.add(model.routing)
        balancer.add(model.routing, counted=False)
        unevenness.append(balancer.finish()["expert_load_max"])
    assert unevenness[0] > 1.8 and max(unevenness[-5:]) < 1.6
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_parameters())
    assert any("e_score_correction_bias" in name for name in model.state_dict())


def test_a_dense_model_has_no_load() -> None:
    model = Transformer(DENSE)
    model(IDS)
    balancer = Balancer(model, bias_rate=0.1)
    balancer.add(model.routing)
    assert model.routing is None and balancer.finish() == {}


@given(st.lists(st.lists(st.integers(0, 1000), min_size=4, max_size=4), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_load_metrics_stay_within_their_bounds(load: list[list[int]]) -> None:
    found = load_metrics(torch.tensor(load))
    assert 0 <= found["expert_load_entropy"] <= 1 + 1e-9 and 0 <= found["expert_load_max"] <= 4
    even = load_metrics(torch.full((2, 4), 7))
    assert even == {"expert_load_max": pytest.approx(1), "expert_load_entropy": pytest.approx(1)}


@pytest.mark.parametrize(
    ("load", "most", "entropy"),
    [
        ([[6, 0, 0, 0]], 4, 0),
        ([[3, 0, 3, 0]], 2, 1 / 2),
        ([[4, 2, 1, 1]], 2, 7 / 8),  # 1/2 · 1 + 1/4 · 2 + 2 · 1/8 · 3 bits of two
        ([[6, 0, 0, 0], [5, 5, 5, 5], [3, 0, 3, 0]], 4, 1 / 2),
    ],
)
def test_load_metrics_by_hand(load: list[list[int]], most: float, entropy: float) -> None:
    found = load_metrics(torch.tensor(load))
    assert found == {"expert_load_max": pytest.approx(most), "expert_load_entropy": pytest.approx(entropy)}


@pytest.mark.parametrize(
    "sparse",
    [
        replace(DENSE, architecture="qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=DENSE.intermediate_size),
        replace(
            DENSE, architecture="glm4_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=DENSE.intermediate_size,
            n_shared_experts=1, first_k_dense_replace=1, use_qk_norm=True,
        ),
    ],
    ids=lambda config: config.architecture,
)  # fmt: skip
def test_an_upcycled_model_begins_as_the_dense_one(sparse: ModelConfig) -> None:
    dense = Transformer(DENSE, seed=5)
    model = Transformer(sparse, seed=0)
    model.load_state_dict(upcycle(dense.state_dict(), DENSE, sparse, seed=1))
    torch.testing.assert_close(model.logits(model(IDS)), dense.logits(dense(IDS)), atol=1e-5, rtol=0)
    assert model.routing is not None and (model.routing.tokens > 0).all()  # tokens go to different experts already
    loss = -model.log_probs(model(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).mean()
    loss.backward()
    stacks = [parameter.grad for name, parameter in model.named_parameters() if name.endswith("experts.down_proj")]
    assert all(stack is not None and (stack[0] - stack[1]).abs().max() > 0 for stack in stacks)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"moe_intermediate_size": 24}, "set it to the dense model's"),
        ({"norm_topk_prob": False}, "add up to 1"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, the dense model's is 2"),
        ({"architecture": "glm4_moe", "n_shared_experts": 1}, "normalises queries and keys"),
    ],
)
def test_what_cannot_be_upcycled_is_refused(changes: dict[str, Any], said: str) -> None:
    sparse = {"architecture": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": DENSE.intermediate_size}
    with pytest.raises(ValueError, match=said):
        upcycle(Transformer(DENSE).state_dict(), DENSE, replace(DENSE, **{**sparse, **changes}), seed=0)


@BOTH
def test_initialisation_gives_experts_the_scale_of_feed_forward_layers(config: ModelConfig) -> None:
    model = Transformer(replace(config, hidden_size=64, attention_bias=config.architecture == "glm4_moe"), seed=1)
    state = model.state_dict()
    depth = (2 * config.num_hidden_layers) ** 0.5
    assert float(state["model.layers.1.mlp.experts.gate_up_proj"].std()) == pytest.approx(64**-0.5, rel=0.05)
    assert float(state["model.layers.1.mlp.experts.down_proj"].std()) == pytest.approx(24**-0.5 / depth, rel=0.05)
    assert all(tensor.abs().max() == 0 for name, tensor in state.items() if name.endswith(("_proj.bias", "correction_bias", "per_expert")))
    again = copy.deepcopy(model)
    again.fill(again.drawn(1))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in state.items())


def test_every_weight_beside_the_loss_reaches_gradient_and_biases_and_the_load_is_told(tmp_path: Path) -> None:
    shape = replace(GLM4_MOE, vocab_size=0, n_group=1, topk_group=1)
    part = worlds.pretraining(tmp_path).corpora[0]
    files = tuple(replace(file, records=1) for file in (*part.train, *part.validation, *part.tables))
    tokenizer = Artifact("tokenizer", "t", "t", str(worlds.write_tokenizer(tmp_path)), (), {"lineage": {}})
    ctx = context(pretrain, tmp_path / "stage", corpus=replace(tokenizer, files=files), tokenizer=tokenizer)
    ctx.run = worlds.TrainRun(workers=0, zero=0, micro_batch=3)
    beside: dict[str, Any] = {"z_loss": 0.02, "experts": Experts(balance=0.7, router_z=0.3, bias_rate=0.02)}
    steps: dict[str, Any] = {"max_steps": 2, "sequence_length": 24, "batch_tokens": 192, "validation_tokens": 0, "lr": 1e-12}
    worlds.alone(lambda: pretrain(ctx, PretrainParams(model=shape, **steps, **beside)))
    told = [event for event in map(json.loads, (tmp_path / "stage" / "events.jsonl").read_text().splitlines()) if "norm" in event]

    # next to nothing is learned, so that both steps are those of the first weights
    model = Transformer(shape.resolved(284), seed=0)
    task = worlds.pretraining(tmp_path, rows_per_step=8)
    task.start(Place(0, 1, torch.device("cpu"), 8), model)
    gates = [module for module in model.modules() if isinstance(module, Router)]
    shares = [torch.full((8,), 1 / 8) for _ in gates]
    for step, event in enumerate(told):
        (batch,) = task.micro_batches(step, model)
        routed_to: list[Any] = []
        hooks = [gate.register_forward_hook(lambda _, __, output, into=routed_to: into.append(output)) for gate in gates]
        logits = model.logits(model(batch.inputs, document_ids=batch.documents)).flatten(0, 1)
        balance, squares = [], []
        for share, (_, _, scored, _) in zip(shares, routed_to, strict=True):
            balance.append(8 * 3 * (share * (scored.sigmoid() / scored.sigmoid().sum(-1, keepdim=True)).mean(0)).sum())
            squares.append(scored.logsumexp(-1).square().mean())
        loss = F.cross_entropy(logits, batch.targets.flatten())
        parts = {"z_loss": logits.logsumexp(-1).square().mean(), "balance": sum(balance) / 2, "router_z": sum(squares) / 2}
        total = loss + 0.02 * parts["z_loss"] + 0.7 * parts["balance"] + 0.3 * parts["router_z"]
        gradient = torch.autograd.grad(total, list(model.parameters()))
        assert {name: event[name] for name in parts} == {name: pytest.approx(part.item(), rel=1e-5) for name, part in parts.items()}
        assert event["norm"] == pytest.approx(float(torch.cat([part.flatten() for part in gradient]).norm()), rel=1e-5)
        loads = [torch.bincount(chosen.flatten(), minlength=8).double() for chosen, *_ in routed_to]
        shares = [(load / load.sum()).float() for load in loads]
        assert event["expert_load_max"] == pytest.approx(max(8 * float(share.max()) for share in shares))
        for gate, load, hook in zip(gates, loads, hooks, strict=True):
            gate.e_score_correction_bias += 0.02 * (load.mean() - load).sign().float()
            hook.remove()
    assert len(told) == 2
    published = load_file(tmp_path / "stage" / "own" / "model.safetensors")
    for layer, gate in enumerate(gates, start=1):
        bias = gate.e_score_correction_bias
        assert bias.abs().max() > 0.03
        torch.testing.assert_close(published[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"], bias)


@pytest.mark.proof
def test_experts_train_alike_at_every_zero_stage_and_resume_to_the_bit(tmp_path: Path) -> None:
    worlds.pretraining(tmp_path)
    for rank in (1, 2):
        worlds.pretraining(tmp_path / f"world-{rank}")
    found = worlds.together(2, tmp_path, routed.cases, str(tmp_path))[0]
    one = worlds.alone(routed.cases, str(tmp_path), (0,))
    expected = one["weights"][0]
    assert any(tensor.abs().max() > 0 for name, tensor in expected.items() if "correction_bias" in name)
    for weights in found["weights"].values():
        assert weights.keys() == expected.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)
    assert found["exact"] == {0: True, 1: True, 2: True, 3: True, "bf16": True}
    biases = [tensor for name, tensor in found["half"].items() if "correction_bias" in name]
    assert biases and all(bias.dtype == torch.float32 for bias in biases)
    for bias in biases:  # bf16 has no 0.01, nor its multiples
        torch.testing.assert_close(bias, (bias * 100).round() / 100, atol=1e-7, rtol=0)


@pytest.mark.proof
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@BOTH
def test_a_gpu_in_bf16_computes_experts_as_the_exact_loop_does(config: ModelConfig) -> None:
    exact = layer(config, torch.float32)
    x = torch.rand(2, 150, 32, generator=torch.Generator().manual_seed(2)).bfloat16()
    exact.to(torch.bfloat16)
    expected = exact(x)[0]
    expected.float().square().sum().backward()
    expected_gradients = [parameter.grad for parameter in exact.parameters()]
    exact.zero_grad()
    found = exact.cuda()(x.cuda())[0]
    found.float().square().sum().backward()
    torch.testing.assert_close(found.cpu(), expected, atol=2e-2, rtol=5e-2)
    for parameter, gradient in zip(exact.parameters(), expected_gradients, strict=True):
        assert parameter.grad is not None and gradient is not None
        assert (parameter.grad.cpu() - gradient).norm() < 0.05 * gradient.norm() + 1e-3


@pytest.mark.proof
def test_experts_go_on_from_two_ranks_to_one_with_their_load_and_biases(tmp_path: Path) -> None:
    worlds.pretraining(tmp_path)
    worlds.together(2, tmp_path, routed.begun, str(tmp_path))
    whole, *finished = (outcome.weights for outcome in worlds.alone(routed.finished, str(tmp_path)).values())
    for weights in finished:
        for name, tensor in whole.items():
            torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=1e-4, msg=name)
