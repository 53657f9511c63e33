"""What can only be shown on GPUs, shown with one command on a box with two of them: prints one table, and fails where a line does.

    make gpu-proof          or python -m benchmarks.gpu_proof [--plan]

The first lines compare a GPU's kernels with what a CPU computes. Each other line is a training, or several, on ranks of their own:
exact resumption over NCCL, offloaded as well, ranks that become fewer and more, experts under ZeRO 3, losses in half precision beside
fp32's, model FLOPs utilisation, and the peak of memory beside the planner's figure. The last is the command line from pages to
evaluation, with ranks that Ray Train places.
`--plan` says what would run and for how long. `--device cpu` runs the same lines over gloo with models small enough for two cores,
so that all but CUDA itself is tried; its speed and memory are shown, not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.gpu_kernels import model_differences, product_differences

if TYPE_CHECKING:
    from trainer.engine import Optimization, TrainRun
    from trainer.loop import Outcome, Plan
    from trainer.model.config import ModelConfig
    from trainer.planning import Offload
    from trainer.tasks.language_model import Pretraining

RANKS = 2
MEMORY_MARGIN = 0.15  # of the planner's figure, both ways
FITTING = 0.6  # share of a GPU's memory that the planner may fill with a micro-batch
MOST_ROWS = 32
KERNELS = {"fp32": 1e-4, "bf16": 0.02}  # relative: what another order of sums may make; TF32 for fp32 makes 2e-3
SAME = 1e-6
HALF = 0.05  # nats
TRAININGS = ("pretrain", "sft", "dpo", "grpo")


@dataclass(frozen=True)
class Box:
    """What the proofs run on; sent to every rank."""

    device: Literal["cuda", "cpu"]
    folder: Path

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    def small(self) -> ModelConfig:
        """Dense, with grouped-query attention."""
        from trainer.model.config import ModelConfig

        width, layers = (256, 4) if self.gpu else (32, 2)
        return ModelConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2).resolved(
            self.vocabulary
        )

    def sparse(self) -> ModelConfig:
        from trainer.model.config import ModelConfig

        width, layers = (256, 4) if self.gpu else (32, 2)
        return ModelConfig(
            architecture="glm4_moe", hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, num_experts=8,
            num_experts_per_tok=2, moe_intermediate_size=width, n_shared_experts=1, first_k_dense_replace=1,
        ).resolved(self.vocabulary)  # fmt: skip

    def large(self) -> ModelConfig:
        """GPT-2's size, for speed and memory."""
        from trainer.model.config import ModelConfig

        if not self.gpu:
            return ModelConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4).resolved(self.vocabulary)
        return ModelConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=2048).resolved(50_304)

    @property
    def vocabulary(self) -> int:
        return 2048 if self.gpu else 256

    @property
    def length(self) -> int:
        return 1024 if self.gpu else 64


@dataclass(frozen=True)
class Line:
    """One line of the table. `holds` is None where a figure is shown, not judged."""

    name: str
    found: str
    wanted: str
    holds: bool | None


@dataclass(frozen=True)
class Proof:
    """Lines that belong together, how long they take on two GPUs, and what finds them in the process that asks."""

    name: str
    what: str
    minutes: float
    prove: Callable[[Box], list[Line]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", choices=[proof.name for proof in PROOFS], help="these proofs alone")
    parser.add_argument("--plan", action="store_true", help="say what would run, and start nothing")
    chosen = parser.parse_args(arguments)
    proofs = [proof for proof in PROOFS if not chosen.only or proof.name in chosen.only]
    if chosen.plan:
        show_plan(proofs)
        return 0
    if chosen.device == "cuda" and (missing := what_is_missing()):
        print(f"gpu-proof: {missing}; or see what would run: python -m benchmarks.gpu_proof --plan", file=sys.stderr)
        return 2
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # or cuBLAS is not deterministic
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="gpu-proof-") as folder:
        box = Box(chosen.device, Path(folder))
        write_corpus(box)
        print(f"{RANKS} ranks on {device_name(box)}, {versions()}\n{'':<52} {'found':<42} {'wanted':<32}", flush=True)
        failed = 0
        for proof in proofs:
            for line in lines_of(proof, box):
                verdict = {True: "holds", False: "FAILS", None: "-"}[line.holds]
                print(f"{line.name:<52} {line.found:<42} {line.wanted:<32} {verdict}", flush=True)
                failed += line.holds is False
    print(f"{failed} lines fail" if failed else "every line holds")
    return int(failed > 0)


def show_plan(proofs: list[Proof]) -> None:
    print(f"needs {RANKS} NVIDIA GPUs with bf16 and 16 GB each, PyTorch with CUDA and NCCL, 8 GB of disk")
    for proof in proofs:
        print(f"{proof.name:<12} {proof.what:<104} {proof.minutes:>4.0f} min")
    print(f"{'':<12} {'in all, half of it the start of processes and compiling':<104} {sum(proof.minutes for proof in proofs):>4.0f} min")


def what_is_missing() -> str:
    """In a line, with the mend; empty where nothing is."""
    import torch

    there = torch.cuda.device_count()
    if there < RANKS:
        built = "" if torch.version.cuda else ", and this PyTorch is built without CUDA"
        return f"needs {RANKS} NVIDIA GPUs, there {'is' if there == 1 else 'are'} {there or 'none'}{built}: run it on a box with two"
    if not torch.distributed.is_nccl_available():
        return "this PyTorch is built without NCCL: install one with it"
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return f"{torch.cuda.get_device_name(0)} has no bf16: run it on Ampere or later"
    if not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        return "no C compiler, which Triton needs for attention on GPUs: install gcc"
    memory = min(torch.cuda.get_device_properties(number).total_memory for number in range(RANKS)) / 1e9
    if memory < 15:
        return f"needs GPUs with 16 GB, these have {memory:.0f}: run it on larger ones"
    return ""


def lines_of(proof: Proof, box: Box) -> list[Line]:
    """The proof's lines, or the one that says what stopped its ranks."""
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

    try:
        return proof.prove(box)
    except (ProcessRaisedException, ProcessExitedException) as error:
        (box.folder / f"{proof.name}.log").write_text(str(error))
        print(str(error), file=sys.stderr)
        return [Line(proof.name, str(error).strip().splitlines()[-1][:200], "an end", False)]


def device_name(box: Box) -> str:
    import torch

    return torch.cuda.get_device_name(0) if box.gpu else "the CPU, one thread each"


def versions() -> str:
    from importlib.metadata import version

    return ", ".join(f"{package} {version(package)}" for package in ("torch", "deepspeed")) + f", {time.strftime('%Y-%m-%d')}"


def write_corpus(box: Box) -> None:
    """Documents that count in one of four strides, which is learnt within a few steps."""
    import numpy as np

    from data_prep.token_shards import TokenShardWriter

    random = np.random.default_rng(0)
    with TokenShardWriter(box.folder / "part.bin", box.vocabulary) as writer:
        while writer.tokens < (8_000_000 if box.gpu else 100_000):
            places = random.integers(0, box.vocabulary) + random.choice([1, 3, 7, 11]) * np.arange(random.integers(20, 800))
            writer.write([*(2 + places % (box.vocabulary - 2)).tolist(), 1])


def world(box: Box, ranks: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """What rank 0 of so many new ones found."""
    from tests.trainer.worlds import together

    return together(ranks, box.folder, function, box, *arguments, backend="nccl" if box.gpu else "gloo")[0]


def run_of(box: Box, **changes: Any) -> TrainRun:
    from trainer.engine import TrainRun

    return TrainRun(**{"gpus_per_worker": int(box.gpu), "micro_batch": 4, "deterministic": box.gpu, **changes})


def task_of(box: Box, config: ModelConfig, rows: int, kind: type[Pretraining] | None = None, **changes: Any) -> Pretraining:
    from pipeline.files import File
    from trainer.data.corpus import Corpus
    from trainer.tasks.language_model import Beside, Pretraining

    corpus = Corpus("corpus", tuple(File.of(name, box.folder / name) for name in ("part.bin", "part.idx")))
    beside = Beside(z_loss=1e-4, routers=config.num_experts > 0, balance=1e-3, router_z=1e-3)
    return (kind or Pretraining)(
        (corpus,), end_id=1, sequence_length=box.length, rows_per_step=rows, validation_tokens=0, seed=0, beside=beside, **changes
    )


def trained(
    box: Box, config: ModelConfig, name: str, task: Pretraining, plan: Plan, run: TrainRun, settings: Optimization | None = None
) -> Outcome:
    """A training on this rank; its events are in `<name>.jsonl`."""
    import gc

    import torch

    from pipeline.progress import Progress
    from tests.trainer.worlds import trajectory
    from trainer.engine import Optimization, set_up_device, settling
    from trainer.loop import train
    from trainer.model.transformer import Transformer

    gc.collect()  # an engine that came before
    device = set_up_device(run)
    if box.gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    settings = settings or Optimization(lr=1e-3, warmup_steps=2)
    progress = Progress(str(box.folder / f"{name}.jsonl"), "proof")
    with redirect_stdout(None):  # DeepSpeed prints what it allocates
        return train(
            Transformer(config, 1, settling(settings, run, device)), task, plan, settings, run,
            device=device, inputs={"corpus": "counting"}, trajectory=trajectory(box.folder, name), progress=progress,
        )  # fmt: skip


def kernels(box: Box) -> list[Line]:
    """What a GPU computes in a way of its own, beside a CPU with the same weights: all other lines compare GPUs with GPUs."""
    lines = []
    for (precision, name), differences in world(box, 1, kernel_cases).items():
        found = ", ".join(f"{part} to {difference:.1e}" for part, difference in differences.items())
        tolerance = KERNELS[precision]
        holds = all(difference <= tolerance for difference in differences.values())
        lines.append(Line(f"{name}, {precision}", found, f"the CPU's to {tolerance:g}", holds))
    return lines


def kernel_cases(box: Box) -> dict[tuple[str, str], dict[str, float]]:
    """Relative differences by what they are of."""
    import torch

    from trainer.engine import set_up_device

    set_up_device(run_of(box))
    torch.set_float32_matmul_precision("highest")  # torch's default, but images for GPUs turn TF32 on
    return {
        ("fp32", "packed documents, grouped queries"): model_differences(box, box.small()),
        ("fp32", "packed documents, experts"): model_differences(box, box.sparse()),
        ("bf16", "experts' products by one kernel"): product_differences(box),
    }


def exactly_resumed(
    box: Box, config: ModelConfig, name: str, precision: Literal["fp32", "bf16"], zero: int, offload: Offload = "none"
) -> tuple[bool, list[float]]:
    """Whether a training that failed at step 7 of 8, and went on from step 4, ends with the bits of one that did not; its losses
    on average over the first four steps and the last four."""
    from tests.trainer.worlds import Broken, Interrupted, equal, sharded
    from trainer.engine import Optimization
    from trainer.loop import Plan

    settings = Optimization(lr=1e-3, warmup_steps=2, precision=precision)
    # saving step 6 waits until the checkpoint of step 4 is complete; its own would be complete in step 7 at the earliest, which fails
    run, plan, rows = run_of(box, zero=zero, offload=offload, checkpoint_every=2), Plan(8, 4, bias_rate=1e-3), 2 * 2 * 4
    with sharded():
        whole = trained(box, config, f"{name}-whole", task_of(box, config, rows), plan, run, settings)
        with suppress(Broken):
            trained(box, config, f"{name}-cut", task_of(box, config, rows, Interrupted, fails_at=6), plan, run, settings)
            raise AssertionError("the training was to fail")
        again = trained(box, config, f"{name}-cut", task_of(box, config, rows), plan, run, settings)
    halved = again.counted["tokens"] == whole.counted["tokens"] / 2
    return halved and equal(whole, again), [entry["train"]["loss"] for entry in whole.state.history[1:]]


def exactness(box: Box) -> list[Line]:
    cases = [("fp32", zero, "none") for zero in range(4)] + [("bf16", zero, "none") for zero in range(1, 4)]
    cases += [("bf16", 2, "optimizer"), ("bf16", 3, "parameters")]
    found = world(box, RANKS, exact_cases, cases)
    wanted = "weights and record equal to the bit"
    lines = []
    for (precision, zero, offload), same in found.items():
        name = f"resumed exactly, {precision}, ZeRO {zero}" + (f", {offload} offloaded" if offload != "none" else "")
        lines.append(Line(name, "equal" if same else "another", wanted, same))
    return lines


def exact_cases(box: Box, cases: list[tuple[Literal["fp32", "bf16"], int, Offload]]) -> dict[tuple[str, int, Offload], bool]:
    return {case: exactly_resumed(box, box.small(), "-".join(map(str, case)), *case)[0] for case in cases}


def elastic(box: Box) -> list[Line]:
    """From two ranks to one and back, through the universal checkpoint."""
    whole = world(box, RANKS, stretches, "whole", 6)
    world(box, RANKS, stretches, "elastic", 2)
    world(box, 1, stretches, "elastic", 4)
    back = world(box, RANKS, stretches, "elastic", 6)
    lines = []
    for zero, (weights, totals, seen) in back.items():
        difference = max((tensor - whole[zero][0][name]).abs().max().item() for name, tensor in weights.items())
        counted = "same" if totals == whole[zero][1] and seen == whole[zero][2] else "other"
        found = f"weights differ by {difference:.1e}, {counted} samples"
        lines.append(
            Line(f"2 ranks, 1 rank, 2 ranks, fp32, ZeRO {zero}", found, f"by {SAME:g} at most", difference <= SAME and counted == "same")
        )
    return lines


def stretches(box: Box, name: str, steps: int) -> dict[int, tuple[dict[str, Any], dict[str, float], list[tuple[int, int]]]]:
    """By ZeRO stage: the weights after so many steps, on from where others stopped; denominators of all steps; what all ranks have read
    so far, as step and sample."""
    import torch.distributed as dist

    from tests.trainer.worlds import Noted, samples_read, sharded
    from trainer.engine import Optimization
    from trainer.loop import Plan

    settings = Optimization(lr=1e-3, warmup_steps=2, schedule="constant")
    found = {}
    for zero in range(4):
        config, run = box.small(), run_of(box, zero=zero, checkpoint_every=1)
        task = task_of(box, config, 8, Noted, read=str(box.folder / f"{name}-{zero}.read"))
        with sharded():
            outcome = trained(box, config, f"{name}-{zero}", task, Plan(steps, 100), run, settings)
        dist.barrier()
        samples = samples_read(box.folder, f"{name}-{zero}")
        found[zero] = dict(outcome.weights or {}), dict(outcome.state.totals), samples
    return found


def experts(box: Box) -> list[Line]:
    """A mixture of experts under ZeRO 3: that it resumes exactly shows that its sharding, hooks and selection biases do."""
    lines = []
    for precision, (same, (first, last)) in world(box, RANKS, expert_cases).items():
        name = f"experts, {precision}, ZeRO 3"
        lines.append(Line(f"{name}, resumed exactly", "equal" if same else "another", "weights and record equal to the bit", same))
        lines.append(Line(f"{name}, trained", f"loss {last:.3f} over steps 5 to 8", f"below {first:.3f}, over 1 to 4", last < first))
    return lines


def expert_cases(box: Box) -> dict[str, tuple[bool, list[float]]]:
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    return {precision: exactly_resumed(box, box.sparse(), f"experts-{precision}", precision, 3) for precision in precisions}


def half_precision(box: Box) -> list[Line]:
    found = world(box, RANKS, precision_cases)
    lines = []
    for precision in ("bf16", "fp16"):
        name = f"{precision}, loss after 40 steps, ZeRO 2"
        if precision not in found:
            lines.append(Line(name, "left out: fp16 is for GPUs", "", None))
            continue
        wanted = f"fp32's {found['fp32']:.4f} to {HALF:g}"
        lines.append(Line(name, f"{found[precision]:.4f}", wanted, abs(found[precision] - found["fp32"]) <= HALF))
    return lines


def precision_cases(box: Box) -> dict[str, float]:
    from trainer.engine import Optimization
    from trainer.loop import Plan

    losses: dict[str, float] = {}
    precisions: tuple[Literal["fp32", "bf16", "fp16"], ...] = ("fp32", "bf16", "fp16") if box.gpu else ("fp32", "bf16")
    for precision in precisions:
        settings = Optimization(lr=1e-3, warmup_steps=4, precision=precision)
        run = run_of(box, zero=2, deterministic=False, checkpoint_every=100)
        outcome = trained(box, box.small(), f"half-{precision}", task_of(box, box.small(), 16), Plan(40, 10), run, settings)
        losses[precision] = outcome.state.history[-1]["train"]["loss"]
    return losses


def speed_and_memory(box: Box) -> list[Line]:
    """MFU in bf16 over the measured peak of matrix products; the peak of memory beside the planner's."""
    from trainer.planning import memory_per_device, work_per_token

    config, lines = box.large(), []
    precision: Literal["fp32", "bf16"] = "bf16" if box.gpu else "fp32"
    for zero in (1, 2, 3):
        for variant in ("plain", "recompute", "compile"):
            if (variant == "compile" and (zero == 3 or not box.gpu)) or (variant == "recompute" and zero != 2):
                continue
            name = f"{precision}, ZeRO {zero}" + (f", {variant}" if variant != "plain" else "")
            found: Mapping[str, float] = world(box, RANKS, speed_case, precision, zero, variant)
            tokens, rows = found["tokens_per_second"], int(found["rows"])
            work = tokens * work_per_token(config, box.length).total
            mfu = f"{work / found['peak']:.1%} of {found['peak'] / RANKS / 1e12:.3g} TFLOP/s measured"
            lines.append(Line(f"{name}, MFU", mfu, f"{tokens:,.0f} tokens/s", None))
            planned = memory_per_device(
                config, tokens=rows * box.length, precision=precision, zero=zero, world=RANKS, device=box.device,
                recompute=variant == "recompute",
            ).total  # fmt: skip
            judged = box.gpu and variant != "compile"  # the planner knows nothing of what a compiler keeps
            lines.append(
                Line(
                    f"{name}, memory with {rows} rows of {box.length}",
                    f"{found['memory'] / 1e9:.3f} GB",
                    f"planned {planned / 1e9:.3f} GB" + (f" to {MEMORY_MARGIN:.0%}" if judged else ""),
                    abs(found["memory"] / planned - 1) <= MEMORY_MARGIN if judged else None,
                )
            )
    return lines


def speed_case(box: Box, precision: Literal["fp32", "bf16"], zero: int, variant: str) -> dict[str, float]:
    """Tokens a second (the median of steps after the first four) and peak memory of a rank in bytes, beside that of matrix products."""
    import torch

    from trainer.engine import Optimization
    from trainer.loop import Plan
    from trainer.planning import largest_micro_batch

    config, steps = box.large(), 14 if box.gpu else 7
    rows = 4
    if box.gpu:
        free = FITTING * torch.cuda.get_device_properties(0).total_memory
        how = {"precision": precision, "zero": zero, "world": RANKS, "recompute": variant == "recompute"}
        rows = min(MOST_ROWS, largest_micro_batch(free, config, box.length, **how))
    peak = matrix_peak(box)
    run = run_of(
        box, zero=zero, micro_batch=rows, deterministic=False, checkpoint_every=1000, compile=variant == "compile",
        recompute="layer" if variant == "recompute" else "none",
    )  # fmt: skip
    name = f"speed-{zero}-{variant}"
    settings = Optimization(lr=1e-4, warmup_steps=2, precision=precision)
    trained(box, config, name, task_of(box, config, RANKS * rows), Plan(steps, 1000), run, settings)
    events = [json.loads(line) for line in (box.folder / f"{name}.jsonl").read_text().splitlines()] if first_rank() else []
    done = [event for event in events if event["event"] == "progress"]
    return {
        "tokens_per_second": statistics.median(event["tokens_per_second"] for event in done[4:]) if done else 0.0,
        "memory": 1e9 * done[-2]["memory_gb"] if done else 0.0,  # before what ends a training
        "peak": peak,
        "rows": rows,
    }


def first_rank() -> bool:
    import torch.distributed as dist

    return dist.get_rank() == 0


def matrix_peak(box: Box) -> float:
    """FLOP/s of all ranks together in products of large matrices: bf16 on GPUs, fp32 on a CPU."""
    import torch
    import torch.distributed as dist

    size, dtype = (8192, torch.bfloat16) if box.gpu else (512, torch.float32)
    left, right = torch.randn(2, size, size, device=box.device).to(dtype).unbind()
    best = float("inf")
    for _ in range(10):
        if box.gpu:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        left @ right
        if box.gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    total = torch.tensor(2 * size**3 / best, device=box.device)
    dist.all_reduce(total)
    return total.item()


def whole_run(box: Box) -> list[Line]:
    """Pages to evaluation at the demo's shortest, every training on two ranks: what places them is Ray Train here, not this file."""
    gpus = [f"{stage}.run.gpus_per_worker={int(box.gpu)}" for stage in TRAININGS]
    command = [sys.executable, "-m", "pipeline", "run", "recipe=tiny", "model=demo", f"root={box.folder / 'run'}", *gpus]
    command += [f"evaluate.run.gpus={int(box.gpu)}", "name=proof"]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    found = f"exit {done.returncode} after {time.monotonic() - begun:.0f} s"
    return [Line(f"crawl2chat recipe=tiny, {RANKS} ranks by Ray Train", found, "exit 0", done.returncode == 0)]


PROOFS = (
    Proof("kernels", "loss and gradients of packed documents, dense and with experts, on a GPU and on the CPU", 1, kernels),
    Proof("exactness", "8 steps whole, and cut at the 7th: fp32 at ZeRO 0 to 3, bf16 at 1 to 3 and, offloaded, at 2 and 3", 4, exactness),
    Proof("elastic", "6 steps on 2 ranks; the same as 2 on two, 2 on one, 2 on two: fp32 at ZeRO 0 to 3", 4, elastic),
    Proof("experts", "a mixture of 8 experts with selection biases at ZeRO 3 in fp32 and bf16, whole and cut", 2, experts),
    Proof("precision", "40 steps in fp32, bf16 and fp16 at ZeRO 2", 2, half_precision),
    Proof("speed", "124 million parameters in bf16 at ZeRO 1 to 3, plain, recomputed, compiled: MFU, memory", 6, speed_and_memory),
    Proof("pipeline", "recipe=tiny from pages to evaluation on the command line, every training on two GPUs under Ray Train", 3, whole_run),
)


if __name__ == "__main__":
    sys.exit(main())
