"""Learning rates, the DeepSpeed configuration, and what is refused before anything starts."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.utils import z3_leaf_module
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

import trainer.engine
from pipeline.stage import UserError
from tests.data_prep.contexts import context
from tests.trainer.worlds import TINY, VOCABULARY, alone, pretraining, tiny, training
from trainer.engine import Engine, Optimization, TrainRun, deepspeed_config, flattened, preflight
from trainer.launch import NewModel, launch, lost
from trainer.loop import Plan, Scored
from trainer.model.transformer import Transformer
from trainer.stages import pretrain
from trainer.stages.pretraining import PretrainParams, check_pretraining
from trainer.stages.tuning import GrpoParams, check_reinforcement
from trainer.tasks.task import Place

SCHEDULES = ("constant", "cosine", "wsd", "1-sqrt")


@given(st.sampled_from(SCHEDULES), st.integers(0, 30), st.integers(1, 100), st.floats(0.05, 1.0))
def test_learning_rates_rise_then_fall_and_never_leave_their_bounds(schedule: str, warmup: int, total: int, decay: float) -> None:
    settings = Optimization(lr=0.5, schedule=schedule, warmup_steps=warmup, decay=decay, final_lr=0.1)  # type: ignore[arg-type]
    rates = [settings.lr_at(step, total) for step in range(total)]
    assert all(0 < rate <= 0.5 + 1e-12 for rate in rates)
    risen = rates[:warmup]
    assert risen == sorted(risen)
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    if total > warmup and schedule != "constant":
        assert rates[-1] == pytest.approx(0.05)


@given(st.sampled_from(SCHEDULES), st.integers(0, 20), st.integers(1, 60), st.integers(0, 60))
def test_the_stable_steps_do_not_change_when_a_training_grows(schedule: str, warmup: int, total: int, more: int) -> None:
    settings = Optimization(schedule=schedule, warmup_steps=warmup)  # type: ignore[arg-type]
    stable = settings.stable_steps(total)
    assert [settings.lr_at(step, total) for step in range(stable)] == [settings.lr_at(step, total + more) for step in range(stable)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {7: 1.0, 9: 1.0, 11: 1.0, 15: 1.0}),
        ("cosine", {4: 0.1 + 0.45 * (1 + math.cos(math.pi / 12)), 7: 0.775, 9: 0.55, 11: 0.325, 15: 0.1}),
        ("wsd", {7: 1.0, 8: 0.8875, 9: 0.775, 11: 0.55, 15: 0.1}),
        ("1-sqrt", {7: 1.0, 8: 1 - 0.9 * math.sqrt(1 / 8), 9: 0.55, 11: 1 - 0.9 * math.sqrt(1 / 2), 15: 0.1}),
    ],
)
def test_learning_rates_are_those_of_the_formulas(schedule: Any, expected: dict[int, float]) -> None:
    settings = Optimization(lr=0.5, schedule=schedule, warmup_steps=4, decay=0.5, final_lr=0.1)
    shares = {0: 0.25, 1: 0.5, 3: 1.0, **expected}
    assert {step: settings.lr_at(step, 16) / 0.5 for step in shares} == pytest.approx(shares)


def test_clipping_and_accumulation_are_always_explicit() -> None:
    for zero in range(4):
        config = deepspeed_config(Optimization(clip=0.0), TrainRun(zero=zero))
        assert config["gradient_clipping"] == 0.0 and config["zero_optimization"]["stage"] == zero
        assert config["managed_gradient_accumulation"] is False and config["checkpoint"] == {"tag_validation": "Fail"}
        assert "bf16" not in config and "scheduler" not in config
    half = deepspeed_config(Optimization(precision="bf16"), TrainRun())
    assert half["bf16"] == {"enabled": True} and half["data_types"] == {"grad_accum_dtype": "fp32"}
    assert half["communication_data_type"] == "fp32"


GPU: dict[str, Any] = {"gpus_per_worker": 1}


@pytest.mark.parametrize(
    ("precision", "run", "words"),
    [
        ("bf16", {"zero": 0}, r"sft\.run\.zero=0: it would add up gradients in bf16.*; set it to 1, 2 or 3"),
        ("fp16", {"zero": 0, **GPU}, r"sft\.run\.zero=0: it would add up gradients in fp16.*; set it to 1, 2 or 3"),
        ("fp16", {"zero": 1}, r"sft\.precision=fp16: is for GPUs; set sft\.run\.gpus_per_worker=1, or sft\.precision=fp32"),
        ("fp32", {"workers": 0, **GPU}, r"sft\.run\.workers=0: .*set it to 1, or sft\.run\.gpus_per_worker=0"),
        ("fp32", {"zero": 0, "offload": "optimizer"}, r"sft\.run\.offload=optimizer: .*; set sft\.run\.zero to 1, 2 or 3"),
        ("fp32", {"zero": 2, "offload": "parameters"}, r"offload=parameters: .*set sft\.run\.zero=3, or sft\.run\.offload=optimizer"),
        ("fp32", {"zero": 3, "compile": True}, r"sft\.run\.compile=true: .*; set sft\.run\.zero=2"),
        ("fp32", {"threads": 4}, r"sft\.run\.threads=4: more than the 1 CPUs .*; set sft\.run\.cpus_per_worker=4, or sft\.run\.threads=1$"),
        ("fp32", {"threads": 3, "cpus_per_worker": 2.5}, r"threads=3: .*; set sft\.run\.cpus_per_worker=3, or sft\.run\.threads=2$"),
    ],
)  # fmt: skip
def test_what_deepspeed_would_refuse_late_is_refused_early_with_the_mend(precision: Any, run: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        preflight("sft", Optimization(precision=precision), TrainRun(**run))


@pytest.mark.parametrize(
    ("there", "mend"),
    [
        ({"CPU": 8.0, "GPU": 3.0}, r"run\.workers=4: 4 ranks need 4 GPUs, the cluster has 3; set sft\.run\.workers=3, or add nodes"),
        ({"CPU": 8.0}, r"run\.workers=4: 4 ranks need 4 GPUs, the cluster has 0; set sft\.run\.gpus_per_worker=0, or add nodes"),
        ({"CPU": 2.0, "GPU": 4.0}, r"run\.workers=4: 4 ranks need 4 CPUs, the cluster has 2; set sft\.run\.workers=2, or add nodes"),
        ({"CPU": 0.5, "GPU": 4.0}, r"the cluster has 0\.5; set sft\.run\.cpus_per_worker=0\.125, or add nodes"),
        ({"GPU": 4.0}, r"4 ranks need 4 CPUs, the cluster has 0; add nodes that have both$"),
    ],
)
def test_ranks_that_could_never_be_placed_are_refused_with_the_mend(there: dict[str, float], mend: str) -> None:
    TrainRun(workers=4, **GPU).require_room("sft", {"CPU": 4.0, "GPU": 4.0})
    TrainRun(workers=0).require_room("sft", {})
    with pytest.raises(UserError, match=mend):
        TrainRun(workers=4, **GPU).require_room("sft", there)


@pytest.mark.parametrize(
    ("run", "nodes", "words"),
    [
        ({"workers": 1, "cpus_per_worker": 4.0}, [(2, 0), (2, 0)],
         r"each rank needs 4 CPUs on one node, the cluster's 2 nodes have room for 0 ranks; set sft\.run\.cpus_per_worker=2, or add nodes"),
        ({"workers": 5, "cpus_per_worker": 4.0}, [(2, 0), (2, 0), (1, 0)], r"cpus_per_worker=0\.666"),
        ({"workers": 2, "cpus_per_worker": 2.0}, [(3, 0), (1, 0)], r"workers=2: .* room for 1 ranks; set sft\.run\.workers=1, or add"),
        ({"workers": 2, "cpus_per_worker": 2.0, **GPU}, [(1, 2), (8, 0)], r"needs 2 CPUs and 1 GPUs on.*\.cpus_per_worker=0\.5"),
        ({"workers": 3, **GPU}, [(8, 1), (8, 1)], r"3 ranks need 3 GPUs, the cluster has 2; set sft\.run\.workers=2"),
    ],
)  # fmt: skip
def test_a_rank_that_fits_on_no_single_node_is_refused_with_a_mend_that_serves(
    run: dict[str, Any], nodes: list[tuple[float, float]], words: str
) -> None:
    there = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    with pytest.raises(UserError, match=words) as refused:
        TrainRun(**run).require_room("sft", *there)
    key, value = str(refused.value).split("; set sft.run.")[1].split(",")[0].split("=")
    TrainRun(**run | {key: type(getattr(TrainRun(), key))(value)}).require_room("sft", *there)


def test_ranks_that_fit_are_counted_node_by_node_and_to_the_last_share() -> None:
    for run, nodes in (
        (TrainRun(workers=3, cpus_per_worker=2.0), [{"CPU": 5.0}, {"CPU": 2.0}, {}]),
        (TrainRun(workers=3, cpus_per_worker=0.1), [{"CPU": 0.3}]),
        (TrainRun(workers=2, **GPU), [{"CPU": 2.0, "GPU": math.inf}]),
    ):
        assert run.fitting(nodes) == run.workers
        run.require_room("sft", *nodes)


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:554] Connection closed by peer"), True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), True),
        (RuntimeError("NCCL error in: NCCLUtils.cpp:93, remote process exited or there was a network error, NCCL version 2.28.9"), True),
        (RuntimeError("NCCL error in: NCCLUtils.cpp:93, unhandled system error (run with NCCL_DEBUG=INFO for details)"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), False),
        (RuntimeError("CUDA error: invalid device ordinal"), False),
        (RuntimeError("CUDA error: invalid argument"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False),
        (RuntimeError("CUDA error: CUDA driver version is insufficient for CUDA runtime version"), False),
        (RuntimeError("NCCL error in: NCCLUtils.cpp:93, invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.28.9"), False),
        (RuntimeError("NCCL error in: NCCLUtils.cpp:93, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"), False),
        (ValueError("ProcessGroupNCCL is only supported with GPUs, no GPUs found!"), False),
        (RuntimeError("Distributed package doesn't have NCCL built in"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (ValueError("a mistake"), False),
    ],
)
def test_ranks_that_are_lost_are_told_from_mistakes(error: Exception, gone: bool) -> None:
    assert lost(error) == gone


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_every_stage_tells_the_norm_and_clips_alike(tmp_path: Path, zero: int, clip: float) -> None:
    settings = Optimization(lr=1e-2, warmup_steps=2, clip=clip)
    found = [
        alone(lambda: training(tmp_path, pretraining(tmp_path), TrainRun(zero=stage), name=str(stage), settings=settings))  # noqa: B023
        for stage in (zero, 0 if zero else 1)
    ]
    told = [json.loads(line) for line in (tmp_path / f"{zero}.jsonl").read_text().splitlines()]
    norms = [event["norm"] for event in told if event["event"] == "progress"]
    assert len(norms) == 6 and all(norm > 0.1 for norm in norms)
    assert all(torch.allclose(tensor, found[-1].weights[name], rtol=0, atol=1e-6) for name, tensor in found[0].weights.items())


def test_a_rank_alone_sends_and_copies_no_gradients(tmp_path: Path) -> None:
    model, run = tiny(), TrainRun(workers=1, zero=3).as_it_runs("fp32")
    engine = alone(lambda: Engine(model, Optimization(), run, 1))
    task = pretraining(tmp_path, validation_tokens=0)
    task.start(Place(0, 1, torch.device("cpu"), 6), model)
    [batch] = task.micro_batches(0, model)
    loss = Scored(model, task)(batch, task.counts(batch))[0]
    with profile(activities=[ProfilerActivity.CPU]) as found:
        engine.backward(loss)
        engine.step(0)
    called = {event.name for event in found.events()}
    assert "aten::mm" in called and not [name for name in called if name.startswith("c10d::") or "flatten_dense" in name]


@pytest.mark.parametrize(
    ("run", "precision", "runs"),
    [
        (TrainRun(workers=1, zero=3), "fp32", 0),
        (TrainRun(workers=0, zero=1), "fp32", 0),
        (TrainRun(workers=2, zero=3), "fp32", 3),
        (TrainRun(workers=1, zero=1), "bf16", 1),
        (TrainRun(workers=1, zero=3, offload="parameters"), "fp32", 3),
    ],
)
def test_a_rank_alone_runs_without_shards_where_that_is_the_same(run: TrainRun, precision: str, runs: int) -> None:
    assert run.as_it_runs(precision) == replace(run, zero=runs)


@pytest.mark.parametrize(("offload", "runs"), [("none", 0), ("optimizer", 2)])
def test_checkpoints_tell_the_stage_that_ran(tmp_path: Path, offload: Any, runs: int) -> None:
    ctx = context(pretrain, tmp_path / "stage")
    ctx.run = TrainRun(workers=0, zero=2, offload=offload)
    alone(lambda: launch(ctx, pretraining(tmp_path), Plan(2, 2), Optimization(), NewModel(TINY.resolved(VOCABULARY), 1)))
    assert [checkpoint.facts["zero"] for checkpoint in ctx.trajectory.complete()] == [runs]


@pytest.mark.parametrize(
    "kind", [{}, {"architecture": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}]
)
def test_at_zero_3_a_layer_is_gathered_as_a_whole_whichever_experts_run(kind: dict[str, Any]) -> None:
    model = Transformer(replace(TINY, **kind).resolved(VOCABULARY), seed=1)
    alone(lambda: Engine(model, Optimization(), TrainRun(zero=3), 1))
    assert len(model.model.layers) == 2 and all(map(z3_leaf_module, model.model.layers))


def test_tensors_side_by_side_are_one_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = torch.arange(12.0)
    parts = [buffer[2:5], buffer[5:9].view(2, 2), buffer[9:11]]
    joined = flattened(parts)
    assert torch.equal(joined, buffer[2:11]) and joined.data_ptr() == parts[0].data_ptr()
    for apart in (parts[:1] + parts[2:], parts[::-1], [buffer[:6].view(2, 3).T, buffer[6:]], [buffer[:4], buffer[4:].clone()]):
        joined = flattened(apart)
        assert torch.equal(joined, torch.cat([part.reshape(-1) for part in apart]))
        assert joined.untyped_storage().data_ptr() != buffer.untyped_storage().data_ptr()

    found: list[bool] = []

    def told(tensors: list[torch.Tensor]) -> torch.Tensor:
        found.append(flattened(tensors).untyped_storage().data_ptr() == tensors[0].untyped_storage().data_ptr())
        return flattened(tensors)

    monkeypatch.setattr(trainer.engine, "flattened", told)
    alone(lambda: training(tmp_path, pretraining(tmp_path), TrainRun(zero=3), steps=2))
    assert len(found) >= 4 and all(found)  # of matrices and of norms, step by step


FIRST = Optimization(lr=1.0, schedule="constant", warmup_steps=0, eps=1.0, weight_decay=0.0, clip=0.0)  # AdamW's step is g / (|g| + 1)


@pytest.mark.parametrize("zero", [0, 1])
def test_a_gradient_that_is_too_long_is_shortened_to_the_norm_that_was_set(tmp_path: Path, zero: int) -> None:
    model, task = tiny(), pretraining(tmp_path, validation_tokens=0)
    task.start(Place(0, 1, torch.device("cpu"), 6), model)
    [batch] = task.micro_batches(0, model)
    Scored(model, task)(batch, task.counts(batch))[0].backward()
    gradient = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    norm = math.sqrt(sum(float(tensor.square().sum()) for tensor in gradient.values()))
    weights = alone(lambda: training(tmp_path, task, TrainRun(zero=zero), settings=replace(FIRST, clip=norm / 3), steps=1)).weights
    for name, tensor in gradient.items():
        step = (tiny().state_dict()[name] - weights[name]).double()
        torch.testing.assert_close(step / (1 - step.abs()), tensor.double() / 3, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_weights_of_matrices_decay_and_those_of_norms_do_not(tmp_path: Path, zero: int) -> None:
    run, settings = TrainRun(zero=zero), replace(FIRST, lr=0.5)
    plain = alone(lambda: training(tmp_path, pretraining(tmp_path), run, name="plain", settings=settings, steps=1)).weights
    settings = replace(settings, weight_decay=0.2)
    decayed = alone(lambda: training(tmp_path, pretraining(tmp_path), run, name="decayed", settings=settings, steps=1)).weights
    for name, tensor in tiny().state_dict().items():
        lost = 0.5 * 0.2 * tensor if tensor.dim() > 1 else torch.zeros_like(tensor)
        assert torch.allclose(plain[name] - decayed[name], lost, rtol=0, atol=1e-6), name


def test_the_best_of_no_validations_are_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match=r"pretrain\.run\.keep_best=2: no validation tells the best; raise pretrain\.validation_tokens"):
        check_pretraining("pretrain", PretrainParams(validation_tokens=0), TrainRun(keep_best=2), (), ("corpus", "tokenizer"))


def test_draws_on_gpus_that_are_to_be_deterministic_are_refused() -> None:
    run = TrainRun(gpus_per_worker=1, deterministic=True)
    with pytest.raises(UserError, match=r"grpo\.run\.deterministic=true: GPUs add up .*; set it to false"):
        check_reinforcement("grpo", GrpoParams(), run, (), ())
    check_reinforcement("grpo", GrpoParams(), TrainRun(deterministic=True), (), ())


def test_what_is_sound_is_not_refused() -> None:
    threaded: list[dict[str, Any]] = [{"threads": 2, "cpus_per_worker": 2.0}, {"cpus_per_worker": 0.5}, {"workers": 0, "threads": 2}]
    runs = [("bf16", {"zero": 2}), ("fp16", {"zero": 1, **GPU}), ("fp32", {"zero": 3, "offload": "parameters"})]
    runs.append(("fp32", {"workers": 1, "zero": 3, "compile": True}))  # runs at ZeRO 0
    for precision, run in [*runs, *(("fp32", run) for run in threaded)]:
        preflight("sft", Optimization(precision=precision), TrainRun(**run))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="betas"):
        Optimization(betas=(0.9, 1.0))


OFFLOADED = [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "parameters")]


@pytest.mark.parametrize(("zero", "offload"), OFFLOADED)
def test_the_engine_offloads_what_the_run_says(zero: int, offload: Any) -> None:
    told = {"optimizer": {"offload_optimizer"}, "parameters": {"offload_optimizer", "offload_param"}}[offload]
    for gpus in (0, 1):
        parts = deepspeed_config(Optimization(), TrainRun(zero=zero, offload=offload, gpus_per_worker=gpus))["zero_optimization"]
        assert {key: parts[key] for key in parts if "offload" in key} == {key: {"device": "cpu", "pin_memory": gpus > 0} for key in told}
    optimizer = alone(lambda: Engine(tiny(), Optimization(), TrainRun(zero=zero, offload=offload), 1)).deepspeed.optimizer
    kept = {key for key in ("offload_optimizer", "offload_param") if getattr(optimizer, key, False)}
    assert kept == told if zero == 3 else optimizer.cpu_offload


@pytest.mark.parametrize(("zero", "offload"), OFFLOADED)
def test_what_is_offloaded_trains_to_the_same_weights(tmp_path: Path, zero: int, offload: Any) -> None:
    plain = alone(lambda: training(tmp_path, pretraining(tmp_path), TrainRun(zero=zero), name="plain"))
    moved = alone(lambda: training(tmp_path, pretraining(tmp_path), TrainRun(zero=zero, offload=offload), name="moved"))
    for name, tensor in plain.weights.items():
        assert torch.allclose(moved.weights[name], tensor, rtol=0, atol=1e-6), name


def test_stages_and_params_load_nothing_heavy() -> None:
    heavy = ["torch", "ray", "deepspeed", "numpy", "pyarrow", "datasets"]
    code = f"import sys, trainer.stages; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
