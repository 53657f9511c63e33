"""Start a training on its ranks: Ray Train places and restarts them, checkpoints and their resumption are this project's own."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.stage import Checkpoint, Fence, StageContext, Trajectory, UserError
from trainer.engine import Optimization, Stopped, TrainRun
from trainer.model.config import ModelConfig

if TYPE_CHECKING:
    from pipeline.stage import Progress
    from trainer.loop import Leaving, Plan
    from trainer.model.transformer import Settle, Transformer
    from trainer.tasks.task import Task

IDLE_CALLBACKS = ("PlacementGroupCleanerCallback", "DatasetsCallback", "ControllerMetricsCallback", "WorkerMetricsCallback")
# what gloo and NCCL say on the ranks that are left, and CUDA on one whose GPU has failed
RANK_LOST = ("Connection closed by peer", "Connection reset by peer", "Connection refused", "Timed out waiting", "NCCL", "CUDA error")
# what the same libraries say that a restart would only meet again: mistakes in data or code, and machines that do not suit
LASTING = (
    "device-side assert", "invalid argument", "invalid usage", "invalid device ordinal", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "no kernel image is available", "driver version is insufficient", "no GPUs found", "NCCL built in",
)  # fmt: skip
COLLECTIVE_TIMEOUT_S = 2 * 3600  # rank 0 hashes a whole checkpoint while the others wait
NODES_RETURN_S = 15 * 60  # how long a training that has lost a node waits for it, or for another, to come
BUSY = "WorkerGroupStartupTimeoutError"  # Ray Train: what the ranks reserve is there, but not free yet


@dataclass(frozen=True)
class NewModel:
    """Weights drawn from a seed."""

    config: ModelConfig
    seed: int


@dataclass(frozen=True)
class SavedModel:
    """Weights of a Hugging Face directory."""

    directory: str


@dataclass(frozen=True)
class Training:
    """All that a rank is told. `directory` is where rank 0 leaves the trained weights, as safetensors; `inputs` are digests."""

    task: Task
    plan: Plan
    settings: Optimization
    run: TrainRun
    model: NewModel | SavedModel
    directory: str
    inputs: Mapping[str, str]
    trajectory: Trajectory
    fence: Fence
    progress: Progress


def launch(ctx: StageContext, task: Task, plan: Plan, settings: Optimization, model: NewModel | SavedModel) -> dict[str, Any]:
    """Train, leave the weights among the stage's own files (unpublished), and return the metrics.

    An error of a rank arrives as it was raised there.
    """
    run: TrainRun = ctx.run.as_it_runs(settings.precision)
    inputs = {role: artifact.digest for role, artifact in ctx.inputs.items()} | {file.name: file.sha256 for file in ctx.sources}
    training = Training(task, plan, settings, run, model, ctx.directory, inputs, ctx.trajectory, ctx.fence, ctx.progress)
    if run.workers == 0:
        join_alone()
        with stopping_at_a_checkpoint(training):
            return train_rank(training)
    ctx.connect()
    return train_on_ray(training, f"{ctx.name}-{ctx.fingerprint[:16]}-{ctx.fence.epoch}")


def train_rank(training: Training, leaving: Leaving | None = None) -> dict[str, Any]:
    """What every rank does once its process group is up. `leaving` as in `trainer.loop.train`. Returns the metrics."""
    from trainer.engine import set_up_device, settling
    from trainer.loop import train
    from trainer.model.hf import save_weights

    device = set_up_device(training.run)
    model = _open(training.model, settling(training.settings, training.run, device))
    outcome = train(
        model, training.task, training.plan, training.settings, training.run,
        device=device, inputs=training.inputs, trajectory=training.trajectory, progress=training.progress,
        leaving=leaving,
    )  # fmt: skip
    if outcome.weights is not None:
        training.fence.check()
        save_weights(outcome.weights, model.config, training.directory)
    rates = {f"{name}_per_second": round(value / outcome.seconds, 1) for name, value in outcome.counted.items() if outcome.seconds > 0}
    return {
        "steps": outcome.steps,
        "best_step": outcome.state.best_step,
        "history": outcome.state.history,
        "totals": outcome.state.totals,
        "skipped": outcome.state.skipped,
        "throughput": rates,
    }


def _open(source: NewModel | SavedModel, settle: Settle) -> Transformer:
    from trainer.model.hf import load_model
    from trainer.model.transformer import Transformer

    return Transformer(source.config, source.seed, settle) if isinstance(source, NewModel) else load_model(source.directory, settle)[0]


def join_alone() -> None:
    """Make this process a process group of its own; DeepSpeed remembers it, so it stays for the life of the process."""
    import torch.distributed as dist

    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed refuses to start without
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def _ray_worker(config: Mapping[str, Any]) -> dict[str, Any]:
    return train_rank(config["training"], nodes_leaving)


def nodes_leaving() -> Sequence[str]:
    """The ids of the nodes of this training that are about to go (Ray drains them); called by all ranks at once."""
    from ray.train import get_preemption_info

    found = get_preemption_info()
    return () if found is None else found.preempted_node_ids


def train_on_ray(training: Training, name: str) -> dict[str, Any]:
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    class Trainer(TorchTrainer):
        """Without Ray Train's helpers for datasets, metrics and placement groups: none has anything to do here, each costs
        the start of a process, and the last holds up every end for ten seconds where Ray runs without a dashboard."""

        def _create_default_callbacks(self) -> list[Any]:
            return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in IDLE_CALLBACKS]

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # also how long Ray takes to see that the ranks are done
    run = training.run
    gpu = run.gpus_per_worker > 0
    attempts, failures, busy = 0, 0, False
    made = checkpoints_made(training)
    with stopping_at_a_checkpoint(training) as asked:
        while True:
            await_room(training, NODES_RETURN_S if attempts else 0, asked)
            attempts += 1
            # Ray's own snapshots are of no use here: they live and go with this launch
            with tempfile.TemporaryDirectory(prefix="crawl2chat-") as storage:
                trainer = Trainer(
                    _ray_worker,
                    train_loop_config={"training": training},
                    scaling_config=ScalingConfig(num_workers=run.workers, use_gpu=gpu, resources_per_worker=run.resources),
                    run_config=RunConfig(
                        name=f"{name}-{attempts}",
                        storage_path=storage,
                        # or Ray would try for ever, and say nothing
                        failure_config=FailureConfig(controller_failure_limit=0, max_preemption_failures=0),
                    ),
                    torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
                )
                try:
                    return dict(trainer.fit().return_value)
                except TrainingFailedError as error:
                    training.fence.check()
                    cause = _cause(error)
            if not lost(cause):
                raise cause
            reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            if asked.is_set():
                raise Stopped(f"asked to, after ranks were lost ({reason:.120})")
            if type(cause).__name__ == BUSY:
                if not busy:
                    training.progress.event("note", text="waits until what its ranks reserve is free")
                busy = True
                continue
            known, made = made, checkpoints_made(training)
            if any(checkpoint not in known for checkpoint in made):
                failures = 0
            if failures == run.restarts:
                raise UserError(
                    f"ranks were lost {failures + 1} times in a row ({reason:.200}): see to the machine's memory and nodes, then run the "
                    "same command, which goes on from the last checkpoint; or raise run.restarts"
                )
            failures += 1
            training.trajectory.sweep()
            training.progress.event("note", text=f"ranks lost ({reason:.120}); restart {failures} of {run.restarts}")


def checkpoints_made(training: Training) -> list[Checkpoint]:
    """Those that this launch has completed."""
    return list(replace(training.trajectory, alone=True).complete())


def await_room(training: Training, seconds: float, asked: threading.Event) -> None:
    """Return once the nodes that stay have room for all ranks. Raises UserError, which says what is missing, after so many seconds, and at
    once where the command's own node is about to go; Stopped when the training is asked to end."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    end = time.monotonic() + seconds
    told = False
    while True:
        nodes = nodes_staying()
        if own not in nodes:  # Ray Train would wait for ever to be placed here
            raise UserError(
                "the node that this command runs on is about to go: the same command elsewhere goes on from the last checkpoint"
            )
        try:
            return training.run.require_room(training.progress.stage, *nodes.values())
        except UserError as error:
            if time.monotonic() >= end:
                raise
            if not told:
                training.progress.event("note", text=f"waits {seconds / 60:g} minutes for nodes: {error}")
                told = True
        if asked.wait(1):
            raise Stopped("asked to, while it waited for nodes")


def nodes_staying() -> dict[str, Mapping[str, float]]:
    """What the nodes have, by id, but for those that are about to go: Ray calls them alive while they are there, and places nothing on
    them any more."""
    import ray
    from ray._private.state import state  # what Ray Train asks itself; no public call tells it

    going = state.get_draining_nodes()
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in going}


@contextmanager
def stopping_at_a_checkpoint(training: Training) -> Iterator[threading.Event]:
    """Meanwhile SIGTERM ends the training after its next step and a checkpoint of it; a second one ends it at once. Then whoever handled
    the signal before is called. The event says whether it has come."""
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    request = training.trajectory.stop_request
    request.parent.mkdir(parents=True, exist_ok=True)
    before = signal.getsignal(signal.SIGTERM)

    def ask(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        received.set()
        request.touch()

    signal.signal(signal.SIGTERM, ask)
    try:
        yield received
    except Exception as error:
        ended = isinstance(_cause(error), Stopped)
        if not (received.is_set() and ended):
            raise
    finally:
        signal.signal(signal.SIGTERM, before)
        request.unlink(missing_ok=True)
    if received.is_set():
        if callable(before):
            before(signal.SIGTERM, None)
        raise KeyboardInterrupt


def _cause(error: Exception) -> Exception:
    """The exception that stopped the ranks, as it was raised: a lost rank makes the others fail in their collectives. Where it was none of
    theirs, what stopped Ray Train."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    raised = [getattr(failure, "_base_exc", failure) for _, failure in sorted(failures.items())]
    return min(raised, key=lambda error: (not isinstance(error, UserError | Stopped), lost(error)))


def lost(error: Exception) -> bool:
    """Whether this is the sign of a rank or node that went away, not of a mistake in data or code."""
    from_ray = type(error).__module__.startswith("ray.")
    if from_ray or isinstance(error, ConnectionError):
        return True
    said = str(error)
    return any(mark in said for mark in RANK_LOST) and not any(mark in said for mark in LASTING)
