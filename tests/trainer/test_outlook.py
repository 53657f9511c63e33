"""What `crawl2chat plan` says of trainings, through the recipes and the command."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.__main__ import parse
from pipeline.commands import plan
from pipeline.config import Config, load
from pipeline.errors import PlanOnly, UserError
from pipeline.identity import identity_of_params
from pipeline.reference import composed
from pipeline.runner import run
from pipeline.stage import Prospect, Upstream
from trainer.engine import TrainRun
from trainer.model.config import ModelConfig, to_huggingface
from trainer.outlook import plan_pretraining
from trainer.planning import Assumptions, count_parameters
from trainer.stages import PretrainParams

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pretraining.md"


def configured(command: str, root: Path) -> Config:
    """The configuration that a command line gives."""
    overrides = [part for part in parse(shlex.split(command)[1:]).hydra if "=" in part]
    recipe = next((part.removeprefix("recipe=") for part in overrides if part.startswith("recipe=")), "demo")
    others = [part for part in overrides if not part.startswith("recipe=")]
    return load(*composed(recipe, *others, f"++root={root}"), {part.lstrip("+").partition("=")[0] for part in overrides})


def rows(command: str, root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    plan(configured(command, root))
    return {row["stage"]: row for row in json.loads(capsys.readouterr().out)}


GPT3 = {  # as they are usually given
    "embedding": 617_558_016,
    "unembedding": 617_558_016,
    "attention": 57_982_058_496,
    "mlp": 115_964_116_992,
    "total": 175_181_291_520,
    "active": 175_181_291_520,
}


def test_every_stage_that_trains_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows("crawl2chat plan model=gpt3-175b format=json", tmp_path, capsys)
    for name in ("pretrain", "sft"):
        assert {part: found[name]["parameters"][part] for part in GPT3} == GPT3
        assert set(found[name]["memory_bytes"]) == {"0", "1", "2", "3"}
        assert all(found[name][key] > 0 for key in ("flops", "time_s", "money", "energy_kwh", "co2_kg"))
        assert found[name]["assumptions"]["device"] == "CPU core"
    for name in ("dpo", "grpo"):
        assert found[name]["parameters"] == found["pretrain"]["parameters"] and found[name]["at_most"] is True
    assert "parameters" not in found["tokenize"]


def test_alignment_is_planned_for_the_longest_rows_there_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = "dpo.batch=3 dpo.max_steps=5 grpo.batch=4 grpo.samples=6 grpo.max_steps=7 model.max_position_embeddings=256"
    found = rows(f"crawl2chat plan {settings} format=json", tmp_path, capsys)
    dpo, grpo = found["dpo"], found["grpo"]
    assert (dpo["tokens"], grpo["tokens"]) == (5 * 3 * 2 * 256, 7 * 4 * 6 * 256)
    for stage in (dpo, grpo):
        assert stage["forward_flops"] == pytest.approx((stage["flops"] + stage["attention_flops"]) / 3)
    assert dpo["memory_bytes"]["1"] > 0 and "memory_bytes" not in grpo and "largest_micro_batch" not in grpo
    held = rows(f"crawl2chat plan {settings} grpo.kl_weight=0.1 format=json", tmp_path, capsys)["grpo"]
    assert held["forward_flops"] == 2 * grpo["forward_flops"] and held["time_s"] == pytest.approx(grpo["time_s"] * 5 / 4)
    one = rows(f"crawl2chat plan {settings} dpo.run.micro_batch=1 format=json", tmp_path, capsys)["dpo"]["memory_parts"]["1"]
    assert one["activations"] > 0 and dpo["memory_parts"]["1"]["activations"] > 3 * one["activations"]


def test_a_shape_is_handed_on_to_what_is_trained_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows("crawl2chat plan recipe=upcycled upcycle.model.num_experts=4 format=json", tmp_path, capsys)
    dense, sparse = (found[name]["parameters"] for name in ("pretrain", "experts"))
    assert found["dense"]["parameters"] == dense and found["upcycle"]["parameters"] == sparse
    assert (sparse["mlp"], sparse["router"]) == (4 * dense["mlp"], 4 * 128 * 4)
    assert found["experts"]["flops"] > found["dense"]["flops"]
    command = "crawl2chat plan recipe=upcycled target=experts model.architecture=llama"
    plan(configured(command, tmp_path))
    refused = "upcycle.model: qwen3_moe normalises queries and keys, llama does not; set architecture=glm4_moe"
    assert refused in capsys.readouterr().out
    with pytest.raises(PlanOnly, match=re.escape(refused)):
        run(configured(command, tmp_path), [])
    assert not list((tmp_path / "store").glob("*/*/spec.json"))


def test_the_command_gives_gpt3s_published_flops_time_and_money(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "crawl2chat plan target=pretrain model=gpt3-175b format=json pretrain.precision=bf16 zero=3 pretrain.run.workers=256"
    command += " pretrain.run.gpus_per_worker=1 pretrain.run.micro_batch=1"
    command += " pretrain.sequence_length=2048 pretrain.batch_tokens=3840000 pretrain.max_steps=78125"
    command += f" planning.bf16_tflops={5.2e18 / 86400 / 1e12} planning.attention=none planning.price_per_hour=2"
    at_peak = rows(f"{command} planning.mfu=1", tmp_path, capsys)["pretrain"]
    assert at_peak["tokens"] == 300_000_000_000
    assert at_peak["flops"] == pytest.approx(3.14e23, rel=1e-3)
    assert round(at_peak["time_s"] / 86400) == 236
    assert rows(f"{command} planning.mfu=0.7", tmp_path, capsys)["pretrain"]["money"] == pytest.approx(4.14e6, rel=1e-3)


def test_what_can_only_be_planned_is_refused_before_a_run_begins(tmp_path: Path) -> None:
    with pytest.raises(PlanOnly, match=r"pretrain.model.architecture=mixtral: can be planned, not trained"):
        run(configured("crawl2chat model=mixtral-8x7b", tmp_path), [])
    assert not (tmp_path / "runs").exists()


def test_assumptions_are_judged_and_are_no_part_of_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cpu = rows("crawl2chat plan target=pretrain format=json", tmp_path, capsys)["pretrain"]
    gpu = rows("crawl2chat plan target=pretrain format=json planning=a100 planning.mfu=0.3", tmp_path, capsys)["pretrain"]
    assert cpu["fingerprint"] == gpu["fingerprint"] and cpu["time_s"] > gpu["time_s"]
    with pytest.raises(Exception, match=r"planning.mfu=2: expected `float` <= 1"):
        configured("crawl2chat plan planning.mfu=2", tmp_path)
    with pytest.raises(Exception, match=r"planning.mfuu: no such setting; did you mean mfu"):
        configured("crawl2chat plan planning.mfuu=1", tmp_path)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ("planning=h100", "the ranks have no GPU, and H100 SXM is assumed: set run.gpus_per_worker=1, or planning=cpu"),
        (
            "pretrain.run.gpus_per_worker=1",
            "the ranks have GPUs, and CPU core is assumed: set planning=h100 or a100, or run.gpus_per_worker=0",
        ),
        ("pretrain.precision=bf16", "bf16 is slower on most CPUs than fp32, several times: set precision=fp32"),
        ("planning=a100 pretrain.run.gpus_per_worker=1", None),
        ("planning=cpu", None),
    ],
)
def test_a_plan_for_another_kind_of_device_than_the_ranks_says_so(
    settings: str, line: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(configured(f"crawl2chat plan target=pretrain {settings}", tmp_path))
    said = [
        printed.strip() for printed in capsys.readouterr().out.splitlines() if " is assumed: " in printed or " on most CPUs " in printed
    ]
    assert said == ([line] if line else [])


PARAMS, RANKS = PretrainParams(model=ModelConfig(vocab_size=2048)), TrainRun()
ALIKE = ModelConfig(vocab_size=2048, num_attention_heads=6, num_key_value_heads=2, head_dim=32)  # as many parameters, other heads


def manifest(params: PretrainParams = PARAMS, ranks: TrainRun = RANKS, **metrics: float) -> Mapping[str, Any]:
    """What a finished training leaves, as far as plans read it."""
    found = {"parameters": count_parameters(PARAMS.model.resolved(2048)).exact, "tokens": 80_000, "tokens_per_second": 8000.0, **metrics}
    return {"params": identity_of_params(params), "run": asdict(ranks), "metrics": found, "elapsed_s": 25.0}


@pytest.mark.parametrize(
    ("built", "speed"),
    [
        ([manifest()], 8000.0),
        ([manifest(), manifest(tokens_per_second=9000.0)], 9000.0),
        ([manifest(replace(PARAMS, max_steps=7, lr=1e-4), TrainRun(checkpoint_every=3))], 8000.0),
        ([manifest(ranks=TrainRun(workers=4))], None),
        ([manifest(replace(PARAMS, sequence_length=128))], None),
        ([manifest(parameters=2_000_000)], None),
        ([manifest(replace(PARAMS, model=ALIKE))], None),
        ([manifest(ranks=TrainRun(deterministic=True))], None),
        ([], None),
    ],
)
def test_the_latest_training_of_the_same_kind_says_how_fast_it_is(built: list[Mapping[str, Any]], speed: float | None) -> None:
    outlook = plan_pretraining(Prospect(PARAMS, TrainRun(), Assumptions(), {"tokenizer": Upstream(None)}, manifests=built))
    assert outlook is not None
    assert outlook.figures["measured"] is (speed is not None)
    if speed is not None:
        assert outlook.figures["time_s"] == pytest.approx(PARAMS.max_steps * PARAMS.batch_tokens / speed)
        assert outlook.seconds == pytest.approx(outlook.figures["time_s"] + 25 - 80_000 / speed)


@pytest.mark.parametrize(("precision", "same"), [("fp32", True), ("bf16", False)])
def test_a_rank_alone_in_fp32_is_planned_at_the_stage_it_runs_at(precision: Literal["fp32", "bf16"], same: bool) -> None:
    params, alone = replace(PARAMS, precision=precision), TrainRun(workers=1, zero=3)
    built = manifest(params, alone)
    outlook = plan_pretraining(Prospect(params, replace(alone, zero=1), Assumptions(), {"tokenizer": Upstream(None)}, manifests=[built]))
    assert outlook is not None
    assert outlook.figures["measured"] is same
    assert any(f" a rank at ZeRO {0 if same else 1}, " in line for line in outlook.lines)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("model.vocab_size=512", r"pretrain\.model: vocab_size 512 is smaller than the tokenizer's 2048; set vocab_size=0"),
        (
            "tokenize.validation_fraction=0",
            r"pretrain\.needs\.corpus: its validation_fraction=0 leaves no document to measure a model on; raise it, or",
        ),
        (
            "tokenize.validation_fraction=0 pretrain.validation_tokens=0",
            r"^evaluate\.needs\.corpus: its validation_fraction=0 leaves no document to measure a model on; raise it$",
        ),
        ("recipe=upcycled dense.sequence_length=2048", r"^dense\.sequence_length=2048: the model reads 1024 tokens; lower it$"),
        ("sft.sequence_length=2048", r"^sft\.sequence_length=2048: the model reads 1024 tokens; lower it$"),
        ("cluster.cpus=1", r"^pretrain\.run\.workers=2: 2 ranks need 2 CPUs, the cluster has 1; set pretrain\.run\.workers=1"),
        ("score.run.cpus=1000", r"^score\.run\.cpus=1000: the largest node has"),
        (
            f"recipe=continued pretrain.model.depth=4 source.pages=[{__file__}] source.model=[{__file__}]",
            r"pretrain\.model: the model of pretrain\.needs\.model keeps its own shape",
        ),
        ("recipe=continued model.depth=4", r"^model\.depth: no stage of recipe=\w* takes its model from there; leave it out$"),
        ("recipe=continued model=7b", r"^model: no stage of recipe=\w* takes its model from there; leave it out$"),
        ("pretrain.precision=fp16", r"^pretrain\.precision=fp16: is for GPUs; set pretrain\.run\.gpus_per_worker=1"),
        ("sft.run.offload=parameters", r"^sft\.run\.offload=parameters: only ZeRO 3 shards them; set sft\.run\.zero=3"),
        ("dpo.precision=fp16", r"^dpo\.precision=fp16: is for GPUs; set dpo\.run\.gpus_per_worker=1"),
        ("grpo.run.zero=0 grpo.precision=bf16", r"^grpo\.run\.zero=0: it would add up gradients in bf16"),
        (
            "pretrain.batch_tokens=1000",
            r"^pretrain: batch_tokens 1000 is no multiple of sequence_length 256; change one of them$",
        ),
        ("recipe=tiny sft.batch=1", r"^sft\.batch=1: too few for 2 ranks; raise it to 2 or lower sft\.run\.workers$"),
        ("recipe=tiny dpo.batch=3 dpo.run.workers=4", r"^dpo\.batch=3: too few for 4 ranks; raise it to 4 or lower dpo\.run\.workers$"),
        ("recipe=tiny grpo.batch=1", r"^grpo\.batch=1: too few for 2 ranks; raise it to 2 or lower grpo\.run\.workers$"),
        ("dpo.run.keep_best=1", r"^dpo\.run\.keep_best=1: no validation of this stage tells which are the best; set it to 0$"),
        ("grpo.run.keep_best=2", r"^grpo\.run\.keep_best=2: no validation of this stage tells which are the best; set it to 0$"),
        *(
            (f"{name}.run.show_every=3", rf"^{name}\.run\.show_every=3: only pretraining shows what its model writes; set it to 0$")
            for name in ("sft", "dpo", "grpo")
        ),
        (
            "pretrain.validation_tokens=0 pretrain.run.show_every=3",
            r"^pretrain\.run\.show_every=3: no held-out document to go on from; raise pretrain\.validation_tokens, or set it to 0$",
        ),
        *(
            (
                f"recipe=tiny model.head_dim=8 {name}.run.gpus_per_worker=1",
                rf"^{name}\.run\.gpus_per_worker=1: on GPUs attention has no kernel for heads narrower than 16, the model's are 8 wide; "
                "set it to 0, or give a model that has wider ones$",
            )
            for name in ("pretrain", "sft")
        ),
        ("pretrain.model=null", r"pretrain\.model: null, and there is no pretrain\.needs\.model to take its shape from; set one of them"),
    ],
)
def test_what_the_settings_alone_forbid_is_refused_before_anything_starts(overrides: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        run(configured(f"crawl2chat {overrides}", tmp_path), [])
    assert not list((tmp_path / "store").glob("*/*/error.json"))


def test_somebodys_model_is_planned_with_and_its_context_known_before_any_page_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    config = ModelConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=512).resolved(300)
    command = f"recipe=continued source.model=[{theirs}/*] source.pages=[{__file__}] target=pretrain"
    (theirs / "tokenizer.model").touch()
    with pytest.raises(
        PlanOnly, match=r"^adopt\.sources: no config\.json is among them; give the files of a Hugging Face model directory$"
    ):
        run(configured(f"crawl2chat {command}", tmp_path), [])
    assert rows(f"crawl2chat plan {command} format=json", tmp_path, capsys)["adopt"]["refused"].startswith("adopt.sources: no config.json")
    (theirs / "config.json").write_text(json.dumps(to_huggingface(config, dtype="float32", bos=None, eos=1, pad=1)))
    found = rows(f"crawl2chat plan {command} pretrain.sequence_length=512 format=json", tmp_path, capsys)
    assert found["adopt"]["parameters"] == found["pretrain"]["parameters"] == count_parameters(config).plain()
    assert found["pretrain"]["flops"] > 0
    with pytest.raises(PlanOnly, match=r"^pretrain\.sequence_length=1024: the model reads 512 tokens; lower it$"):
        run(configured(f"crawl2chat {command}", tmp_path), [])
    assert not list((tmp_path / "store").glob("*/*/spec.json"))


def shown() -> list[tuple[str, list[str]]]:
    """The plans of the documentation: command, lines of output."""
    blocks = re.findall(r"^```text\n\$ (crawl2chat plan .*?)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [(command, [line for line in output.splitlines() if line != "..."]) for command, output in blocks]


@pytest.mark.parametrize(("command", "lines"), shown(), ids=lambda value: value[:60] if isinstance(value, str) else "")
def test_the_plans_of_the_documentation_are_what_the_command_prints(
    command: str, lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(configured(command, tmp_path))
    printed = capsys.readouterr().out.splitlines()
    assert lines and [line for line in lines if line not in printed] == []
