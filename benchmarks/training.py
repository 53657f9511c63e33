"""Training's speed: this project's loop beside a plain PyTorch loop and Hugging Face's Trainer, on the same rows.

    python -m benchmarks.training [--ranks 1 2] [--size small long] [--zero 0 1 2 3] [--steps 12] [--runs 1] [--compile] [--parts]

The peers are transformers and accelerate, both in the `dev` extra. Without accelerate, or without transformers, their lines are left
out.

Every rank is a process with one thread. In one run of these processes the sides take turns, step by step, all with models of the
same shape and the same rows in the same micro-batches; their first steps are not counted. Two copies of one side can be 3 % apart
in a run and change places in the next, by where their memory lies: `--runs` repeats all in new processes, the sides in an
order drawn anew. Ratios are given thrice: of the best steps, which is exact on an idle machine; the median over rounds of turns; and
of processor time over all ranks, which leaves out waiting; of several runs each is the median over runs. Behind the second stands,
of one run, what the median would be within in 19 of 20 measurements as long in these processes, and of several the lowest and the
highest run's. What is freed stays with the process: else it would be
luck whose memory the system takes back between steps, and page faults take up to a thirtieth of a step. A step of the plain loop is
what a person would write: the loss of this rank's rows, DDP's backward pass, clipping, fused AdamW, the loss printed. The plain
loop is measured with this project's transformer, so that the loop is all that differs, and with transformers' Qwen3. Hugging Face's
Trainer has Qwen3, the same DeepSpeed configuration, but that it counts micro-batches and averages itself, and logs nothing.

Behind a ratio stands its target and whether the median has met it; `near`: below it, but not by more than chance. Where one is missed in
rows as long as `long`'s, the benchmark ends with an error.

Model FLOPs utilisation counts what `trainer.planning.work_per_token` counts, and is over the fp32 matrix product's peak, measured by
all ranks at the same time in turn with the sides. `--parts` shows where a step's time goes at each ZeRO stage, in a training of
its own: waiting for the other rank counts as a collective operation. One rank alone runs at ZeRO 0, whatever stage is asked for.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import math
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data_prep.token_shards import TokenShardWriter
from pipeline.files import File
from pipeline.progress import Progress
from tests.trainer.worlds import together, trajectory
from trainer import loop
from trainer.data.corpus import Corpus
from trainer.engine import Engine, Optimization, TrainRun, deepspeed_config, import_deepspeed
from trainer.loop import Plan
from trainer.model.attention import document_positions
from trainer.model.config import ModelConfig, to_huggingface
from trainer.model.transformer import Transformer
from trainer.objectives.language_model import TokenBatch, scored_tokens
from trainer.planning import REDUCE_BUCKET, count_parameters, work_per_token
from trainer.tasks.language_model import Pretraining
from trainer.tasks.task import Place

END = 1
# speed of each ZeRO stage over the plain loop, by the number of ranks, and over HF Trainer
OVER_PLAIN = {1: {0: 0.98}, 2: {1: 0.97, 2: 0.97, 3: 0.9}}
OVER_HUGGINGFACE = 1.1
SETTINGS = Optimization(lr=1e-3, warmup_steps=2)
SKIPPED = 2
CPU = torch.device("cpu")
KEEPING_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**25)}  # glibc's
COLLECTIVES = (
    "all_reduce", "all_reduce_coalesced", "all_gather", "all_gather_into_tensor", "all_gather_coalesced", "reduce_scatter",
    "reduce_scatter_tensor", "reduce", "broadcast", "barrier", "all_gather_object", "broadcast_object_list",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """A model, and what a rank computes in a step: one micro-batch."""

    config: ModelConfig
    length: int  # tokens of a row
    micro_batch: int  # rows


SIZES = {
    "demo": Size(ModelConfig(hidden_size=128, num_hidden_layers=4, num_attention_heads=4).resolved(2048), 256, 8),
    "small": Size(ModelConfig(hidden_size=256, num_hidden_layers=6, num_attention_heads=4).resolved(2048), 256, 8),
    # rows as long as those of recipe=web
    "long": Size(ModelConfig(hidden_size=256, num_hidden_layers=6, num_attention_heads=4).resolved(8192), 1024, 2),
}


@dataclass(frozen=True)
class Measuring:
    """What every rank is told."""

    directory: Path
    size: Size
    zero: Sequence[int]  # the stages asked for
    counted: int  # steps of each side; SKIPPED before them are not counted
    parts: bool
    compile: bool
    run: int = 0

    @property
    def steps(self) -> int:
        return SKIPPED + self.counted + 1  # the last one is followed by what ends a training


@dataclass(frozen=True)
class Seconds:
    """Of one side, step by step: on the clock, and of this rank's processor."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def counted(self) -> Seconds:
        return Seconds(self.wall[SKIPPED:], self.processor[SKIPPED:])


@dataclass
class Paced(Pretraining):
    """Pretraining that waits for its turn before each step."""

    turn: Callable[[], None] = lambda: None

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        self.turn()
        return super().micro_batches(step, model)


Side = Callable[[Callable[[], None]], object]  # a training that calls what it is given before each of its steps


class Turns:
    """Lets several trainings do one step each, in turn: only one of their threads runs at any time."""

    def __init__(self, sides: Mapping[str, Side]) -> None:
        self.seconds = {name: Seconds() for name in sides}
        # DeepSpeed replaces this function of torch's at ZeRO 3, in the whole process: each side has what it would have alone
        self._linear = dict.fromkeys(sides, F.linear)
        self._sides = dict(sides)
        self._go = {name: threading.Semaphore(0) for name in sides}
        self._back = threading.Semaphore(0)
        self._broken = False

    def run(self, steps: int) -> None:
        """Every side comes to its first step, one after the other; each does a step, in turn; the last one is followed by its end."""
        with ThreadPoolExecutor(len(self._sides)) as pool:
            running = {name: pool.submit(self._train, name, side) for name, side in self._sides.items()}
            for future in running.values():
                future.add_done_callback(lambda _: self._back.release())
            try:
                for number in range(steps + 1):
                    for name, future in running.items():
                        F.linear = self._linear[name]
                        begun = time.perf_counter(), time.process_time()
                        self._go[name].release()
                        self._back.acquire()
                        self._linear[name] = F.linear
                        if future.done():
                            future.result()
                        if 0 < number < steps:
                            self.seconds[name].wall.append(time.perf_counter() - begun[0])
                            self.seconds[name].processor.append(time.process_time() - begun[1])
            except BaseException:
                self._broken = True
                for go in self._go.values():
                    go.release()
                raise

    def _train(self, name: str, side: Side) -> None:
        def wait() -> None:
            self._go[name].acquire()
            if self._broken:
                raise RuntimeError("another side has failed")

        def turn() -> None:
            self._back.release()
            wait()

        wait()
        side(turn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", choices=SIZES, nargs="+", default=["small", "long"])
    parser.add_argument(
        "--zero", type=int, choices=range(4), nargs="+", default=[0, 1, 2, 3], help="ZeRO stages: fewer take less time a turn"
    )
    parser.add_argument("--steps", type=int, default=12, help="counted steps of each side")
    parser.add_argument("--runs", type=int, default=1, help="runs that are put together, each in processes of its own")
    parser.add_argument("--compile", action="store_true", help="also with compiled layers, which takes minutes to start")
    parser.add_argument("--parts", action="store_true", help="also show where a step's time goes")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs: at least 1")
    os.environ |= {"OMP_NUM_THREADS": "1", **KEEPING_MEMORY}  # of the ranks
    missed = 0
    for name in arguments.size:
        with tempfile.TemporaryDirectory(prefix="training-") as folder:
            measuring = Measuring(Path(folder), SIZES[name], arguments.zero, arguments.steps, arguments.parts, arguments.compile)
            write_corpus(measuring)
            for ranks in arguments.ranks:
                runs = [
                    together(ranks, measuring.directory, measured, replace(measuring, run=run, parts=arguments.parts and run == 0))
                    for run in range(arguments.runs)
                ]
                missed += show(name, measuring, runs) * (name == "long")
    if missed:
        sys.exit(f"{missed} of the targets missed by more than chance")


def write_corpus(measuring: Measuring) -> None:
    """A shard of two million random ids in documents of 20 to 800 tokens."""
    generator, vocabulary = np.random.default_rng(0), measuring.size.config.vocab_size
    with TokenShardWriter(measuring.directory / "part.bin", vocabulary) as writer:
        while writer.tokens < 2_000_000:
            writer.write([*generator.integers(2, vocabulary, generator.integers(20, 800)).tolist(), END])


def pretraining(measuring: Measuring, ranks: int, turn: Callable[[], None] = lambda: None) -> Paced:
    files = tuple(File.of(name, measuring.directory / name) for name in ("part.bin", "part.idx"))
    corpora = (Corpus("corpus", files, (), ()),)
    return Paced(corpora, END, measuring.size.length, ranks * measuring.size.micro_batch, validation_tokens=0, seed=0, turn=turn)


def batches(measuring: Measuring, place: Place, turn: Callable[[], None] = lambda: None) -> Iterator[list[TokenBatch]]:
    """The micro-batches of a rank, step by step."""
    task, model = pretraining(measuring, dist.get_world_size(), turn), own_model(measuring)
    task.start(place, model)
    for step in range(measuring.steps):
        yield task.micro_batches(step, model)


@dataclass(frozen=True)
class Found:
    """What one rank measured."""

    seconds: Mapping[str, Seconds]  # by side
    peak: float  # FLOP/s
    parts: Mapping[int, Mapping[str, float]]  # seconds of a step by ZeRO stage


def measured(measuring: Measuring) -> Found:
    """Run by every rank."""
    import_deepspeed(CPU)
    peaks: list[float] = []
    sides: dict[str, Side] = {
        "peak": lambda turn: matrix_products(turn, measuring.steps, peaks),
        "plain loop": lambda turn: plain_loop(measuring, own_model(measuring), own_loss, turn),
    }
    stages = dict.fromkeys(train_run(measuring, zero).zero for zero in measuring.zero)
    for zero in stages:
        sides[f"crawl2chat, ZeRO {zero}"] = partial(own_loop, measuring, zero, False)
    if measuring.compile:
        zero = train_run(measuring, 1).zero
        sides[f"crawl2chat, ZeRO {zero}, compiled"] = partial(own_loop, measuring, zero, True)
    if importlib.util.find_spec("transformers"):
        sides["plain loop, transformers' model"] = lambda turn: plain_loop(measuring, qwen3(measuring), qwen3_loss, turn)
        if importlib.util.find_spec("accelerate"):
            for zero in stages:
                sides[f"HF Trainer, ZeRO {zero}"] = partial(huggingface_trainer, measuring, zero)
    first, *others = sides
    if measuring.run:
        random.Random(measuring.run).shuffle(others)
    turns = Turns({name: sides[name] for name in (first, *others)})
    turns.run(measuring.steps)
    parts = {zero: parts_of(measuring, zero) for zero in stages} if measuring.parts else {}
    return Found({name: turns.seconds[name].counted() for name in sides if name != "peak"}, max(peaks), parts)


def show(size: str, measuring: Measuring, runs: Sequence[Sequence[Found]]) -> int:
    """Prints what the ranks of each run measured; returns how many targets were missed by more than chance."""
    config, length = measuring.size.config, measuring.size.length
    world = len(runs[0])
    tokens = world * measuring.size.micro_batch * length
    peak, flops = max(sum(rank.peak for rank in ranks) for ranks in runs), work_per_token(config, length).total
    wall = {name: [ranks[0].seconds[name].wall for ranks in runs] for name in runs[0][0].seconds}
    processor, missed = {}, 0
    for name in wall:
        steps = [zip(*(rank.seconds[name].processor for rank in ranks), strict=True) for ranks in runs]
        processor[name] = [statistics.median(sum(step) for step in run) for run in steps]
    print(
        f"{world} rank{'s' * (world > 1)} of one thread, {size}: {count_parameters(config).exact:,} parameters, "
        f"{tokens:,} tokens a step in rows of {length:,}; fp32 matrix product {peak / world / 1e9:.0f} GFLOP/s a rank\n"
        f"{'':<32} {'best step':>10} {'':>6} {'speed over the plain loop':>51} {'over HF Trainer':>51}\n"
        f"{'':<32} {'tokens/s':>10} {'MFU':>6}" + f" {'best':>9} {'median':>7} {'(within)':>13} {'CPU':>6} {'target':>12}" * 2
    )
    for name, seconds in wall.items():
        fastest = min(map(min, seconds))
        line = f"{name:<32} {tokens / fastest:>10,.0f} {tokens * flops / fastest / peak:>6.1%}"
        for peer in dict.fromkeys(("plain loop", name.removesuffix(", compiled").replace("crawl2chat", "HF Trainer"))):
            if peer in wall and (peer != name or name == "plain loop"):
                best = statistics.median(min(other) / min(own) for other, own in zip(wall[peer], seconds, strict=True))
                turns = [list(map(truediv, other, own)) for other, own in zip(wall[peer], seconds, strict=True)]
                medians = [statistics.median(run) for run in turns]
                low, high = (min(medians), max(medians)) if len(runs) > 1 else median_within(turns[0])
                median = statistics.median(medians)
                line += f" {best:>9.3f} {median:>7.3f} ({low:.3f}-{high:.3f})"
                line += f" {statistics.median(map(truediv, processor[peer], processor[name])):>6.3f}"
                target = target_of(name, peer, world)
                if target is not None:
                    met = "met" if median >= target else "near" if high >= target else "missed"
                    line += f" {target:>5.2f} {met:<6}"
                    missed += met == "missed"
                else:
                    line += " " * 13
        print(line.rstrip())
    for zero, parts in runs[0][0].parts.items():
        total = sum(parts.values())
        print(f"ZeRO {zero}, {total * 1e3:.0f} ms a step: " + ", ".join(f"{name} {part / total:.1%}" for name, part in parts.items()))
    print(flush=True)
    return missed


def target_of(name: str, peer: str, ranks: int) -> float | None:
    """What the side's speed over its peer is to be."""
    if not name.startswith("crawl2chat"):
        return None
    return OVER_PLAIN.get(ranks, {}).get(int(name.split()[2].rstrip(","))) if peer == "plain loop" else OVER_HUGGINGFACE


def median_within(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median, whatever the distribution: two of the values themselves, by the normal approximation of how many
    of them lie below the true one (Conover, Practical Nonparametric Statistics)."""
    ordered, middle, width = sorted(values), (len(values) - 1) / 2, 0.98 * math.sqrt(len(values))
    return ordered[max(0, math.floor(middle - width))], ordered[min(len(values) - 1, math.ceil(middle + width))]


def matrix_products(turn: Callable[[], None], steps: int, peaks: list[float]) -> None:
    """Adds FLOP/s of this rank in fp32 products of large matrices, while the other ranks do the same."""
    left, right = torch.randn(2, 1024, 1024).unbind()
    for _ in range(steps):
        turn()
        for _ in range(4):
            begun = time.perf_counter()
            left @ right
            peaks.append(2 * 1024**3 / (time.perf_counter() - begun))


def own_model(measuring: Measuring) -> Transformer:
    return Transformer(measuring.size.config, seed=1)


def qwen3(measuring: Measuring) -> nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    values = to_huggingface(measuring.size.config, dtype="float32", bos=None, eos=END, pad=END)
    return Qwen3ForCausalLM(Qwen3Config(**values))


def own_loss(model: nn.Module, batch: TokenBatch) -> Tensor:
    loss: Tensor = model(batch)
    return loss


class Loss(nn.Module):
    """What DDP wraps: rows in, their mean loss out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TokenBatch) -> Tensor:
        return scored_tokens(self.model, batch)[0].mean()  # type: ignore[arg-type]


def qwen3_inputs(batch: TokenBatch) -> dict[str, Any]:
    """Positions that start again with each document keep transformers' attention inside it."""
    return {
        "input_ids": batch.inputs,
        "position_ids": document_positions(batch.documents),
        "labels": batch.inputs,
        "shift_labels": batch.targets.masked_fill(batch.targets < 0, -100),
        "use_cache": False,
    }


def qwen3_loss(model: nn.Module, batch: TokenBatch) -> Tensor:
    loss: Tensor = model(**qwen3_inputs(batch)).loss
    return loss


def plain_loop(
    measuring: Measuring, model: nn.Module, loss_of: Callable[[nn.Module, TokenBatch], Tensor], turn: Callable[[], None]
) -> None:
    world = dist.get_world_size()
    trained = Loss(model) if loss_of is own_loss else model
    if world > 1:
        trained = DistributedDataParallel(trained)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    groups = [
        {"params": matrices, "weight_decay": SETTINGS.weight_decay},
        {"params": [parameter for parameter in model.parameters() if parameter.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=SETTINGS.lr, betas=SETTINGS.betas, eps=SETTINGS.eps, fused=True)
    trained.train()
    with (measuring.directory / "plain.log").open("a") as log:
        for step, (batch,) in enumerate(batches(measuring, Place(dist.get_rank(), world, CPU, measuring.size.micro_batch), turn)):
            loss = loss_of(trained, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.clip)
            for group in optimizer.param_groups:
                group["lr"] = SETTINGS.lr_at(step, measuring.steps)
            optimizer.step()
            optimizer.zero_grad()
            print(step, loss.item(), file=log)


def own_loop(measuring: Measuring, zero: int, compiled: bool, turn: Callable[[], None]) -> None:
    run_task(measuring, zero, pretraining(measuring, dist.get_world_size(), turn), compiled)


def train_run(measuring: Measuring, zero: int) -> TrainRun:
    return TrainRun(workers=dist.get_world_size(), zero=zero, micro_batch=measuring.size.micro_batch).as_it_runs(SETTINGS.precision)


def run_task(measuring: Measuring, zero: int, task: Pretraining, compiled: bool = False) -> None:
    run = replace(train_run(measuring, zero), checkpoint_every=10**6, compile=compiled)
    with shared_folder(measuring.directory) as folder:
        loop.train(
            own_model(measuring), task, Plan(measuring.steps, 10**6), SETTINGS, run,
            device=CPU, inputs={}, trajectory=trajectory(folder), progress=Progress(str(folder / "events.jsonl"), "training"),
        )  # fmt: skip


@contextmanager
def shared_folder(directory: Path) -> Iterator[Path]:
    """A new folder of rank 0's for all ranks."""
    name: list[Any] = [tempfile.mkdtemp(dir=directory)]
    dist.broadcast_object_list(name, src=0)
    yield Path(name[0])


def huggingface_trainer(measuring: Measuring, zero: int, turn: Callable[[], None]) -> None:
    import transformers
    from transformers import Trainer, TrainerCallback, TrainingArguments

    transformers.logging.set_verbosity(logging.ERROR)
    rows = [row for step in batches(measuring, Place(0, 1, CPU, 1)) for row in step]

    class Waiting(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turn()

    def collate(chosen: list[TokenBatch]) -> dict[str, Any]:
        inputs, targets, documents = (torch.cat([getattr(row, name) for row in chosen]) for name in ("inputs", "targets", "documents"))
        return qwen3_inputs(TokenBatch(inputs, targets, documents))

    config = deepspeed_config(SETTINGS, train_run(measuring, zero))
    del config["managed_gradient_accumulation"], config["gradient_allreduce_op"]  # it counts micro-batches and averages itself
    model = qwen3(measuring)
    config["zero_optimization"]["reduce_bucket_size"] = min(REDUCE_BUCKET, sum(weight.numel() for weight in model.parameters()))
    with shared_folder(measuring.directory) as folder:
        arguments = TrainingArguments(
            output_dir=str(folder), max_steps=measuring.steps, per_device_train_batch_size=measuring.size.micro_batch, use_cpu=True,
            deepspeed=config, learning_rate=SETTINGS.lr, warmup_steps=SETTINGS.warmup_steps,
            lr_scheduler_type="cosine", adam_beta1=SETTINGS.betas[0], adam_beta2=SETTINGS.betas[1], weight_decay=SETTINGS.weight_decay,
            max_grad_norm=SETTINGS.clip, save_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False,
            logging_strategy="no",
        )  # fmt: skip
        trainer = Trainer(model, arguments, collate, rows, callbacks=[Waiting()])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()


class Clock:
    """Seconds by part. A part inside another is taken off the outer one."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._running: list[tuple[str, float]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        if self._running:
            self._charge(begun)
        self._running.append((name, begun))
        try:
            yield
        finally:
            now = time.perf_counter()
            self._charge(now)
            self._running.pop()
            if self._running:
                self._running[-1] = (self._running[-1][0], now)

    def _charge(self, now: float) -> None:
        name, begun = self._running[-1]
        self.parts[name] = self.parts.get(name, 0.0) + now - begun

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*arguments, **named)

        return call


def parts_of(measuring: Measuring, zero: int) -> dict[str, float]:
    """Seconds of a step by part, on this rank."""
    clock = Clock()

    class Timed(Engine):
        """An engine whose parts are timed."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            for name, part in (("forward", "forward"), ("backward", "backward"), ("step", "optimizer")):
                setattr(self, name, clock.timed(part, getattr(self, name)))

    task = pretraining(measuring, dist.get_world_size())
    with ExitStack() as stack:

        def time_as(part: str, owner: object, *names: str) -> None:
            for name in names:
                stack.enter_context(patch.object(owner, name, clock.timed(part, getattr(owner, name))))

        stack.enter_context(patch.object(loop, "Engine", Timed))
        time_as("rest of the loop", loop._Loop, "step")
        time_as("data", task, "micro_batches")
        time_as("collectives", dist.Work, "wait")
        time_as("collectives", dist, *(name for name in COLLECTIVES if hasattr(dist, name)))
        run_task(measuring, zero, task)
    return {name: seconds / measuring.steps for name, seconds in clock.parts.items()}


if __name__ == "__main__":
    main()
