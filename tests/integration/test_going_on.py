"""What exists is gone on from: a training that is given more steps, and somebody's model, which any stage can begin with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from tests.drive import ROOT, Toy
from tests.trainer.assistants import CONFIG, save_assistant

TRAININGS = ("pretrain", "sft", "dpo", "grpo")
ALONE = [f"{stage}.run.workers=0" for stage in TRAININGS]
SHORT = {"max_new_tokens": 8, "sequence_length": 64, "max_prompts": 8}
STILL = 1e-9  # a learning rate of next to nothing moves next to nothing


class Plain(Toy):
    """A recipe of the project, over what the arguments name."""

    def command(self, *arguments: str) -> list[str]:
        of_the_toy = ("hydra.searchpath", f"source.pages=[{self.folder}")
        return [part for part in super().command(*arguments) if not part.startswith(of_the_toy)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, ray_head: str) -> Plain:
    """A root in which the demo is pretrained for 10 steps."""
    toy = Plain(tmp_path_factory.mktemp("tiny"), ray_head, recipe="tiny")
    toy.run("target=pretrain", *ALONE)
    return toy


def overrides(settings: dict[str, Any]) -> list[str]:
    """As the command line takes them."""
    return [f"{stage}={json.dumps(values)}".replace('"', "") for stage, values in settings.items()]


def steps_told(toy: Toy) -> list[int]:
    """The steps of pretraining that the run's last command told of."""
    events = [json.loads(line) for line in (toy.root / "runs" / toy.recipe / "events.jsonl").read_text().splitlines()]
    return [event["done"] for event in events if event["event"] == "progress" and event["stage"] == "pretrain"]


def weights(toy: Toy, *arguments: str) -> str:
    [digest] = [file["sha256"] for file in toy.manifest("pretrain", *arguments)["files"] if file["name"] == "model.safetensors"]
    return str(digest)


def test_more_steps_go_on_from_the_checkpoint_before_the_decay_at_the_speed_that_was_measured(
    tiny: Plain, tmp_path: Path, ray_head: str
) -> None:
    speed = tiny.manifest("pretrain", *ALONE)["metrics"]["tokens_per_second"]
    longer = [*ALONE, "pretrain.max_steps=16"]
    planned = tiny.rows("plan", *longer)["pretrain"]
    assert planned["measured"] is True and planned["tokens_per_second"] == pytest.approx(speed)
    told = len(steps_told(tiny))
    tiny.run("target=pretrain", *longer)
    assert min(steps_told(tiny)[told:]) > 4  # a checkpoint is written every 4 steps; the decay began at the 7th
    whole = Plain(tmp_path, ray_head, recipe="tiny")
    whole.run("target=pretrain", *longer)
    assert min(steps_told(whole)) == 1
    assert weights(tiny, *longer) == weights(whole, *longer) != weights(tiny, *ALONE)


def test_any_stage_begins_with_somebodys_model(tiny: Plain, tmp_path: Path, ray_head: str) -> None:
    theirs = tmp_path / "theirs"
    save_assistant(theirs, 3, replace(CONFIG, max_position_embeddings=256), control=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    made = tiny.root / "runs" / "tiny" / "stages" / "demo"
    continued = Plain(tmp_path / "continued", ray_head, recipe="continued")
    sources = {
        "model": f"{theirs}/*",
        "pages": f"{made}/pages/*.warc.gz",
        "conversations": f"{made}/conversations/*.jsonl",
        "preferences": f"{made}/preferences/*.jsonl",
        "prompts": f"{made}/prompts/train.jsonl",
        "test_prompts": f"{made}/prompts/test.jsonl",
    }
    still = {"lr": STILL, "max_steps": 2, "warmup_steps": 0, "precision": "fp32", "run": {"workers": 0, "gpus_per_worker": 0}}
    begun = {**still, "needs": {"model": "adopt"}}
    settings = {
        "tokenize": {"validation_fraction": 0.1},
        "pretrain": {**still, "sequence_length": 64, "batch_tokens": 512, "validate_every": 2},
        "sft": {**begun, "sequence_length": 256, "batch": 8},
        "dpo": {**begun, "batch": 8},
        "grpo": {**begun, "batch": 4, "samples": 4, "max_new_tokens": 8},
        "evaluate": {**SHORT, "run": {"gpus": 0}},
    }
    arguments = [*(f"source.{name}=[{pattern}]" for name, pattern in sources.items()), *overrides(settings)]
    arguments += ["planning=cpu", "+evaluate.needs.adopt=adopt"]
    continued.run("target=evaluate", *arguments)
    began = load_file(theirs / "model.safetensors")
    for stage in TRAININGS:
        ended = load_file(continued.root / "runs" / "continued" / "stages" / stage / "model.safetensors")
        assert ended.keys() == began.keys()
        assert all((ended[name] - tensor).abs().max() < 1e-6 for name, tensor in began.items()), stage
    found = json.loads((continued.root / "runs" / "continued" / "stages" / "evaluate" / "evaluation.json").read_text())
    assert found.keys() == {"adopt", *TRAININGS}
    assert continued.manifest("adopt", *arguments)["metrics"]["chat_format"] == "chatml"
    assert all(model["bits_per_byte"] == pytest.approx(found["adopt"]["bits_per_byte"], abs=1e-5) for model in found.values())


@pytest.mark.proof
def test_the_upcycled_recipe_ends_with_a_table_of_four_models(tiny: Plain, ray_head: str) -> None:
    upcycled = Plain(tiny.folder, ray_head, recipe="upcycled")
    smallest = yaml.safe_load((ROOT / "conf" / "recipe" / "tiny.yaml").read_text())
    sizes = {stage: smallest[stage] for stage in ("demo", "tokenizer", "tokenize", "pretrain")}
    sizes |= {stage: {"sequence_length": 64, "batch_tokens": 512, "max_steps": 4, "run": {"workers": 0}} for stage in ("experts", "dense")}
    sizes["evaluate"] = SHORT
    arguments = ["model=tiny", *ALONE[:1], *overrides(sizes)]
    before = {stage for stage, state in upcycled.states(*arguments).items() if state == "DONE"}
    assert before == {"demo", "ingest", "score", "select", "dedup", "near_dedup", "scrub", "tokenizer", "tokenize", "pretrain"}
    upcycled.run(*arguments)
    found = json.loads((upcycled.root / "runs" / "upcycled" / "stages" / "evaluate" / "evaluation.json").read_text())
    assert found.keys() == {"pretrain", "upcycle", "experts", "dense"}
    assert found["upcycle"]["bits_per_byte"] == pytest.approx(found["pretrain"]["bits_per_byte"], abs=1e-5)
    assert len({model["bits_per_byte"] for model in found.values()}) >= 3  # the others were trained on
    shape = json.loads((upcycled.root / "runs" / "upcycled" / "stages" / "experts" / "config.json").read_text())
    assert shape["num_experts"] > 1
