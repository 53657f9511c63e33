"""The one training loop. What is trained on and how it is scored is a `Task` (trainer/tasks); the rest of a training is here.

A step: the task gives this rank's micro-batches; their denominators are added up over all ranks; each micro-batch adds the
gradient of its share of the loss; the optimizer steps once. The gradient is therefore the same however the step's rows are
cut into micro-batches and dealt to ranks.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.stage import Checkpoint, Trajectory, UserError
from trainer import checkpoint
from trainer.engine import Engine, Optimization, Stopped, TrainRun, full_state, whole
from trainer.guard import WINDOW, Guard
from trainer.guard import problem as guard_problem
from trainer.model.moe import Balancer
from trainer.planning import work_per_token
from trainer.seeing import Seen
from trainer.tasks.task import Place, Task

if TYPE_CHECKING:
    from pipeline.stage import Progress
    from trainer.model.transformer import Transformer


Leaving = Callable[[], Sequence[str]]  # the ids of the nodes that are about to go
Sums = dict[str, tuple[float | Tensor, str]]  # by term: the sum of its numerators on this rank, and what it is divided by
NORM, ASKED, LOOK = "norm", "asked to stop", "look who leaves"  # no terms are called so
LOOK_EVERY_S = 5.0  # how often the ranks ask whether a node is about to go, which they have to do together


@dataclass(frozen=True)
class Plan:
    """How long a training runs, when it looks at its validation set, and which weights it ends with.

    keep_best  name of a validation term: end with the weights that had its lowest value
    patience   stop after so many validations without a new lowest value; 0: never
    branch     the first step whose batch changes with the length of the training; its checkpoint is kept
    bias_rate  by how much a step moves the selection bias of an expert (Glm4Moe)
    guard      what counts as a bad step that is undone; None: only what is no number, and that ends the training
    """

    steps: int
    validate_every: int
    keep_best: str | None = None
    patience: int = 0
    guard: Guard | None = None
    bias_rate: float = 0.0
    branch: int = 0


@dataclass
class State:
    """What the loop remembers over a crash, all of it plain JSON."""

    history: list[dict[str, Any]] = field(default_factory=list)  # {"step", "train": {…} means since the last, "validation": {…}}
    sums: dict[str, float] = field(default_factory=dict)  # of the training terms since the last entry of the history
    summed: int = 0
    totals: dict[str, float] = field(default_factory=dict)  # of every denominator, over the whole training
    best_step: int = 0
    best: float | None = None
    recent: list[dict[str, float]] = field(default_factory=list)  # loss and norm of the last good steps, for the guard
    skipped: list[dict[str, Any]] = field(default_factory=list)  # {"step", "reason", "samples"} of each step that was undone


@dataclass(frozen=True)
class Outcome:
    """The end of a training, and what this launch did of it."""

    state: State
    steps: int
    weights: Mapping[str, Tensor] | None  # of rank 0; None on the others
    counted: Mapping[str, float]  # denominators summed over the steps of this launch
    seconds: float  # spent in the steps of this launch


class Scored(nn.Module):
    """The module DeepSpeed wraps: a batch in, its part of the global loss out, beside the terms' sums for the record."""

    def __init__(self, model: Transformer, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, batch: Any, denominators: Mapping[str, float]) -> tuple[Tensor, dict[str, tuple[Tensor, str]]]:
        terms = self.task.terms(self.model, batch)
        # a denominator of 0 means that there is nothing to learn from: the term has no value, its numerator is 0 as well
        parts = [term.weight * term.numerator / (denominators[term.denominator] or 1.0) for term in terms.values() if term.weight]
        loss = torch.stack(parts).sum() if parts else torch.zeros(())
        return loss, {name: (term.numerator.detach().double(), term.denominator) for name, term in terms.items()}


def train(
    model: Transformer,
    task: Task,
    plan: Plan,
    settings: Optimization,
    run: TrainRun,
    *,
    device: torch.device,
    inputs: Mapping[str, str],
    trajectory: Trajectory,
    progress: Progress,
    leaving: Leaving | None = None,
) -> Outcome:
    """Run a training to its end on this rank, going on from the newest checkpoint that fits. The process group must be up.

    `inputs` are the digests of what is trained on: a checkpoint made from others is no beginning for this training. `leaving` tells all
    ranks the same: all of them call it at once.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    model.to(device)
    model.set_recompute(run.recompute)
    if run.compile:
        model.compile_layers()
    task.start(Place(rank, world, device, run.micro_batch), model)
    loop = _Loop(Scored(model, task), plan, settings, run, inputs, trajectory, progress, leaving)
    try:
        first = loop.resume()
        if first < plan.steps:
            loop.saver.require_room()
        known = dict(loop.state.totals)
        last = loop.run(first)
    finally:
        loop.saver.close()
        loop.seen.close()
    if plan.keep_best is not None and loop.state.best_step != last:
        loop.load_best()
    weights = full_state(model, keep=rank == 0)
    counted = {name: value - known.get(name, 0.0) for name, value in loop.state.totals.items()}
    return Outcome(loop.state, last, weights if rank == 0 else None, counted, loop.seconds)


class _Loop:
    """A training on one rank. All ranks take the same decisions, since all they decide on is summed over ranks."""

    def __init__(
        self,
        scored: Scored,
        plan: Plan,
        settings: Optimization,
        run: TrainRun,
        inputs: Mapping[str, str],
        trajectory: Trajectory,
        progress: Progress,
        leaving: Leaving | None,
    ) -> None:
        self.scored, self.task, self.plan, self.settings, self.run_settings = scored, scored.task, plan, settings, run
        self.inputs, self.trajectory, self.progress = dict(inputs), trajectory, progress
        self.engine = Engine(scored, settings, run, plan.steps)
        self.saver = checkpoint.Saver(self.engine, trajectory)
        self.balancer = Balancer(scored.model, plan.bias_rate)
        self.seen = Seen(
            run,
            progress,
            trajectory.directory,
            plan.steps,
            work_per_token(scored.model.config, scored.task.row_tokens()).total,
            self.device,
        )
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.state = State()
        self.seconds = 0.0
        self.back_at = 0  # the step that the last undoing went back to
        self.asked_to_stop = False
        self.look, self.looked = False, time.monotonic()
        self.leaving, self.known_to_leave = leaving, set[str]()

    def resume(self) -> int:
        """Load the newest checkpoint that fits; returns how many steps are done."""
        found = self.find(self.fits)
        return 0 if found is None else self.load(found)

    def find(self, fits: Callable[[Checkpoint], bool]) -> Checkpoint | None:
        """The newest checkpoint that fits and is whole; those that are not are named."""
        return checkpoint.find(self.trajectory, fits, lambda damage: self.note(f"a checkpoint is passed over: {damage}"))

    def load(self, found: Checkpoint) -> int:
        """Go back, or on, to a checkpoint; returns how many steps are done."""
        if not self.form().items() <= found.facts.items():
            self.note(f"checkpoint of step {found.step}: from {_cut(found.facts)} to {_cut(self.form())}")
        checkpoint.load(self.engine, found, self.trajectory, self.form())
        self.state = State(**found.facts["state"])
        self.task.skip(self.skipped)
        return found.step

    def run(self, first: int) -> int:
        """Train from step `first` to the end; returns how many steps were trained in all."""
        done = first
        if done == 0:
            self.validate(0)
        while done < self.plan.steps and not self.stopped():
            begun = time.monotonic()
            with self.seen.profiled(done):
                problem, values, tokens = self.step(done)
            seconds = time.monotonic() - begun
            self.seconds += seconds
            if problem is not None:
                done = self.undo(done, problem)
                continue
            step, done = done, done + 1
            self.seen.step(done, seconds, {**values, "lr": self.settings.lr_at(step, self.plan.steps), **self.task.position(step)}, tokens)
            if done % self.plan.validate_every == 0:
                self.validate(done)
            if self.run_settings.show_every and done % self.run_settings.show_every == 0:
                self.show(done)
            urgent = self.asked_to_stop or self.some_leave(done)
            if urgent or self.worth_saving(done):
                self.save(done)
            if urgent:
                self.saver.finish()
            if self.asked_to_stop:
                raise Stopped(f"step {done}")
        if self.state.history[-1]["step"] != done:
            # not part of any checkpoint: a longer training does not validate here
            self.validate(done)
        self.saver.finish()
        return done

    def step(self, step: int) -> tuple[str | None, dict[str, float], float]:
        """One step; returns what was wrong with it, if anything, its values, and its tokens. What was wrong is no part of the state."""
        shared, denominators = self.share(list(self.task.micro_batches(step, self.scored.model)))
        sums: Sums = {}
        norm: float | None = 0.0
        if any(denominators.values()):
            self.scored.train()
            for batch, counted in shared:
                loss, terms = self.engine.forward(batch, denominators)
                self.engine.backward(loss * counted)
                self.balancer.add(self.scored.model.routing, bool(counted))
                _add(sums, terms, counted)
            norm = self.engine.step(step)
        # whatever all ranks are to know of the step, in one go: they decide on it alike
        told: dict[str, float | Tensor] = {name: value for name, (value, _) in sums.items()}
        told[NORM] = (norm or 0.0) / self.world
        told[ASKED] = float(self.rank == 0 and self.trajectory.stop_request.exists())
        told[LOOK] = float(self.rank == 0 and self.leaving is not None and time.monotonic() - self.looked >= LOOK_EVERY_S)
        totals = self.summed({**told, **self.saver.told()})
        self.saver.hear(totals)
        means = _means(totals, sums, denominators)
        values = means if norm is None else {**means, NORM: totals[NORM]}
        self.asked_to_stop, self.look = totals[ASKED] > 0, totals[LOOK] > 0
        guard = self.plan.guard
        problem = guard_problem(values, self.state.recent, guard.deviations if guard else 0.0)
        if problem is None:
            if guard is not None:
                self.state.recent = [*self.state.recent, values][-WINDOW:]
            for name, value in means.items():
                self.state.sums[name] = self.state.sums.get(name, 0.0) + value
            for name, value in denominators.items():
                self.state.totals[name] = self.state.totals.get(name, 0.0) + value
            self.state.summed += 1
        return problem, {**values, **self.balancer.finish()}, denominators.get("tokens", 0.0)

    def undo(self, step: int, problem: str) -> int:
        """Go back to the newest checkpoint and leave out the samples of this step for good; returns how many steps are done.

        Where the first step after it was wrong with other samples as well, it may be the checkpoint that is not good: then back to the
        one before, if there is one, and the samples of the step that led to it are left out too. After a crash the same happens again,
        as it follows from the checkpoints: nothing needs to be written down here.
        """
        samples = list(self.task.sample_numbers(step))
        skipped = [*self.state.skipped, {"step": step + 1, "reason": problem, "samples": samples}]
        wrong = f"step {step + 1}: {problem}"
        if step == 0:
            precision = self.settings.precision
            also = "" if precision == "fp32" else f", or {precision} cannot hold what they compute: set precision=fp32"
            raise UserError(f"{wrong}, before anything was learned: the weights that it begins with are damaged, give others{also}")
        if self.plan.guard is None or not samples:
            raise UserError(f"{wrong}; lower lr or raise warmup_steps")
        if len(skipped) > self.plan.guard.rollbacks:
            raise UserError(f"{wrong}, after {len(skipped) - 1} bad steps were undone; lower lr, or raise guard.rollbacks")
        self.saver.finish()
        found = self.find(self.led_here)
        if found is not None and found.step == step == self.back_at and len(skipped) < self.plan.guard.rollbacks:
            before = self.find(lambda one: self.led_here(one) and one.step < step)
            if before is not None:
                reason = f"the step after it was wrong twice, with other samples: {problem}"
                skipped.append({"step": step, "reason": reason, "samples": list(self.task.sample_numbers(step - 1))})
                found = before
        if found is None:
            raise UserError(f"{wrong}, and no checkpoint to go back to; lower lr, raise warmup_steps, or lower run.checkpoint_every")
        left_out = [sample for undone in skipped[len(self.state.skipped) :] for sample in undone["samples"]]
        done = self.back_at = self.load(found)
        self.state.skipped = skipped
        self.task.skip(self.skipped)
        self.note(f"{wrong}; back to step {done}, samples {min(left_out):,} to {max(left_out):,} are skipped")
        return done

    def led_here(self, found: Checkpoint) -> bool:
        """Whether what is trained now came by this checkpoint: all that was left out later would have been read after it."""
        own, now = found.facts["state"]["skipped"], self.state.skipped
        return self.fits(found) and own == now[: len(own)] and all(undone["step"] > found.step for undone in now[len(own) :])

    @property
    def skipped(self) -> list[int]:
        """The numbers of all samples that are left out."""
        return sorted({sample for undone in self.state.skipped for sample in undone["samples"]})

    def some_leave(self, done: int) -> bool:
        """Whether a node is about to go, with its ranks, of which it was not known."""
        if not self.look or self.leaving is None:
            return False
        self.looked = time.monotonic()
        known, self.known_to_leave = self.known_to_leave, set(self.leaving())
        if self.known_to_leave <= known:
            return False
        self.note(f"a node is about to go: checkpoint of step {done}")
        return True

    def validate(self, step: int) -> None:
        batches = list(self.task.validation_batches())
        found: dict[str, float] = {}
        if batches:
            rounds = -(-len(batches) // self.world)
            mine = batches[self.rank :: self.world]
            # sharded weights make every forward pass a common one: whoever has no batch left repeats one, uncounted
            shared = [(batch, 1.0) for batch in mine] + [(batches[0], 0.0)] * (rounds - len(mine))
            denominators = self.denominators(shared, [name for batch in batches for name in self.task.counts(batch)])
            sums: Sums = {}
            self.scored.eval()
            with torch.no_grad():
                for batch, counted in shared:
                    _add(sums, self.engine.forward(batch, denominators)[1], counted)
            sums = self.named_alike(sums)
            found = _means(self.summed({name: value for name, (value, _) in sums.items()}), sums, denominators)
        if self.run_settings.keep_best and self.judged_by not in found:
            raise UserError(f"run.keep_best: no validation tells the {self.judged_by} by which the best are known; set it to 0")
        trained = {name: total / self.state.summed for name, total in self.state.sums.items()}
        self.state.history.append({"step": step, "train": trained, "validation": found})
        self.state.sums, self.state.summed = {}, 0
        self.seen.validation(step, found)
        if step and self.plan.keep_best is not None and (self.state.best is None or found[self.plan.keep_best] < self.state.best):
            self.state.best, self.state.best_step = found[self.plan.keep_best], step

    def show(self, step: int) -> None:
        """Let people see what the model writes. Nothing here touches the training's random numbers."""
        self.scored.eval()
        model = whole(self.scored.model, keep=self.rank == 0)
        if self.rank == 0:
            with torch.no_grad():
                self.seen.text(step, self.task.show(model))

    def stopped(self) -> bool:
        """Whether the last `patience` validations brought nothing better than the best."""
        later = sum(entry["step"] > self.state.best_step for entry in self.state.history)
        return self.plan.keep_best is not None and self.state.best is not None and 0 < self.plan.patience <= later

    def share(self, batches: list[Any]) -> tuple[list[tuple[Any, float]], dict[str, float]]:
        """This rank's micro-batches, each counted once, and the global denominators. Who has fewer than another rank
        repeats its last one, uncounted."""
        if not batches:
            raise UserError(f"rank {self.rank} of {self.world} has no share of the step's batch: lower run.workers or enlarge the batch")
        number = torch.tensor(len(batches), device=self.device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        shared = [(batch, 1.0) for batch in batches] + [(batches[-1], 0.0)] * (int(number) - len(batches))
        return shared, self.denominators(shared)

    def denominators(self, shared: Sequence[tuple[Any, float]], names: Sequence[str] = ()) -> dict[str, float]:
        """The global sums. `names`: all there are, where a rank's own batches may lack some."""
        counts = dict.fromkeys(names, 0.0)
        for batch, counted in shared:
            for name, value in self.task.counts(batch).items():
                counts[name] = counts.get(name, 0.0) + value * counted
        return self.summed(counts)

    def named_alike(self, sums: Sums) -> Sums:
        """With the terms of all ranks, in the order of the first: a rank that had no batch of a kind adds nothing to its terms."""
        ranks: list[dict[str, str]] = [{} for _ in range(self.world)]
        dist.all_gather_object(ranks, {name: by for name, (_, by) in sums.items()})
        named = {name: by for terms in ranks for name, by in terms.items()}
        return {name: sums.get(name, (0.0, named[name])) for name in named}

    def summed(self, values: Mapping[str, float | Tensor]) -> dict[str, float]:
        """The sum over ranks of each value; the ranks' names are the same."""
        if not values:
            return {}
        tensor = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values.values()])
        dist.all_reduce(tensor)
        return dict(zip(values, tensor.tolist(), strict=True))

    def worth_saving(self, done: int) -> bool:
        return bool(
            done == self.plan.steps
            or done % self.run_settings.checkpoint_every == 0
            or (self.run_settings.keep_every and done % self.run_settings.keep_every == 0)
            or done in self.branches
            or (self.plan.keep_best is not None and done == self.state.best_step)
            or done in self.best_steps()
        )

    def save(self, done: int) -> None:
        digests = {"lr_digest": self.lr_digest(done), "data_digest": self.task.data_digest(done, self.skipped)}
        facts = {**self.form(), "inputs": self.inputs, **digests, "state": asdict(self.state)}
        self.saver.save(done, facts, self.run_settings.keep_last, self.kept(done))

    def kept(self, done: int) -> list[int]:
        """The steps whose checkpoints stay beside the newest: the best, each so many, and those from which a longer training goes on."""
        run = self.run_settings
        each = range(run.keep_every, done + 1, run.keep_every) if run.keep_every else ()
        return [step for step in (self.state.best_step, *self.best_steps(), *self.branches, *each) if 0 < step <= done]

    def best_steps(self) -> list[int]:
        """The steps of the best validations so far, as many as `run.keep_best` asks for."""
        values = [(entry["validation"].get(self.judged_by), entry["step"]) for entry in self.state.history if entry["step"]]
        return [step for _, step in sorted(values)[: self.run_settings.keep_best]] if self.run_settings.keep_best else []

    @property
    def judged_by(self) -> str:
        """The name of the validation's value that is lowest where a model is best."""
        return self.plan.keep_best or "loss"

    @property
    def branches(self) -> tuple[int, ...]:
        """After so many steps what is trained depends on how long it will be: the learning rate begins to fall, the mixture changes,
        which does so a step earlier for each before it whose samples were left out."""
        left_out = sum(undone["samples"][0] < self.plan.branch * len(undone["samples"]) for undone in self.state.skipped)
        return self.settings.stable_steps(self.plan.steps), self.plan.branch - left_out

    def form(self) -> dict[str, int]:
        return checkpoint.form(self.world, self.run_settings.zero)

    def fits(self, found: Checkpoint) -> bool:
        """Whether training can go on from there: the same inputs, and the learning rates so far as planned now."""
        if found.facts["inputs"] != self.inputs:
            return False
        if found.step > self.plan.steps or found.facts["lr_digest"] != self.lr_digest(found.step):
            return False
        skipped = [sample for undone in found.facts["state"].get("skipped", ()) for sample in undone["samples"]]
        if found.facts.get("data_digest", "") != self.task.data_digest(found.step, skipped):
            return False
        best = found.facts["state"]["best_step"]
        return best in (0, found.step) or self.trajectory.latest(lambda other: self.is_of_step(other, best)) is not None

    def is_of_step(self, found: Checkpoint, step: int) -> bool:
        """Whether it is a checkpoint of this step of the same training: the folder may hold those of a longer one, too."""
        return found.step == step and found.facts["inputs"] == self.inputs and found.facts["lr_digest"] == self.lr_digest(step)

    def load_best(self) -> None:
        found = self.find(lambda found: self.is_of_step(found, self.state.best_step))
        if found is None:
            raise UserError(
                f"{self.trajectory.directory}: the checkpoint of step {self.state.best_step}, the best one, is gone or damaged; "
                "remove this folder to train again from the start"
            )
        checkpoint.load(self.engine, found, self.trajectory, self.form())

    def note(self, text: str) -> None:
        if self.rank == 0:
            self.progress.event("note", text=text)

    def lr_digest(self, steps: int) -> str:
        rates = [self.settings.lr_at(step, self.plan.steps) for step in range(steps)]
        return hashlib.sha256(repr(rates).encode()).hexdigest()

    @property
    def device(self) -> torch.device:
        return self.engine.deepspeed.device


def _cut(form: Mapping[str, Any]) -> str:
    ranks = form["world_size"]
    return f"{ranks} rank{'s' * (ranks != 1)} at ZeRO {form['zero']}"


def _means(totals: Mapping[str, float], sums: Sums, denominators: Mapping[str, float]) -> dict[str, float]:
    """Each term over all ranks; those whose denominator is 0 have no value."""
    return {name: totals[name] / denominators[by] for name, (_, by) in sums.items() if denominators[by] > 0}


def _add(sums: Sums, terms: Mapping[str, tuple[Tensor, str]], counted: float) -> None:
    """Without looking at the values: a GPU would have to be waited for."""
    for name, (value, by) in terms.items():
        sums[name] = (sums.get(name, (0.0, by))[0] + value * counted, by)
