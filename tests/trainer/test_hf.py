"""Published model directories: transformers computes the same logits from them, and their bytes are stable."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pipeline.stage import UserError
from trainer.model import hf
from trainer.model.attention import cosine_factor, stretched
from trainer.model.config import CLASSES, ModelConfig, RopeScaling, from_huggingface, to_huggingface
from trainer.model.hf import complete_model, load_model, model_card, save_weights
from trainer.model.transformer import Transformer, on
from trainer.planning import count_parameters

TINY = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64).resolved(
    97
)
LLAMA3 = RopeScaling(rope_type="llama3", factor=8.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
LLAMA = replace(TINY, architecture="llama", tie_word_embeddings=False)
QWEN3_MOE = replace(TINY, architecture="qwen3_moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24)
GLM4_MOE = replace(
    TINY, architecture="glm4_moe", num_hidden_layers=3, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, n_shared_experts=2,
    first_k_dense_replace=1, routed_scaling_factor=1.5, n_group=4, topk_group=2, partial_rotary_factor=0.5, tie_word_embeddings=False,
)  # fmt: skip
SHAPES = {
    "qwen3, tied": TINY,
    "qwen3, untied, wide heads": replace(TINY, tie_word_embeddings=False, head_dim=16, rope_theta=1e6),
    "qwen3, yarn": replace(TINY, rope_scaling=YARN),
    "qwen3, one key head, yarn by hand": replace(
        TINY, num_key_value_heads=1, rope_scaling=replace(YARN, attention_factor=1.25, beta_fast=8.0, beta_slow=2.0)
    ),
    "llama": LLAMA,
    "llama 3.1": replace(LLAMA, rope_scaling=LLAMA3, rope_theta=500.0),
    "llama, linear, tied": replace(LLAMA, rope_scaling=RopeScaling(rope_type="linear", factor=2.0), tie_word_embeddings=True),
    "qwen3_moe": QWEN3_MOE,
    "qwen3_moe, weights as they are": replace(QWEN3_MOE, norm_topk_prob=False, tie_word_embeddings=False),
    "glm4_moe": GLM4_MOE,
    "glm4_moe, biases, normalised queries": replace(GLM4_MOE, attention_bias=True, use_qk_norm=True, n_group=1, topk_group=1),
}
IDS = torch.randint(0, 97, (3, 64), generator=torch.Generator().manual_seed(0))


def save(model: Transformer, directory: Path, tokenizer: Path, dtype: str = "float32") -> list[str]:
    card = model_card("tiny", model.config, {"pages.warc.gz": "0" * 64})
    directory.mkdir(exist_ok=True)
    save_weights(model.state_dict(), model.config, directory)
    return complete_model(directory, model.config, dtype=dtype, tokenizer=tokenizer, end_ids=(0, 2), pad_id=0, card=card)


def shaken(model: Transformer) -> Transformer:
    """Norms that differ from 1, biases from 0."""
    generator = torch.Generator().manual_seed(1)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model


def assert_same(ours: Transformer, theirs: Any) -> None:
    """The logits of whole rows, and of documents that share a row."""
    lengths = torch.tensor([20, 1, 30, 13])
    documents = torch.repeat_interleave(torch.arange(4), lengths).expand(3, -1)
    positions = torch.cat([torch.arange(length) for length in lengths]).expand(3, -1)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(IDS)), theirs(IDS).logits, atol=1e-5, rtol=1e-5)
        packed = theirs(IDS, position_ids=positions, use_cache=False).logits
        torch.testing.assert_close(ours.logits(ours(IDS, document_ids=documents)), packed, atol=1e-5, rtol=1e-5)
        assert (packed - theirs(IDS).logits).abs().max() > 1e-2


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_transformers_computes_the_same_logits_and_saves_what_we_read(config: ModelConfig, tmp_path: Path) -> None:
    model = shaken(Transformer(config, seed=3))
    save(model, tmp_path / "ours", tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(theirs).__name__ == CLASSES[config.architecture]
    assert_same(model, theirs)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    again, read = load_model(tmp_path / "theirs")
    assert read == config
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("config", [TINY, GLM4_MOE], ids=lambda config: config.architecture)
@pytest.mark.parametrize("changes", [{}, {"beta_fast": 8.0, "beta_slow": 2.0}, {"attention_factor": 1.25, "factor": 16.0}], ids=str)
def test_yarn_blends_the_planes_between_kept_and_divided_as_transformers_does(config: ModelConfig, changes: dict[str, float]) -> None:
    scaling = replace(YARN, original_max_position_embeddings=1024, **changes)  # type: ignore[arg-type]
    wide = replace(config, head_dim=128, max_position_embeddings=4096, rope_scaling=scaling)
    theirs = AutoConfig.for_model(**to_huggingface(wide, dtype="float32", bos=None, eos=0, pad=0))
    expected, factor = ROPE_INIT_FUNCTIONS["yarn"](theirs)
    plain = wide.rope_theta ** -(torch.arange(0, wide.rotary_dim, 2) / wide.rotary_dim)
    divided = (1 - expected / plain) / (1 - 1 / scaling.factor)
    assert ((divided > 0.01) & (divided < 0.99)).sum() > 2  # so many planes are neither kept nor divided in full
    torch.testing.assert_close(stretched(plain, wide), expected, atol=0, rtol=1e-6)
    assert cosine_factor(scaling) == pytest.approx(factor)


@pytest.mark.parametrize("config", [LLAMA, QWEN3_MOE, GLM4_MOE], ids=lambda config: config.architecture)
def test_a_model_made_by_transformers_comes_back_to_it_unchanged(config: ModelConfig, tmp_path: Path) -> None:
    save(Transformer(config, seed=3), tmp_path / "shape", tmp_path)
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "shape"))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, read = load_model(tmp_path / "theirs")
    assert read == config
    assert_same(ours, theirs)
    save(ours, tmp_path / "back", tmp_path)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert (
        theirs.state_dict().keys()
        == back.state_dict().keys()
        == {*ours.state_dict()} - {name for name in ours.state_dict() if "tokens_per_expert" in name}
    )
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in theirs.state_dict().items())


def test_what_stands_beside_the_rotary_type_counts_before_what_stands_alone() -> None:
    values = to_huggingface(QWEN3_MOE, dtype="float32", bos=None, eos=0, pad=0)
    values |= {"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_scaling": None}
    assert from_huggingface(values, "config.json").rope_theta == 1e6  # as transformers reads it


def test_an_output_layer_of_its_own_beside_a_config_that_ties_it_is_refused(tmp_path: Path) -> None:
    config = replace(TINY, tie_word_embeddings=True)
    model = Transformer(config, seed=3)
    save(model, tmp_path, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    load_model(tmp_path)  # said twice, and the same
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"its lm_head\.weight is not its model\.embed_tokens\.weight; set tie_word_embeddings to false in its config"
    ):
        load_model(tmp_path)


def test_an_expert_has_matrices_of_its_own_in_a_checkpoint(tmp_path: Path) -> None:
    model = Transformer(GLM4_MOE, seed=3)
    save(model, tmp_path, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    names = {name for name in tensors if name.startswith("model.layers.1.mlp.") and ".experts." not in name}
    shared = {f"shared_experts.{kind}_proj.weight" for kind in ("gate", "up", "down")}
    assert {name.removeprefix("model.layers.1.mlp.") for name in names} == {"gate.weight", "gate.e_score_correction_bias", *shared}
    stack = model.state_dict()["model.layers.1.mlp.experts.gate_up_proj"]
    assert torch.equal(tensors["model.layers.1.mlp.experts.5.gate_proj.weight"], stack[5, :24])
    assert torch.equal(tensors["model.layers.1.mlp.experts.5.up_proj.weight"], stack[5, 24:])
    assert tensors["model.layers.1.mlp.experts.7.down_proj.weight"].shape == (32, 24)


@pytest.mark.parametrize("config", [TINY, GLM4_MOE], ids=lambda config: config.architecture)
def test_a_bf16_checkpoint_is_read_as_it_is(config: ModelConfig, tmp_path: Path) -> None:
    model = shaken(Transformer(config, seed=3)).to(torch.bfloat16)
    save(model, tmp_path, tmp_path, "bfloat16")
    for dtype in (torch.float32, torch.bfloat16):
        again = load_model(tmp_path, on("cpu", dtype))[0]
        assert again.model.norm.weight.dtype == dtype
        assert all(torch.equal(tensor.float(), again.state_dict()[name].float()) for name, tensor in model.state_dict().items())
        kept = [tensor.dtype for name, tensor in again.state_dict().items() if "e_score" in name]
        assert kept == [torch.float32] * (2 if config.num_experts else 0)  # where small steps of the bias are not lost


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_a_saved_model_loads_bit_for_bit_and_saves_to_the_same_bytes(config: ModelConfig, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    model = Transformer(config, seed=5)
    names = save(model, tmp_path / "a", tmp_path)
    assert "tokenizer.json" in names
    again, read = load_model(tmp_path / "a")
    assert read == config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert save(again, tmp_path / "b", tmp_path) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("config", [TINY, GLM4_MOE], ids=lambda config: config.architecture)
def test_a_large_model_is_written_in_shards_that_transformers_reads_too(
    config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "SHARD_BYTES", 20_000)
    model = shaken(Transformer(config, seed=5))
    names = [name for name in save(model, tmp_path, tmp_path) if name.startswith("model")]
    shards = [name for name in names if name.endswith(".safetensors")]
    assert names == [
        *(f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)),
        "model.safetensors.index.json",
    ]
    assert sorted(path.name for path in tmp_path.glob("model*")) == names and len(shards) > 2
    tensors = [load_file(tmp_path / name) for name in shards]
    index = json.loads((tmp_path / names[-1]).read_text())
    assert index["weight_map"] == {name: shard for shard, held in zip(shards, tensors, strict=True) for name in held}
    sizes = [[tensor.nbytes for tensor in held.values()] for held in tensors]
    assert index["metadata"] == {"total_size": sum(map(sum, sizes))} and all(sum(held) <= 20_000 for held in sizes)
    assert_same(model, AutoModelForCausalLM.from_pretrained(tmp_path))
    again = load_model(tmp_path)[0].state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_be_loaded_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="gpt2"):
        load_model(tmp_path)
    save(Transformer(TINY), tmp_path / "model", tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(tmp_path / "model")
    save(Transformer(TINY), tmp_path / "model", tmp_path)
    config = (tmp_path / "model" / "config.json").read_text()
    (tmp_path / "model" / "config.json").write_text(config.replace('"vocab_size": 97', '"vocab_size": 98'))
    with pytest.raises(UserError, match="do not fit") as caught:
        load_model(tmp_path / "model")
    assert "\n" not in str(caught.value)
    save(Transformer(TINY), tmp_path / "model", tmp_path)
    (tmp_path / "model" / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match="no readable index"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "rope_type is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": 1.0}}, "mscale is not supported"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "its rope_type is yarn without a factor; set it"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_scaling": {"rope_type": "yarn", "factor": 4}},
            "its rope_parameters and its rope_scaling are not the same; keep one of them",
        ),
        ({"use_sliding_window": True}, "use_sliding_window is not supported"),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
        ({"num_experts_per_tok": 7}, "cannot be sent to 7 of 6 experts"),
        ({"num_experts_per_tok": None}, "has no num_experts_per_tok"),
        ({"model_type": "mixtral"}, "only qwen3, llama, qwen3_moe, glm4_moe models"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    values = to_huggingface(QWEN3_MOE, dtype="float32", bos=None, eos=0, pad=0) | changes
    values = {name: value for name, value in values.items() if value is not None or name not in changes}
    with pytest.raises(UserError, match=said) as caught:
        from_huggingface(values, "config.json")
    assert "\n" not in str(caught.value)


# what the config.json of a public model says of its shape, and how many parameters its publisher's files hold
QWEN3_WORDS = {"attention_bias": False, "use_sliding_window": False, "sliding_window": None, "rope_scaling": None, "rope_theta": 1000000}
PUBLIC: dict[str, tuple[dict[str, Any], int]] = {
    "Llama 3.1 8B": (
        {
            "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1,
            "rope_scaling": {
                "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
        },
        8_030_261_248,
    ),
    "Qwen3 0.6B": (
        {
            **QWEN3_WORDS, "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
            "num_hidden_layers": 28, "max_window_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        },
        596_049_920,
    ),
    "Qwen3 30B-A3B": (
        {
            **QWEN3_WORDS, "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144,
            "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
            "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
            "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        },
        30_532_122_624,
    ),
    "GLM 4.5 Air": (
        {
            "model_type": "glm4_moe", "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
            "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128, "n_routed_experts": 128, "n_shared_experts": 1,
            "num_experts_per_tok": 8, "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "norm_topk_prob": True,
            "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "num_nextn_predict_layers": 1, "partial_rotary_factor": 0.5,
            "attention_bias": True, "use_qk_norm": False, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
            "rope_scaling": None, "rope_theta": 1000000, "tie_word_embeddings": False,
        },
        106_852_245_504,  # without the layer that predicts a second token
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_public_models_have_the_shape_and_the_parameters_they_are_known_for(name: str) -> None:
    values, parameters = PUBLIC[name]
    assert count_parameters(from_huggingface(values, "config.json")).exact == parameters
