"""The planner against published figures, against the real model, and against itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import typed
from pipeline.reference import composed, options
from trainer.model.attention import spans_of
from trainer.model.config import ModelConfig
from trainer.model.moe import MixtureOfExperts
from trainer.model.transformer import Transformer
from trainer.planning import (
    Assumptions,
    Offload,
    Training,
    activation_bytes,
    chinchilla_ratio,
    conversion_bytes,
    cost,
    count_parameters,
    estimate,
    largest_micro_batch,
    memory_per_device,
    state_bytes,
    work_per_token,
)


def preset(name: str, vocab_size: int = 0) -> ModelConfig:
    config = typed(ModelConfig, composed("demo", f"model={name}")[0]["model"], "model")
    return config.resolved(vocab_size)


def test_gpt3_has_the_published_counts() -> None:
    found = count_parameters(preset("gpt3-175b"))
    assert (found.embedding, found.unembedding) == (617_558_016, 617_558_016)
    assert (found.attention, found.mlp) == (57_982_058_496, 115_964_116_992)
    assert found.total == found.active == 175_181_291_520


@pytest.mark.parametrize(
    ("name", "exact"),
    [("gpt2-1.5b", 1_557_611_200), ("mixtral-8x7b", 46_702_792_704), ("llama3-405b", 405_853_388_800)],
)
def test_exact_counts_are_those_of_the_published_checkpoints(name: str, exact: int) -> None:
    assert count_parameters(preset(name)).exact == exact


def test_mixtral_has_46_7_billion_of_which_a_token_meets_12_9() -> None:
    found = count_parameters(preset("mixtral-8x7b"))
    assert (round(found.total / 1e9, 1), round(found.active / 1e9, 1)) == (46.7, 12.9)


@pytest.mark.parametrize(
    ("name", "vocab_size", "size", "active"),
    [
        ("demo", 2048, "1.07e+06", "1.1e+06"),
        ("124m", 50_257, "1.24e+08", "1.2e+08"),
        ("1b", 32_000, "1.24e+09", "1.2e+09"),
        ("7b", 32_000, "7.04e+09", "7e+09"),
        ("30b-a3b", 0, "3.05e+10", "3.3e+09"),
    ],
)
def test_a_preset_has_the_size_that_its_name_and_its_comment_state(name: str, vocab_size: int, size: str, active: str) -> None:
    found = count_parameters(preset(name, vocab_size))
    assert (f"{found.exact:.3g}", f"{found.active:.2g}") == (size, active)


def test_gpt3s_training_takes_the_published_flops_days_and_dollars() -> None:
    config, tokens = preset("gpt3-175b"), 300_000_000_000
    flops = work_per_token(config, 2048).parameters * tokens
    assert flops == pytest.approx(3.14e23, rel=1e-3)
    assumptions = Assumptions(price_per_hour=2.0)
    assert round(cost(flops, 256, 5.2e18 / 86400, assumptions).time_s / 86400) == 236
    assert cost(flops, 256, 0.7 * 5.2e18 / 86400, assumptions).money == pytest.approx(4.14e6, rel=1e-3)


def test_the_zero_paper_s_example_is_met() -> None:
    billions = [sum(state_bytes(7_500_000_000, zero, 64)) / 1e9 for zero in range(4)]
    assert [round(value, 1) for value in billions] == [120.0, 31.4, 16.6, 1.9]


def test_seven_billion_parameters_in_bf16_are_14_gigabytes() -> None:
    assert state_bytes(7_000_000_000, 0, 1)[0] == 14_000_000_000


SHAPES = {
    "qwen3": ModelConfig(hidden_size=48, num_hidden_layers=3, num_key_value_heads=2),
    "untied": ModelConfig(hidden_size=32, num_hidden_layers=3, head_dim=24, tie_word_embeddings=False, intermediate_size=80),
    "llama": ModelConfig(architecture="llama", hidden_size=64, num_hidden_layers=3, num_key_value_heads=1),
    "qwen3_moe": ModelConfig(
        architecture="qwen3_moe", hidden_size=64, num_hidden_layers=3, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=48
    ),
    "glm4_moe": ModelConfig(
        architecture="glm4_moe", hidden_size=64, num_hidden_layers=3, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=48,
        n_shared_experts=2, first_k_dense_replace=1, attention_bias=True, use_qk_norm=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_the_exact_count_is_that_of_the_real_model(name: str) -> None:
    config = SHAPES[name].resolved(301)
    assert count_parameters(config).exact == sum(parameter.numel() for parameter in Transformer(config).parameters())


@pytest.mark.parametrize("name", options("model"))
def test_the_exact_count_of_every_preset_that_can_be_trained_is_that_of_the_real_model(name: str) -> None:
    config = preset(name, 0 if preset(name).vocab_size else 256)
    if config.trainable:
        assert count_parameters(config).exact == built(config)


def built(config: ModelConfig) -> int:
    """Parameters of the real model, without memory, of which two blocks at most are built: the others are like the last."""
    few = [replace(config, num_hidden_layers=layers) for layers in (1, 2)]
    one, two = (sum(parameter.numel() for parameter in Transformer(shape, seed=None).parameters()) for shape in few)
    return one + (config.num_hidden_layers - 1) * (two - one)


@pytest.mark.parametrize("length", [128, 384])
@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_what_the_real_model_keeps(name: str, length: int) -> None:
    config = SHAPES[name].resolved(301)
    model = Transformer(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    ids, documents = torch.zeros(2, length, dtype=torch.int64), torch.arange(length).expand(2, -1) // 100
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.log_probs(model(ids, document_ids=documents).flatten(0, 1), ids.flatten()).sum()
    masks = sum(mask.nbytes for span in spans_of(documents, torch.float32).masks for mask in span)
    measured = sum(storage.nbytes() for storage in kept.values()) - masks
    assert activation_bytes(config, 2 * length, "fp32") == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("name", ["qwen3_moe", "glm4_moe"])
def test_in_16_bits_a_router_keeps_what_is_planned_besides(name: str) -> None:
    config, copies = SHAPES[name].resolved(301), []
    router = MixtureOfExperts(config, None).gate.to(torch.bfloat16)
    x = torch.zeros(50, config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda kept: copies.append(kept.nbytes) if kept.dtype == torch.float32 and kept.shape == x.shape else None, lambda kept: kept
    ):
        router(x)
    logits = 50 * 301 * 4  # in fp32 either way
    besides = activation_bytes(config, 50, "bf16") - logits - (activation_bytes(config, 50, "fp32") - logits) / 2
    layers = sum(config.sparse(layer) for layer in range(config.num_hidden_layers))
    assert besides == layers * sum(copies)


@given(st.integers(0, 3), st.integers(1, 64), st.booleans(), st.sampled_from(("none", "optimizer", "parameters")), st.integers(1, 200))
def test_the_largest_micro_batch_fits_and_one_row_more_does_not(
    zero: int, world: int, recompute: bool, offload: Offload, gigabytes: int
) -> None:
    config = preset_124m
    how = {"precision": "bf16", "zero": zero, "world": world, "recompute": recompute, "offload": offload}
    rows = largest_micro_batch(gigabytes * 1e9, config, 1024, **how)
    if rows:
        assert memory_per_device(config, tokens=rows * 1024, **how).total <= gigabytes * 1e9
    assert memory_per_device(config, tokens=(rows + 1) * 1024, **how).total > gigabytes * 1e9


preset_124m = ModelConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12).resolved(50257)


def test_every_zero_stage_and_offloading_spare_the_device() -> None:
    def total(zero: int, offload: Offload = "none") -> int:
        config = preset("7b", 32768)
        return memory_per_device(config, tokens=4096, precision="bf16", zero=zero, world=64, offload=offload).total

    assert total(0) > total(1) > total(2) > total(3)
    assert all(total(zero, "optimizer") < total(zero) for zero in (1, 2, 3))
    assert total(0, "optimizer") == total(0)
    weights = 2 * count_parameters(preset("7b", 32768)).exact
    assert total(3, "optimizer") - total(3, "parameters") == weights // 64  # those of a rank alone
    assert total(2, "optimizer") == total(2, "parameters")  # only stage 3 shards them


def test_recomputing_keeps_less_and_computes_a_third_more() -> None:
    config = preset("7b", 32768)
    assert activation_bytes(config, 4096, "bf16", recompute=True) < activation_bytes(config, 4096, "bf16") / 5
    work = work_per_token(config, 4096)
    assert work.recomputation == pytest.approx(work.total / 3, rel=0.03)
    assert work.forward + work.backward == work.total and work.backward == pytest.approx(2 * work.forward)


def test_a_measured_throughput_takes_the_place_of_assumptions() -> None:
    training = Training(preset("demo", 2048), 1_000_000, 100, 256, "fp32", 8, 2, 1, "cpu", tokens_per_second=5000.0)
    found = estimate(training, Assumptions())
    assert found.cost.time_s == pytest.approx(200)
    assert found.plain()["measured"] is True
    assert estimate(replace(training, tokens_per_second=None), Assumptions()).cost.time_s != found.cost.time_s


def test_twenty_tokens_a_parameter_have_a_ratio_of_one() -> None:
    parameters = count_parameters(preset_124m)
    assert chinchilla_ratio(parameters, 20 * parameters.active) == 1.0


def test_money_energy_and_carbon_follow_from_the_hours() -> None:
    found = cost(3600e12, 10, 1e12, Assumptions(price_per_hour=3.0, watts=500.0, pue=1.5, co2_g_per_kwh=400.0))
    assert (found.time_s, found.device_hours, found.money) == (360.0, 1.0, 3.0)
    assert (found.energy_kwh, found.co2_kg) == (0.75, 0.3)


def test_a_conversion_of_seven_billion_parameters_fits_a_terabyte() -> None:
    parameters = count_parameters(preset("7b", 32_768))
    found = conversion_bytes(parameters, 64, "bf16")
    assert found == {"disk_bytes": 28 * parameters.exact, "memory_bytes": 12 * parameters.exact // 64 + 2 * parameters.exact}
