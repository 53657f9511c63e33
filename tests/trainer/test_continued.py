"""Somebody's model as the start: adopted as it is, trained on, refused where the data do not fit it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from data_prep.tokenizer import export, train
from pipeline.stage import Artifact, File, UserError
from tests.data_prep.contexts import context, published
from tests.trainer.worlds import VOCABULARY, alone, write_shard
from trainer.engine import TrainRun
from trainer.model.config import ModelConfig
from trainer.model.hf import complete_model, save_weights
from trainer.model.transformer import Transformer
from trainer.stages import AdoptParams, PretrainParams, adopt, pretrain

SHAPE = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A Hugging Face directory, tokenizer and all."""
    tokenizer, directory = tmp_path / "tokenizer", tmp_path / "theirs"
    for folder in (tokenizer, directory):
        folder.mkdir()
    model = train(["ab cd ef"] * 9, vocab_size=288)
    (tokenizer / "tokenizer.model").write_bytes(model)
    for name, content in export(model).items():
        (tokenizer / name).write_bytes(content)
    config = SHAPE.resolved(288)
    save_weights(Transformer(config, seed=5).state_dict(), config, directory)
    complete_model(directory, config, dtype="float32", tokenizer=tokenizer, end_ids=(1,), pad_id=1, card="theirs")
    return directory


def adopted(tmp_path: Path, theirs: Path) -> Artifact:
    ctx = context(adopt, tmp_path / "adopt", [File.of(path.name, path) for path in sorted(theirs.iterdir())])
    assert adopt(ctx, AdoptParams())["vocab_size"] == 288
    return replace(published(ctx), manifest={"lineage": {}})


def continued(tmp_path: Path, model: Artifact, **changes: int) -> Artifact:
    files = (*write_shard(tmp_path / "corpus", "part", "train", 60), *write_shard(tmp_path / "corpus", "part", "validation", 9, seed=1))
    corpus = Artifact("tokenize", "c", "c", str(tmp_path), tuple(replace(file, records=1) for file in files), {"lineage": {}})
    ctx = context(pretrain, tmp_path / "pretrain", model=model, tokenizer=model, corpus=corpus)
    ctx.run = TrainRun(workers=0, zero=1)
    values = {"sequence_length": 16, "batch_tokens": 64, "max_steps": 3, "validate_every": 3, "warmup_steps": 1, **changes}
    alone(lambda: pretrain(ctx, PretrainParams(lr=1e-9, weight_decay=0.0, **values)))  # type: ignore[arg-type]
    return published(ctx)


def test_training_goes_on_from_their_weights_in_their_shape(tmp_path: Path, theirs: Path) -> None:
    model = adopted(tmp_path, theirs)
    assert {file.name for file in model.files} == {path.name for path in theirs.iterdir()}
    own = continued(tmp_path, model)
    before, after = load_file(theirs / "model.safetensors"), load_file(Path(own.directory) / "model.safetensors")
    assert before.keys() == after.keys() and VOCABULARY < 288
    for name, tensor in before.items():
        assert (after[name] - tensor).abs().max() < 1e-6, name  # a learning rate of next to nothing moves next to nothing
    assert any((after[name] != tensor).any() for name, tensor in before.items())


def test_rows_longer_than_it_reads_are_refused(tmp_path: Path, theirs: Path) -> None:
    with pytest.raises(UserError, match=r"pretrain\.sequence_length=64: the model reads 32 tokens; lower it"):
        continued(tmp_path, adopted(tmp_path, theirs), sequence_length=64)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, theirs: Path) -> None:
    (theirs / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: no readable config\.json"):
        adopted(tmp_path, theirs)
