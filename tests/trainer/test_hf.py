"""Published model directories: transformers computes the same logits from them, and their bytes are stable."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.stage import UserError
from trainer.model.config import ModelConfig
from trainer.model.hf import complete_model, load_model, model_card, save_weights
from trainer.model.transformer import Transformer

TINY = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64).resolved(
    97
)
SHAPES = {
    "tied, grouped": TINY,
    "untied, wide heads": replace(TINY, tie_word_embeddings=False, head_dim=16, rope_theta=1e6),
}


def save(model: Transformer, directory: Path, tokenizer: Path) -> list[str]:
    card = model_card("tiny", model.config, {"pages.warc.gz": "0" * 64})
    directory.mkdir(exist_ok=True)
    save_weights(model.state_dict(), model.config, directory / "model.safetensors")
    return complete_model(directory, model.config, dtype="float32", tokenizer=tokenizer, end_ids=(0, 2), pad_id=0, card=card)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_transformers_computes_the_same_logits(config: ModelConfig, tmp_path: Path) -> None:
    model = Transformer(config, seed=3)
    for parameter in model.parameters():  # norms that differ from 1 too
        parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    save(model, tmp_path / "model", tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    ids = torch.randint(0, 97, (3, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(ids)), theirs(ids).logits, atol=1e-4, rtol=0)


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
