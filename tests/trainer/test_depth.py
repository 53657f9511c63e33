"""The dial: what follows from a depth, what the command line keeps, and what becomes the identity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import load
from pipeline.errors import UserError
from pipeline.identity import identity_of_params
from pipeline.reference import composed
from trainer.depth import best_batch, best_lr, from_depth, of_layers
from trainer.model.config import ModelConfig
from trainer.stages import PretrainParams


def test_without_a_depth_all_stays_as_given() -> None:
    params = PretrainParams()
    assert from_depth(params, set()) == (params, ())


@given(st.integers(1, 120), st.sampled_from([64, 256, 1024, 4096]))
def test_every_depth_gives_a_training_that_can_be_run(depth: int, length: int) -> None:
    model = ModelConfig(depth=depth, max_position_embeddings=4096)
    params = PretrainParams(model=model, sequence_length=length, batch_tokens=length)
    found, lines = from_depth(params, set())
    assert found.model.num_hidden_layers == depth and found.model.hidden_size == 64 * depth
    assert found.model.resolved(256).head_dim in (64, 128)
    parameters, _ = of_layers(found.model, length)
    assert found.max_steps * found.batch_tokens == pytest.approx(20 * parameters, abs=found.batch_tokens)
    assert {line.split(" = ")[0] for line in lines} == {
        "model.num_hidden_layers", "model.hidden_size", "model.num_attention_heads", "model.num_key_value_heads", "model.head_dim",
        "model.intermediate_size", "batch_tokens", "max_steps", "lr",
    }  # fmt: skip


def test_deepseek_s_own_choice_is_met() -> None:
    """7 billion parameters on 2 trillion tokens: they took 9.4 million tokens a step and 4.2e-4 (arXiv:2401.02954, table 2)."""
    model = ModelConfig(hidden_size=4096, num_hidden_layers=30, num_attention_heads=32, intermediate_size=11008)
    compute = 2e12 * of_layers(model, 4096)[1]
    assert best_batch(compute) == pytest.approx(9.4e6, rel=0.1)
    assert best_lr(compute) == pytest.approx(4.2e-4, rel=0.05)


def pretraining(*overrides: str) -> PretrainParams:
    said = {override.lstrip("+").partition("=")[0] for override in overrides}
    found: PretrainParams = load(*composed("demo", *(f"++{override}" for override in overrides)), said).nodes["pretrain"].params
    return found


def test_a_part_of_the_model_is_set_where_the_stage_takes_it_from() -> None:
    assert pretraining("model.rope_theta=2e4").model.hidden_size == 128
    with pytest.raises(UserError, match=r"pretrain\.model\.rope_theta: it would take the place of all .*; set model\.rope_theta"):
        pretraining("pretrain.model.rope_theta=2e4")
    with pytest.raises(UserError, match=r"pretrain\.model\.rope_scaling: .*; set model\.rope_scaling"):
        pretraining("pretrain.model.rope_scaling.rope_type=linear")
    assert pretraining("pretrain.model={hidden_size: 64, num_attention_heads: 2}").model.hidden_size == 64


def test_what_the_command_line_sets_wins_and_the_rest_follows_from_it() -> None:
    free, held = pretraining("model.depth=4"), pretraining("model.depth=4", "pretrain.batch_tokens=4096", "model.hidden_size=128")
    assert (free.model.hidden_size, held.model.hidden_size, held.batch_tokens) == (256, 128, 4096)
    assert held.max_steps * 4096 == pytest.approx(20 * of_layers(held.model, 256)[0], abs=4096)


def test_the_identity_is_that_of_the_derived_values() -> None:
    found = pretraining("model.depth=2")
    by_hand = pretraining(
        "model.num_hidden_layers=2", "model.hidden_size=128", "model.num_attention_heads=2", f"pretrain.lr={found.lr}",
        f"pretrain.batch_tokens={found.batch_tokens}", f"pretrain.max_steps={found.max_steps}",
    )  # fmt: skip
    assert identity_of_params(found) == identity_of_params(by_hand)
    assert "depth" not in identity_of_params(found)["model"]


def test_values_that_do_not_go_together_are_one_line() -> None:
    with pytest.raises(UserError, match=r"^pretrain: hidden_size 256 is no multiple of num_attention_heads 3"):
        pretraining("model.depth=4", "model.num_attention_heads=3")


def test_what_presets_say_does_not_stand_in_the_way() -> None:
    """Neither 3 heads nor rows of 384 tokens go together with the sizes of the recipe, which give way."""
    found = pretraining("model.depth=3", "model.num_attention_heads=3", "pretrain.sequence_length=384")
    assert (found.model.hidden_size, found.model.num_attention_heads, found.batch_tokens % 384) == (192, 3, 0)
