"""A ladder: read from trainings, fitted, checked on what was held out, and refused in one line where it says nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load
from pipeline.reference import composed
from pipeline.stage import Artifact, UserError
from tests.data_prep.contexts import context
from tests.trainer.assistants import save_assistant
from tests.trainer.worlds import write_shard
from trainer.engine import TrainRun
from trainer.ladder import Rung, climb, read_rungs, words
from trainer.model.config import ModelConfig, to_huggingface
from trainer.scaling import Law, Run
from trainer.stages import LadderParams, PretrainParams, Size, check_ladder, ladder, pretrain

LAW = Law(0.4, 60.0, 0.4, 900.0, 0.5)
WIDTHS = {"small": 32, "medium": 64, "large": 128}
TOKENS = (200_000, 600_000, 1_800_000)
ROOT = Path(__file__).resolve().parents[2]


def model(width: int) -> ModelConfig:
    return ModelConfig(hidden_size=width, num_hidden_layers=2, num_attention_heads=2, vocab_size=512).resolved(0)


def multiplied(width: int) -> int:
    """Two layers of four width × width and three width × 8/3 width matrices, and the output layer."""
    config = model(width)
    return 2 * (4 * width**2 + 3 * width * config.intermediate_size) + 512 * width


def training(directory: Path, name: str, width: int, tokens: int, loss: float | None = None, **manifest: Any) -> Artifact:
    """What a pretraining leaves, as far as a ladder reads it; its loss is the law's."""
    (directory / name).mkdir(parents=True)
    (directory / name / "config.json").write_text(json.dumps(to_huggingface(model(width), dtype="float32", bos=None, eos=1, pad=0)))
    said = LAW.loss(multiplied(width), tokens) if loss is None else loss
    whole = {
        "metrics": {"tokens": float(tokens), "last_validation_loss": said},
        "params": {"sequence_length": 64, "validation_tokens": 512, "seed": 0},
        "inputs": {"corpus": {"digest": "c"}, "tokenizer": {"digest": "t"}},
    }
    return Artifact("pretrain", name, name, str(directory / name), (), {**whole, **manifest})


def trainings(directory: Path) -> dict[str, Artifact]:
    found = {
        f"{name}_{number}": training(directory, f"{name}_{number}", width, tokens)
        for name, width in WIDTHS.items()
        for number, tokens in enumerate(TOKENS, 1)
    }
    return {**found, "held_out": training(directory, "held_out", 256, TOKENS[-1])}


def climbed(directory: Path, params: LadderParams, inputs: Mapping[str, Artifact]) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """What the stage returns, the JSON it publishes, and where."""
    ctx = context(ladder, directory, (), **inputs)
    metrics = dict(ladder(ctx, params))
    assert [file.name for file in ctx.published] == ["ladder.json", "ladder.svg", "summary.txt"]
    return metrics, json.loads(Path(ctx.path("ladder.json")).read_text()), Path(ctx.directory)


def test_the_law_behind_trainings_is_found_and_foretells_the_one_held_out(tmp_path: Path) -> None:
    params = LadderParams(held_out=("held_out",), predict=(Size(1e8, 2e9),))
    metrics, found, directory = climbed(tmp_path / "stage", params, trainings(tmp_path))
    assert {name: one["value"] for name, one in found["law"].items()} == pytest.approx(
        {"E": LAW.E, "A": LAW.A, "a": LAW.a, "B": LAW.B, "b": LAW.b}, rel=1e-2
    )
    held_out = found["predictions"]["held_out"]
    assert (held_out["parameters"], held_out["tokens"]) == (multiplied(256), TOKENS[-1])
    assert held_out["measured"] == pytest.approx(LAW.loss(multiplied(256), TOKENS[-1]), rel=1e-5)
    assert abs(held_out["error"]) < 1e-3 and metrics["held_out_error"] == held_out["error"]
    assert found["predictions"]["100 million on 2 billion"]["predicted"]["value"] == pytest.approx(LAW.loss(1e8, 2e9), rel=1e-2)
    assert [name for name, rung in found["rungs"].items() if rung["held_out"]] == ["held_out"]
    drawing = ElementTree.parse(directory / "ladder.svg")
    assert len(drawing.findall(".//{*}circle")) == 10 and len(drawing.findall(".//{*}polyline")) == 5
    words = (directory / "summary.txt").read_text()
    assert "100 million on 2 billion: 0." in words and f"measured {held_out['measured']:.4f}" in words


def test_a_held_out_training_does_not_move_the_law(tmp_path: Path) -> None:
    """One that came out badly is seen as such."""
    inputs = trainings(tmp_path)
    spoilt = {**inputs, "held_out": training(tmp_path / "spoilt", "held_out", 256, TOKENS[-1], loss=3.0)}
    sound, other = (climb(read_rungs(found, ["held_out"]), []) for found in (inputs, spoilt))
    assert other.fit == sound.fit
    [prediction] = other.predictions
    assert not prediction.inside and prediction.error == pytest.approx(LAW.loss(multiplied(256), TOKENS[-1]) / 3 - 1, rel=1e-2)


def test_the_same_trainings_give_the_same_bytes(tmp_path: Path) -> None:
    inputs = trainings(tmp_path)
    first, second = (
        climbed(tmp_path / name, LadderParams(held_out=("held_out",)), found)[2]
        for name, found in (("first", inputs), ("second", dict(reversed(inputs.items()))))
    )
    for name in ("ladder.json", "ladder.svg", "summary.txt"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_law_without_a_floor_is_said_to_have_none() -> None:
    """Losses that still fall as a pure power law leave nothing for E."""
    law = Law(0.0, 60.0, 0.4, 900.0, 0.5)
    rungs = [Rung(f"{size}_{tokens}", Run(size, tokens, law.loss(size, tokens))) for size in (1e5, 2e5, 4e5) for tokens in (1e5, 3e5, 9e5)]
    said = words(climb(rungs, []))
    assert "loss = 0.0000 + " in said and "E is 0: these rungs do not tell" in said
    rungs = [replace(rung, run=replace(rung.run, loss=rung.run.loss + 0.5)) for rung in rungs]
    said = words(climb(rungs, []))
    assert "loss = 0.50" in said and "E is 0" not in said


@pytest.mark.parametrize(
    ("spoil", "trouble"),
    [
        (lambda found: replace(found, stage="sft"), r"needs\.large_2: is made by sft; .* by pretrain"),
        (lambda found: altered(found, "metrics", {"tokens": 1.0}), r"validated on nothing; set large_2\.validation_tokens above 0"),
        (lambda found: altered(found, "inputs", {"corpus": {"digest": "d"}}), r"needs\.large_2: its corpus is not that of small_1"),
        (lambda found: altered(found, "params", {"seed": 1}), r"large_2\.seed=1: small_1 has 0; give all rungs the same"),
    ],
)
def test_trainings_that_cannot_be_compared_are_refused(tmp_path: Path, spoil: Callable[[Artifact], Artifact], trouble: str) -> None:
    inputs = trainings(tmp_path)
    inputs["large_2"] = spoil(inputs["large_2"])
    with pytest.raises(UserError, match=trouble) as raised:
        read_rungs(inputs)
    assert "\n" not in str(raised.value)


def altered(found: Artifact, key: str, values: Mapping[str, Any]) -> Artifact:
    kept = {} if key == "metrics" else found.manifest[key]
    return replace(found, manifest={**found.manifest, key: {**kept, **values}})


def test_rungs_that_cannot_tell_the_law_are_refused() -> None:
    rungs = [Rung(f"rung_{number}", Run(1e5, 1e5 * 2**number, 3 - number / 10)) for number in range(6)]
    with pytest.raises(
        UserError, match=r"^needs: 6 runs of 1 sizes and 6 numbers of tokens cannot tell five numbers and their errors; run at least"
    ):
        climb(rungs, [])


def test_what_could_never_be_fitted_is_refused_before_the_rungs_are_trained() -> None:
    roles = ("one", "two", "three", "four", "five", "six")
    with pytest.raises(UserError, match=r"^ladder\.needs: 5 trainings are too few to fit, 6 the least; name more"):
        check_ladder("ladder", LadderParams(held_out=("six",)), None, (), roles)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^ladder\.held_out=seven: there is no such role in ladder\.needs, which has one, two"):
        check_ladder("ladder", LadderParams(held_out=("seven",)), None, (), roles)  # type: ignore[arg-type]
    check_ladder("ladder", LadderParams(), None, (), roles)  # type: ignore[arg-type]


def test_a_rung_is_read_from_a_real_training(tmp_path: Path) -> None:
    save_assistant(tmp_path / "assistant")
    files = [replace(file, records=40) for split in ("train", "validation") for file in write_shard(tmp_path, "pages", split, 40)]
    corpus = Artifact("tokenize", "c", "c", str(tmp_path), tuple(files), {"lineage": {}, "inputs": {}})
    tokenizer = Artifact("tokenizer", "t", "t", str(tmp_path / "assistant"), (), {"lineage": {}})
    ctx = context(pretrain, tmp_path / "stage", corpus=corpus, tokenizer=tokenizer)
    ctx.run = TrainRun(workers=0)
    shape = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64)
    params = PretrainParams(model=shape, sequence_length=32, batch_tokens=128, max_steps=3, warmup_steps=1, validation_tokens=64)
    metrics = pretrain(ctx, params)
    manifest = {"metrics": metrics, "params": vars(params), "inputs": {"corpus": {"digest": "c"}}}
    [rung] = read_rungs({"only": Artifact("pretrain", "p", "p", ctx.directory, (), manifest)})
    vocabulary = json.loads(Path(ctx.path("config.json")).read_text())["vocab_size"]
    assert rung.run.parameters == 4 * 16**2 + 3 * 16 * shape.resolved(vocabulary).intermediate_size + vocabulary * 16
    assert (rung.run.tokens, rung.run.loss) == (3 * 128, metrics["history"][-1]["validation"]["loss"])


def test_the_recipe_s_rungs_differ_in_size_steps_and_learning_rate_alone() -> None:
    nodes = load(*composed("ladder", "small_1.lr=2e-3", "small_2.max_steps=222")).nodes
    rungs = {name: nodes[name].params for name in nodes["ladder"].needs}
    alike = [replace(params, model=ModelConfig(), max_steps=1, lr=1.0) for params in rungs.values()]
    assert all(params == alike[0] for params in alike)
    assert alike[0].schedule == "wsd" and len(rungs) == 13
    for size, rate in (("small", 2e-3), ("medium", 0.08 / 40**0.5), ("large", 0.08 / 64**0.5)):
        assert [rungs[f"{size}_{length}"].lr for length in range(1, 5)] == [pytest.approx(rate, rel=5e-3)] * 4
    assert rungs["held_out"].lr == pytest.approx(0.08 / 96**0.5, rel=5e-3)
    assert all(nodes[name].run == nodes["small_1"].run and nodes[name].needs == nodes["small_1"].needs for name in rungs)
    assert [rungs[f"{size}_2"].max_steps for size in WIDTHS] == [222] * 3
    assert len({params.model for params in rungs.values()}) == 4
    assert rungs["held_out"].model not in {rungs[f"{size}_1"].model for size in WIDTHS}


@pytest.mark.proof
def test_the_demo_s_ladder_foretells_the_larger_model(tmp_path: Path) -> None:
    """From the command line, all of it; a second run has nothing to do."""
    command = [sys.executable, "-m", "pipeline", "recipe=ladder", f"root={tmp_path}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600, check=True)
    found = json.loads((tmp_path / "runs" / "ladder" / "stages" / "ladder" / "ladder.json").read_text())
    fitted = {name: rung for name, rung in found["rungs"].items() if not rung["held_out"]}
    for size in WIDTHS:  # more tokens help at every size, and more parameters at the most tokens
        losses = [fitted[f"{size}_{length}"]["loss"] for length in range(1, 5)]
        assert losses == sorted(losses, reverse=True)
    assert fitted["small_4"]["loss"] > fitted["medium_4"]["loss"] > fitted["large_4"]["loss"]
    held_out = found["predictions"]["held_out"]
    assert held_out["parameters"] > max(rung["parameters"] for rung in fitted.values())
    assert abs(held_out["error"]) < 0.1
    assert f"measured {held_out['measured']:.4f}" in said.stdout + said.stderr
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert "started" not in again.stdout + again.stderr
