"""Small trainings for tests: token shards of random documents, the kernel's own trajectory, and ranks without Ray."""

from __future__ import annotations

import contextlib
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.utils._pytree import tree_leaves

from data_prep.token_shards import IndexRow, TokenShardWriter, write_index
from pipeline.files import File
from pipeline.lease import Fence
from pipeline.progress import Progress
from pipeline.stage import UserError
from pipeline.trajectory import Trajectory
from trainer import engine
from trainer.data.corpus import Corpus
from trainer.data.sample_index import Rows, Segment, padded
from trainer.engine import Optimization, TrainRun, deepspeed_config, settling
from trainer.guard import ENOUGH, Guard
from trainer.launch import join_alone
from trainer.loop import Leaving, Outcome, Plan, train
from trainer.model.config import ModelConfig
from trainer.model.transformer import Transformer
from trainer.objectives.language_model import TokenBatch
from trainer.tasks.language_model import Pretraining
from trainer.tasks.task import Place, Task, Term

VOCABULARY, END = 61, 1
PATIENCE = timedelta(minutes=5)  # with another rank: those that disagree on what comes next would wait for each other
TINY = ModelConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64)


def write_shard(directory: Path, name: str, split: str, documents: int, seed: int = 0) -> tuple[File, File, File]:
    """A shard of random documents that end with END, and its table. Written at the first call only."""
    random = np.random.default_rng(seed)
    path, table = directory / split / f"{name}.bin", directory / "index" / f"{name}-{split}.parquet"
    if not table.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        table.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        with TokenShardWriter(path, VOCABULARY) as writer:
            for number in range(documents):
                ids = [*random.integers(2, VOCABULARY, random.integers(1, 40)).tolist(), END]
                writer.write(ids)
                rows.append(IndexRow(f"{name}-{number}", split, len(ids), 3 * (len(ids) - 1)))
        write_index(table, rows)
    index = path.with_suffix(".idx")
    return tuple(File.of(file.relative_to(directory).as_posix(), file) for file in (path, index, table))  # type: ignore[return-value]


def write_tokenizer(directory: Path) -> Path:
    """A folder with a tokenizer whose first VOCABULARY ids can be decoded."""
    from data_prep.tokenizer import train

    (directory / "tokenizer").mkdir(exist_ok=True)
    (directory / "tokenizer" / "tokenizer.model").write_bytes(train(["ab cd"] * 9, vocab_size=284))
    return directory / "tokenizer"


def pretraining(directory: Path, kind: type[Pretraining] = Pretraining, **changes: Any) -> Pretraining:
    train_files = [file for number in range(2) for file in write_shard(directory, f"part-{number}", "train", 40, seed=number)[:2]]
    *held_out, table = write_shard(directory, "part-0", "validation", 12, seed=9)
    corpora = (Corpus("corpus", tuple(train_files), tuple(held_out), (table,)),)
    values = {"corpora": corpora, "end_id": END, "sequence_length": 24, "rows_per_step": 6, "validation_tokens": 200, "seed": 0}
    return kind(**{**values, **changes})


@dataclass
class Planted(Pretraining):
    """Documents that are easy to foresee; the rows that step `bad` would read are noise."""

    bad: int = 91

    def _read(self, numbers: Sequence[int]) -> Rows:
        rows = super()._read(numbers)
        noise = np.random.default_rng(0).integers(20, VOCABULARY, (len(self.bad_rows), self.sequence_length))
        for place, number in enumerate(numbers):
            if number in self.bad_rows:
                rows.inputs[place] = rows.targets[place] = noise[number - self.bad_rows[0]]
        return rows

    @property
    def bad_rows(self) -> range:
        return range((self.bad - 1) * self.rows_per_step, self.bad * self.rows_per_step)


@dataclass
class Corrupt(Planted):
    """The loss of the rows of so many steps, from step `bad` on, is multiplied by a factor: on every rank, or on the one of this number."""

    factor: float = math.nan
    steps: int = 1
    only_on: int | None = None
    now: float = 1.0

    @property
    def bad_rows(self) -> range:
        return range((self.bad - 1) * self.rows_per_step, (self.bad - 1 + self.steps) * self.rows_per_step)

    def start(self, place: Place, model: Transformer) -> None:
        super().start(place, model)
        self.spared = self.only_on not in (None, place.rank)

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        self.now = self.factor if {*self.bad_rows} & {*self.sample_numbers(step)} and not self.spared else 1.0
        return super().micro_batches(step, model)

    def terms(self, model: Transformer, batch: Any) -> Mapping[str, Term]:
        return {name: replace(term, numerator=self.spoiled(term.numerator)) for name, term in super().terms(model, batch).items()}

    def spoiled(self, numerator: torch.Tensor) -> torch.Tensor:
        return numerator * self.now


class Misread(Corrupt):
    """Of the loss only what is told is wrong, the gradient is right."""

    def spoiled(self, numerator: torch.Tensor) -> torch.Tensor:
        return numerator + (numerator * (self.now - 1)).detach()


class Steep(Corrupt):
    """What is told of the loss is right, its gradient is wrong."""

    def spoiled(self, numerator: torch.Tensor) -> torch.Tensor:
        return Steepened.apply(numerator, self.now)  # type: ignore[no-any-return, no-untyped-call]


class Steepened(torch.autograd.Function):
    """A number as it is, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, number: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return number.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient * ctx.factor, None


def planted(directory: Path, kind: type[Planted] = Planted, **changes: Any) -> Planted:
    path, table = directory / "train" / "planted.bin", directory / "index" / "planted.parquet"
    if not table.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        table.parent.mkdir(exist_ok=True)
        with TokenShardWriter(path, VOCABULARY) as writer:
            for number in range(400):
                writer.write([2 + number % 3] * 23 + [END])
        write_index(table, [IndexRow(str(number), "train", 24, 69) for number in range(400)])
    files = tuple(File.of(name.relative_to(directory).as_posix(), name) for name in (path, path.with_suffix(".idx")))
    held_out = pretraining(directory, validation_tokens=0).corpora[0]
    return kind((replace(held_out, train=files),), END, 24, 24, 0, seed=0, **changes)


def tiny() -> Transformer:
    return Transformer(TINY.resolved(VOCABULARY), seed=1)


def trajectory(directory: Path, name: str = "one", epoch: int = 1) -> Trajectory:
    (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / f"{name}-steps").mkdir(exist_ok=True)
    return Trajectory(str(directory / f"{name}-steps"), name, Fence(str(directory / name), epoch))


def training(
    directory: Path,
    task: Task,
    run: TrainRun,
    *,
    name: str = "one",
    settings: Optimization | None = None,
    leaving: Leaving | None = None,
    **plan: Any,
) -> Outcome:
    """Train the tiny model on this rank; the process group must be up."""
    values = {"steps": 6, "validate_every": 3, **plan}
    progress = Progress(str(directory / f"{name}.jsonl"), "test")
    settings, device = settings or Optimization(lr=1e-2, warmup_steps=2), torch.device("cpu")
    with sharded():
        model = Transformer(TINY.resolved(VOCABULARY), 1, settling(settings, run, device))
        return train(
            model, task, Plan(**values), settings, run,
            device=device, inputs={"corpus": "random"}, trajectory=trajectory(directory, name), progress=progress,
            leaving=leaving,
        )  # fmt: skip


@contextlib.contextmanager
def sharded() -> Iterator[None]:
    """ZeRO 3 shards every weight. DeepSpeed leaves those of less than 100,000 numbers whole: here that would be all of them."""

    def configured(settings: Optimization, run: TrainRun) -> dict[str, Any]:
        config = deepspeed_config(settings, run)
        if run.zero == 3:
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    with patch.object(engine, "deepspeed_config", configured):
        yield


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run as the only rank, in this process."""
    join_alone()
    return function(*arguments)


def together(ranks: int, directory: Path, function: Callable[..., Any], *arguments: Any, backend: str = "gloo") -> list[Any]:
    """Run in so many processes with a common process group; what each returned, by rank. With NCCL each has the GPU of its number."""
    with tempfile.TemporaryDirectory(dir=directory) as rendezvous:
        spawn(_rank, (ranks, backend, f"{rendezvous}/store", str(directory), function, arguments), nprocs=ranks)
    return [torch.load(directory / f"result-{rank}.pt", weights_only=False) for rank in range(ranks)]


def _rank(
    rank: int, ranks: int, backend: str, rendezvous: str, directory: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    store = dist.FileStore(rendezvous, ranks)
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=PATIENCE)
    torch.save(function(*arguments), f"{directory}/result-{rank}.pt")
    dist.destroy_process_group()
    sys.stdout.flush()
    # Groups that DeepSpeed refers to outlive their end, threads included. One that lets a tensor go while the interpreter
    # is taken down aborts the process (pytorch#190489), so it is not taken down.
    os._exit(0)


class Broken(RuntimeError):
    """Stands for a crash."""


@dataclass
class Interrupted(Pretraining):
    """Fails at a step."""

    fails_at: int = 0

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        if step == self.fails_at:
            raise Broken
        return super().micro_batches(step, model)


@dataclass
class Crowded(Pretraining):
    """From a step on no file may be as long as a checkpoint's, on the last rank; `full_at` 0: from before the start is found."""

    full_at: int = 4

    def start(self, place: Place, model: Transformer) -> None:
        super().start(place, model)
        self.last = place.rank == place.world - 1
        self._fill(0)

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        self._fill(step)
        return super().micro_batches(step, model)

    def _fill(self, step: int) -> None:
        if step == self.full_at and self.last:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextlib.contextmanager
def crowded() -> Iterator[type[Crowded]]:
    """A task that leaves no room on the disk, while the block runs."""
    room, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield Crowded
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
        signal.signal(signal.SIGXFSZ, before)


@dataclass
class Noted(Pretraining):
    """Writes down which samples the ranks read in which step: a line each, in the file `read`."""

    read: str = ""

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        self.step = step
        return super().micro_batches(step, model)

    def _read(self, numbers: Sequence[int]) -> Rows:
        with open(self.read, "a") as lines:
            lines.write("".join(f"{self.step} {number}\n" for number in numbers))
        return super()._read(numbers)


def samples_read(directory: Path, name: str) -> list[tuple[int, int]]:
    """Step and number of each sample that `elastic` trainings of this name have read, whichever rank it was."""
    return sorted((int(step), int(number)) for step, number in map(str.split, (directory / f"{name}.read").read_text().splitlines()))


@dataclass
class Drawing(Pretraining):
    """Draws from each generator at every step."""

    drawn: dict[int, tuple[float, ...]] = field(default_factory=dict)

    def micro_batches(self, step: int, model: Transformer) -> list[TokenBatch]:
        self.drawn[step] = random.random(), np.random.random(), torch.rand(()).item()
        return super().micro_batches(step, model)


def drawing(folder: Path) -> Drawing:
    task = pretraining(folder, kind=Drawing)
    assert isinstance(task, Drawing)
    return task


def drawn(folder: Path, zero: int) -> list[list[dict[int, tuple[float, ...]]]]:
    """By rank: what it drew in six steps, and what it drew again after the checkpoint of the fourth. Each rank has a seed of its own."""
    name, rank = f"drawn-{zero}", dist.get_rank()
    random.seed(rank)
    np.random.seed(rank)
    torch.manual_seed(rank)
    whole, again = drawing(folder), drawing(folder)
    run = TrainRun(zero=zero, checkpoint_every=2)
    training(folder, whole, run, name=name)
    if rank == 0:
        shutil.rmtree(next(trajectory(folder, name).complete()).directory)
    dist.barrier()
    training(folder, again, run, name=name)
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, [whole.drawn, again.drawn])
    return found


def resumed(directory: Path, run: TrainRun, name: str, fails_at: int, **changes: Any) -> Outcome:
    """The outcome of a training that failed at a step and was started again."""
    with contextlib.suppress(Broken):
        training(directory, pretraining(directory, kind=Interrupted, fails_at=fails_at), run, name=name, **changes)
        raise AssertionError("the training was to fail")
    return training(directory, pretraining(directory), run, name=name, **changes)


def equal(first: Outcome, second: Outcome) -> bool:
    """Whether all bits of the weights, and the record of the training, are the same."""
    if first.weights is None or second.weights is None:
        return first.weights is second.weights and first.state == second.state
    return first.state == second.state and all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


def same_state(folder: Path, first: str, second: str) -> bool:
    """Whether the newest checkpoints of two trainings hold the same tensors: weights, moments and generators of all ranks."""
    found = []
    for name in (first, second):
        directory = Path(next(trajectory(folder, name).complete()).directory)
        files = {str(path.relative_to(directory)): path for path in directory.rglob("*.pt")}
        leaves = {file: tree_leaves(torch.load(path, weights_only=False)) for file, path in files.items()}
        found.append({file: [leaf for leaf in parts if isinstance(leaf, torch.Tensor)] for file, parts in leaves.items()})
    one, other = found
    return one.keys() == other.keys() and all(
        len(one[file]) == len(other[file]) > 0 and all(map(torch.equal, one[file], other[file])) for file in one
    )


def two_ranks_cases(directory: str) -> dict[str, Any]:
    """`weights`: those of 4 steps at each ZeRO stage with 7 rows on two ranks in micro-batches of 3, so that one rank has a micro-batch
    less. `exact`: whether resuming gives the same bits, by precision and stage. `drawn`: see there. `crowded`: what is said where
    the last rank has no room. `undone`, `gradients` and `curves`: see there. The trainings `shown-1` and `shown-3` let texts be read."""
    folder = Path(directory)
    weights, exact = {}, {}
    for zero in range(4):
        outcome = training(folder, pretraining(folder, rows_per_step=7), TrainRun(zero=zero, micro_batch=3), name=f"cut-{zero}", steps=4)
        weights[zero] = None if outcome.weights is None else dict(outcome.weights)
    for precision, stages in (("fp32", range(4)), ("bf16", range(1, 4))):
        settings = Optimization(lr=1e-2, warmup_steps=2, precision=precision)  # type: ignore[arg-type]
        for zero in stages:
            run = TrainRun(zero=zero, micro_batch=2, checkpoint_every=2)
            whole = training(folder, pretraining(folder), run, name=f"whole-{precision}-{zero}", settings=settings)
            again = resumed(folder, run, f"cut-{precision}-{zero}", 5, settings=settings)
            # two steps again, or four where the crash came before the ranks had told each other that the second checkpoint was written
            exact[precision, zero] = equal(whole, again) and 3 * again.counted["tokens"] / whole.counted["tokens"] in (1, 2)
            if dist.get_rank() == 0:  # it has written that they are complete
                exact[precision, zero] &= same_state(folder, f"whole-{precision}-{zero}", f"cut-{precision}-{zero}")
    for zero in range(4):
        elastic(folder, zero, steps=2)
    uncut = {zero: elastic(folder, zero, steps=6, name="whole") for zero in range(4)}
    undone = {case: undone_by(folder, *case) for case in UNDONE}
    # rank 0 writes texts meanwhile, the other does not
    for zero in (1, 3):
        task = pretraining(folder, tokenizer=str(folder / "tokenizer"))
        training(folder, task, TrainRun(zero=zero, show_every=2), name=f"shown-{zero}")
    try:
        with crowded() as kind:
            training(folder, pretraining(folder, kind=kind), TrainRun(zero=2, checkpoint_every=2), name="full")
        refused = ""
    except UserError as error:
        refused = str(error)
    found = {"weights": weights, "exact": exact, "whole": uncut, "undone": undone, "crowded": refused}
    draws = {zero: drawn(folder, zero) for zero in range(4)}
    return {**found, "drawn": draws, "gradients": gradients(folder), "curves": golden_curves(folder)}


UNDONE: list[tuple[type[Corrupt], int, float, int]] = [
    (Misread, 0, math.inf, 4),
    (Misread, 3, math.inf, 4),
    (Steep, 2, math.inf, 4),
    (Misread, 1, 1e4, ENOUGH + 2),
]


def undone_by(folder: Path, kind: type[Corrupt], zero: int, factor: float, bad: int) -> list[list[dict[str, Any]]]:
    """By rank: the steps that it has undone, where the share of rank 1 alone was bad in one step."""
    task = planted(folder, kind, factor=factor, bad=bad, only_on=1)
    run = TrainRun(zero=zero, micro_batch=12, checkpoint_every=2)
    settings = Optimization(lr=1e-2, warmup_steps=5, schedule="constant")
    name = f"undone-{kind.__name__}-{zero}"
    outcome = training(folder, task, run, name=name, settings=settings, steps=bad + 1, validate_every=20, guard=Guard())
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, outcome.state.skipped)
    return found


@dataclass
class Unpacked(Pretraining):
    """The same documents, each in a row of its own."""

    def _read(self, numbers: Sequence[int]) -> Rows:
        return padded([[segment] for segment in segments_of(super()._read(numbers))])


def segments_of(rows: Rows) -> list[Segment]:
    """The documents, and parts of documents, that share the rows."""
    found = []
    for inputs, targets, documents in zip(rows.inputs, rows.targets, rows.documents, strict=True):
        ends = [*(np.flatnonzero(np.diff(documents)) + 1).tolist(), len(documents)]
        found += [Segment(inputs[first:last], targets[first:last]) for first, last in zip([0, *ends], ends, strict=False)]
    return found


CUTS = [(kind, micro_batch, 0) for kind in (Pretraining, Unpacked) for micro_batch in (1, 2, 4)]
CUTS += [(Pretraining, 2, zero) for zero in (1, 2, 3)]


def gradients(folder: Path) -> dict[str, tuple[float, dict[str, torch.Tensor]]]:
    """Loss and gradient of one step on these ranks, as loop and engine make them, however it is cut: kind of rows, micro-batch, ZeRO
    stage. AdamW's first step at lr and eps 1 is g / (|g| + 1), from which the gradient follows."""
    found = {}
    settings = Optimization(lr=1.0, schedule="constant", warmup_steps=0, eps=1.0, weight_decay=0.0, clip=0.0)
    before = {name: tensor.double() for name, tensor in tiny().state_dict().items()}
    for kind, micro_batch, zero in CUTS:
        task = pretraining(folder, kind, rows_per_step=7, validation_tokens=0)
        name = f"{kind.__name__}-{micro_batch}-{zero}-{dist.get_world_size()}"
        outcome = training(folder, task, TrainRun(zero=zero, micro_batch=micro_batch), name=name, settings=settings, steps=1)
        steps = {name: before[name] - tensor for name, tensor in (outcome.weights or {}).items()}
        gradient = {name: step / (1 - step.abs()) for name, step in steps.items()}
        found[name] = outcome.state.history[-1]["train"]["loss"], gradient
    return found


def elastic(
    folder: Path,
    zero: int,
    *,
    steps: int,
    name: str = "elastic",
    under: str = "",
    precision: Any = "fp32",
    offload: Any = "none",
    **changes: Any,
) -> Outcome:
    """A training that ranks of any number may continue; its learning rates do not depend on how long it lasts."""
    run = TrainRun(zero=zero, offload=offload, micro_batch=2, checkpoint_every=1)
    settings = Optimization(lr=1e-2, warmup_steps=2, schedule="constant", precision=precision)
    name = under or f"{name}-{zero}"
    task = pretraining(folder, kind=Noted, read=str(folder / f"{name}.read"), **changes)
    return training(folder, task, run, name=name, settings=settings, steps=steps, validate_every=2)


def continued(directory: str, stages: Sequence[int]) -> dict[int, Outcome]:
    """By ZeRO stage the last two steps, on these ranks, of what others have begun."""
    return {zero: elastic(Path(directory), zero, steps=6) for zero in stages}


def crossing(directory: str, zero: int, steps: int, precision: str = "fp32", name: str = "crossing") -> Outcome:
    """One training, whatever the ranks and the stage."""
    return elastic(Path(directory), zero, steps=steps, under=f"{name}-{precision}", precision=precision)


def golden_curves(folder: Path, name: str = "golden") -> dict[str, list[float]]:
    """The loss of each step of a training on these ranks, by ZeRO stage."""
    settings = Optimization(lr=1e-2, warmup_steps=5)
    curves = {}
    for zero in range(4):
        run = TrainRun(zero=zero, micro_batch=8, checkpoint_every=100)
        history = training(folder, planted(folder), run, name=f"{name}-{zero}", settings=settings, steps=20, validate_every=1).state.history
        curves[f"zero-{zero}"] = [entry["train"]["loss"] for entry in history[1:]]
    return curves
