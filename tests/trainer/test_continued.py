"""Somebody's model as the start: adopted as it is, given experts, trained on, refused where the data do not fit it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from data_prep.tokenizer import Tokenizer, export, train
from pipeline.stage import Artifact, File, MapRun, Metrics, Prospect, Upstream, UserError
from tests.data_prep.contexts import context, published
from tests.trainer.worlds import VOCABULARY, alone, write_shard
from trainer.data.chat import ChatFormat
from trainer.engine import TrainRun
from trainer.model.config import ModelConfig
from trainer.model.hf import complete_model, load_config, load_model, save_weights
from trainer.model.transformer import Transformer
from trainer.model.upcycling import Sparse
from trainer.outlook import plan_upcycling
from trainer.stages import AdoptParams, PretrainParams, SftParams, UpcycleParams, adopt, pretrain, sft, upcycle

SHAPE = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return written(tmp_path, SHAPE)


def written(tmp_path: Path, shape: ModelConfig) -> Path:
    """A Hugging Face directory, tokenizer and all."""
    tokenizer, directory = tmp_path / "tokenizer", tmp_path / "theirs"
    for folder in (tokenizer, directory):
        folder.mkdir()
    model = train(["ab cd ef"] * 9, vocab_size=288)
    (tokenizer / "tokenizer.model").write_bytes(model)
    for name, content in export(model).items():
        (tokenizer / name).write_bytes(content)
    config = shape.resolved(288)
    save_weights(Transformer(config, seed=5).state_dict(), config, directory)
    complete_model(directory, config, dtype="float32", tokenizer=tokenizer, end_ids=(1,), pad_id=1, card="theirs")
    return directory


def adopted(tmp_path: Path, theirs: Path) -> Artifact:
    ctx = context(adopt, tmp_path / "adopt", [File.of(path.name, path) for path in sorted(theirs.iterdir())])
    assert adopt(ctx, AdoptParams())["vocab_size"] == 288
    return replace(published(ctx), manifest={"lineage": {}})


def upcycled(tmp_path: Path, dense: Artifact, sparse: Sparse) -> Artifact:
    ctx = context(upcycle, tmp_path / "upcycle", model=dense)
    metrics = upcycle(ctx, UpcycleParams(sparse))
    assert metrics["parameters"] > metrics["active_parameters"]
    return replace(published(ctx), manifest={"lineage": {}})


def continued(
    tmp_path: Path, model: Artifact, lr: float = 1e-9, tokenizer: Artifact | None = None, **changes: int
) -> tuple[Artifact, Metrics]:
    files = (*write_shard(tmp_path / "corpus", "part", "train", 60), *write_shard(tmp_path / "corpus", "part", "validation", 9, seed=1))
    corpus = Artifact("tokenize", "c", "c", str(tmp_path), tuple(replace(file, records=1) for file in files), {"lineage": {}})
    ctx = context(pretrain, tmp_path / "pretrain", model=model, tokenizer=tokenizer or model, corpus=corpus)
    ctx.run = TrainRun(workers=0, zero=1)
    values = {"sequence_length": 16, "batch_tokens": 64, "max_steps": 3, "validate_every": 3, "warmup_steps": 1, **changes}
    metrics = alone(lambda: pretrain(ctx, PretrainParams(lr=lr, weight_decay=0.0, model=None, **values)))  # type: ignore[arg-type]
    return published(ctx), metrics


def test_training_goes_on_from_their_weights_in_their_shape(tmp_path: Path, theirs: Path) -> None:
    model = adopted(tmp_path, theirs)
    assert {file.name for file in model.files} == {path.name for path in theirs.iterdir()}
    own, _ = continued(tmp_path, model)
    before, after = load_file(theirs / "model.safetensors"), load_file(Path(own.directory) / "model.safetensors")
    assert before.keys() == after.keys() and VOCABULARY < 288
    for name, tensor in before.items():
        assert (after[name] - tensor).abs().max() < 1e-6, name  # a learning rate of next to nothing moves next to nothing
    assert any((after[name] != tensor).any() for name, tensor in before.items())


@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, architecture="llama", tie_word_embeddings=False)], ids=["qwen3", "llama"])
def test_fine_tuning_begins_with_an_adopted_model(tmp_path: Path, shape: ModelConfig) -> None:
    theirs = written(tmp_path, shape)
    turns = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    files = [File.of(f"{name}.jsonl", tmp_path / f"{name}.jsonl", 1) for name in ("train", "validation")]
    ctx = context(sft, tmp_path / "sft", files, model=adopted(tmp_path, theirs))
    ctx.run = TrainRun(workers=0, zero=1)
    metrics = alone(lambda: sft(ctx, SftParams(lr=1e-9, sequence_length=32, batch=2, max_steps=2, validate_every=1, warmup_steps=1)))
    before, after = load_model(theirs), load_model(ctx.directory)
    assert after[1] == before[1] == shape.resolved(288)
    for name, tensor in before[0].state_dict().items():
        assert (after[0].state_dict()[name] - tensor).abs().max() < 1e-6, name
    chat = ChatFormat(Tokenizer.load(theirs)).render(turns).segment()
    logits = before[0].logits(before[0](torch.tensor(chat.inputs)[None]))[0]
    expected = cross_entropy(logits, torch.tensor(chat.targets), ignore_index=-1)
    assert metrics["first_validation_loss"] == pytest.approx(expected.item(), abs=1e-4)


def test_rows_longer_than_it_reads_are_refused(tmp_path: Path, theirs: Path) -> None:
    with pytest.raises(UserError, match=r"pretrain\.sequence_length=64: the model reads 32 tokens; lower it"):
        continued(tmp_path, adopted(tmp_path, theirs), sequence_length=64)


def test_a_tokenizer_of_more_tokens_than_it_knows_is_refused(tmp_path: Path, theirs: Path) -> None:
    (tmp_path / "larger").mkdir()
    (tmp_path / "larger" / "tokenizer.model").write_bytes(train(["ab cd ef gh"] * 9, vocab_size=289))
    larger = Artifact("tokenizer", "t", "t", str(tmp_path / "larger"), (), {})
    with pytest.raises(UserError, match=r"^pretrain\.needs\.model: knows 288 tokens, needs\.tokenizer has 289; give it the model's own$"):
        continued(tmp_path, adopted(tmp_path, theirs), tokenizer=larger)


@pytest.mark.parametrize("sparse", [Sparse(num_experts=4), Sparse("glm4_moe", num_experts=4, first_k_dense_replace=0)], ids=str)
def test_a_model_with_experts_begins_as_theirs_and_trains_on(tmp_path: Path, theirs: Path, sparse: Sparse) -> None:
    import transformers

    model = adopted(tmp_path, theirs)
    given = upcycled(tmp_path, model, sparse)
    assert {path.name for path in theirs.iterdir()} == {file.name for file in given.files}
    ids = torch.arange(60).reshape(4, 15) * 4 % VOCABULARY
    before, after = (load_model(artifact.directory)[0] for artifact in (model, given))
    expected = before.logits(before(ids))
    torch.testing.assert_close(after.logits(after(ids)), expected, atol=1e-5, rtol=0)
    others = transformers.AutoModelForCausalLM.from_pretrained(given.directory)
    torch.testing.assert_close(others(ids).logits, expected, atol=1e-5, rtol=0)
    _, still = continued(tmp_path / "still", model, max_steps=1)
    own, metrics = continued(tmp_path / "own", given, lr=1e-2, max_steps=9)
    assert metrics["history"][-1]["validation"]["loss"] < still["history"][-1]["validation"]["loss"]
    experts = [tensor for name, tensor in load_file(Path(own.directory) / "model.safetensors").items() if ".experts." in name]
    assert len(experts) == 4 * 3 and not torch.equal(experts[0], experts[3])  # copies at first, they part
    upstream = Upstream(AdoptParams(), load_config(model.directory))
    outlook = plan_upcycling(Prospect(UpcycleParams(sparse), MapRun(), None, {"model": upstream}))
    assert outlook is not None and outlook.hands == load_config(own.directory)


def test_experts_that_cannot_be_theirs_are_refused(tmp_path: Path, theirs: Path) -> None:
    given = upcycled(tmp_path, adopted(tmp_path, theirs), Sparse())
    with pytest.raises(UserError, match=r"^upcycle\.model: the model has experts already \(it is qwen3_moe\); give a dense one$"):
        upcycled(tmp_path / "again", given, Sparse())
    with pytest.raises(ValueError, match=r"^qwen3_moe normalises queries and keys, llama does not; set architecture=glm4_moe"):
        Sparse().shape(replace(SHAPE, architecture="llama").resolved(288))
    with pytest.raises(ValueError, match="a token cannot be sent to 9 of 8 experts"):
        Sparse(num_experts_per_tok=9)


def test_weights_that_are_not_what_the_config_says_are_refused_when_they_are_adopted(tmp_path: Path, theirs: Path) -> None:
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    with pytest.raises(UserError, match=r"its tensors do not fit its config\.json: model\.layers\.0\.mlp\.down_proj\.weight is \[16, 48\]"):
        adopted(tmp_path, theirs)
    (theirs / "config.json").write_text(json.dumps(config))
    content = (theirs / "model.safetensors").read_bytes()
    (theirs / "model.safetensors").write_bytes(content[:-8])
    with pytest.raises(UserError, match=r"model\.safetensors: no readable safetensors file .*; the model must be fetched again"):
        adopted(tmp_path / "cut", theirs)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"vocab_size": 0}, r"adopt\.sources: config\.json: its vocab_size is 0"),
        ({"num_hidden_layers": 10**30}, r"adopt\.sources: config\.json: Expected `int` <= 10000"),
        ({"model_type": ["qwen3"]}, r"adopt\.sources: config\.json: model_type is \['qwen3'\]; only"),
        ({"vocab_size": None}, r"adopt\.sources: config\.json: Expected `int`, got `null`"),
        ({"hidden_size": "16"}, r"adopt\.sources: config\.json: "),
        ({"rope_parameters": [1]}, r"adopt\.sources: config\.json: its rotary parameters are \[1\]"),
        ({"rms_norm_eps": "1e-6"}, r"adopt\.sources: config\.json: Expected `float`, got `str`"),
    ],
)
def test_a_config_of_other_types_is_one_line(tmp_path: Path, theirs: Path, change: dict[str, object], line: str) -> None:
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=line):
        adopted(tmp_path, theirs)


def test_quantised_weights_a_larger_tokenizer_and_files_of_one_name_are_refused(tmp_path: Path, theirs: Path) -> None:
    weights = load_file(theirs / "model.safetensors")
    kept = (theirs / "model.safetensors").read_bytes()
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(weights | {name: weights[name].to(torch.int8)}, theirs / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name} holds I8, not one of F64, F32, BF16, F16"):
        adopted(tmp_path / "quantised", theirs)
    (theirs / "model.safetensors").write_bytes(kept)
    (theirs / "more").mkdir()
    (theirs / "more" / "config.json").write_text("{}")
    files = [File.of(path.name, path) for path in sorted(theirs.rglob("*.*")) if path.is_file()]
    with pytest.raises(UserError, match=r"adopt\.sources: 2 files are named config\.json; give the files of one folder"):
        adopt(context(adopt, tmp_path / "twice", files), AdoptParams())
    shutil.rmtree(theirs / "more")
    small = SHAPE.resolved(200)
    save_weights(Transformer(small, seed=5).state_dict(), small, theirs)
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps(config | {"vocab_size": 200}))
    with pytest.raises(UserError, match=r"adopt\.sources: the tokenizer has 288 tokens, the model 200; give files of one model"):
        adopted(tmp_path / "small", theirs)


def test_a_model_that_begins_with_no_numbers_is_what_is_blamed(tmp_path: Path, theirs: Path) -> None:
    state, config = load_model(theirs)[0].state_dict(), SHAPE.resolved(288)
    save_weights({**state, "model.norm.weight": state["model.norm.weight"] * float("nan")}, config, theirs)
    with pytest.raises(UserError, match=r"step 1: loss is nan, before anything was learned: the weights that it begins with are damaged"):
        continued(tmp_path, adopted(tmp_path, theirs))


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, theirs: Path, content: str | None) -> None:
    (theirs / "config.json").unlink()
    if content is not None:
        (theirs / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: no readable config\.json"):
        adopted(tmp_path, theirs)
