"""Checkpoints of a training: every rank writes its part, and the record that makes them complete comes last.

DeepSpeed says what files hold weights and optimizer states. Random states go into a file for each rank, since DeepSpeed saves none.
What the loop itself remembers travels in the record's facts. All of it is copied to the host's memory, and written while the
next steps train.

A checkpoint's files are cut for a number of ranks and a ZeRO stage. Other ranks load it through DeepSpeed's universal checkpoint:
rank 0 converts it into one file for each state of each parameter, of which every rank reads its part.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipeline.stage import Checkpoint, Trajectory, UserError
from trainer.engine import Engine, serialized

TAG, UNIVERSAL = "state", "universal"
FULL = 1 << 20  # bytes: a disk with less is
NO_ROOM = ("No space left", "Disk quota exceeded", "File too large", "PytorchStreamWriter failed", "iostream error")
WRITTEN, FAILED = "part written", "checkpoint failed"  # what the ranks tell each other; no terms are called so


class Saver:
    """Saves a training on this rank, one checkpoint at a time; `close` ends it.

    A checkpoint is complete once every rank has written its part. They tell so in the collective that each step has anyway, so that
    none is called but by the training itself; then rank 0 writes the record.
    """

    def __init__(self, engine: Engine, trajectory: Trajectory) -> None:
        self.engine, self.trajectory = engine, trajectory
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.step = 0
        self.complete: Callable[[], None] = _nothing
        self.part: Future[None] | None = None  # what was begun last: there on all ranks or on none, like the record
        self.record: Future[None] | None = None

    def save(self, step: int, facts: Mapping[str, Any], last: int, keep: Sequence[int] = ()) -> None:
        """Save what is after `step` steps; called by every rank with the same arguments. The newest `last` checkpoints stay and, beside
        them, those of the steps in `keep`. Waits for the checkpoint before; raises what `finish` does."""
        self.finish()
        self.step = step
        directory = self.trajectory.begin(step)
        states = {**_random_states(), "buffers": dict(self.engine.deepspeed.module.named_buffers())}
        rank = dist.get_rank()
        files = {**self.engine.snapshot(directory, TAG), str(Path(directory, f"random-{rank}.pt")): serialized(states)}
        self.part, self.record = self.thread.submit(_write, files), None
        self.complete = partial(self.trajectory.commit, step, facts, last, keep) if rank == 0 else _nothing

    def told(self) -> dict[str, float]:
        """What the other ranks are to know: summed over ranks it is for `hear`."""
        done = [future for future in (self.part, self.record) if future is not None and future.done()]
        failed = any(future.exception() is not None for future in done)
        return {WRITTEN: float(bool(done) and not failed), FAILED: float(failed)}

    def hear(self, totals: Mapping[str, float]) -> None:
        """Go on with what was begun, as far as the ranks are. UserError as of `finish`."""
        if totals[FAILED]:
            self.finish()
        elif totals[WRITTEN] == dist.get_world_size():
            self._complete()

    def finish(self) -> None:
        """Wait until the checkpoint that was begun is complete; called by every rank.

        UserError on all of them where it cannot be written, above all for want of room: the checkpoint before is as it was.
        """
        if self.part is not None:
            self._await(self.part)
            self._complete()
            assert self.record is not None
            self._await(self.record)
            self.part = self.record = None

    def close(self) -> None:
        """Leave what was begun as it is: nothing is written after this."""
        self.thread.shutdown(cancel_futures=True)

    def _complete(self) -> None:
        if self.record is None:
            self.record = self.thread.submit(self.complete)

    def _await(self, future: Future[None]) -> None:
        """Wait for this of all ranks; raises the error of the first that has one."""
        errors: list[BaseException | None] = [None] * dist.get_world_size()
        dist.all_gather_object(errors, future.exception())
        for error in errors:
            if isinstance(error, OSError):
                free = shutil.disk_usage(self.trajectory.directory).free
                raise UserError(
                    f"{self.trajectory.directory}: the checkpoint of step {self.step} cannot be written: {error.strerror or error}, "
                    f"{free / 1e9:.1f} GB are free; make room and run the same command, which goes on from the checkpoint before"
                ) from error
            if error is not None:
                raise error


def _nothing() -> None:
    """What the other ranks do where rank 0 writes the record."""


def _write(files: dict[str, io.BytesIO]) -> None:
    """Write the files and let their contents go. Their folder is there, unless a later driver has swept it: then this is no
    one's checkpoint any more."""
    while files:
        path, content = files.popitem()
        with open(path, "wb") as stream:
            stream.write(content.getbuffer())
            os.fsync(stream.fileno())


def form(world: int, zero: int) -> dict[str, int]:
    """The facts of a checkpoint that say what its files are cut for."""
    return {"world_size": world, "zero": zero}


def loadable(found: Mapping[str, int], wanted: Mapping[str, int]) -> bool:
    """Whether ranks of one form can load a checkpoint of another: stage 0, which shards nothing, is read by itself."""
    return found["zero"] == wanted["zero"] or 0 not in (found["zero"], wanted["zero"])


def load(engine: Engine, checkpoint: Checkpoint, trajectory: Trajectory, wanted: Mapping[str, int]) -> None:
    """Put the engine and this rank's random numbers back to where `save` was called; called by every rank. `wanted`: their form.

    Of ranks that are more than there were, each takes the random numbers of one that was.
    """
    saved = checkpoint.facts
    if saved["zero"] == 0 or all(saved[name] == value for name, value in wanted.items()):
        _read(engine, checkpoint.directory, TAG)
    else:
        directory = Path(trajectory.scratch())
        shapes = {name: parameter.shape for name, parameter in engine.deepspeed.module.named_parameters()}
        _converted(Path(checkpoint.directory, TAG), directory / UNIVERSAL, (saved["zero"], wanted["zero"]), shapes)
        engine.read_universal(lambda: _read(engine, str(directory), UNIVERSAL))
        dist.barrier()
        if dist.get_rank() == 0:
            shutil.rmtree(directory)
        dist.barrier()
    rank = dist.get_rank() % checkpoint.facts["world_size"]
    states = torch.load(Path(checkpoint.directory, f"random-{rank}.pt"), weights_only=False, map_location="cpu")
    for name, buffer in engine.deepspeed.module.named_buffers():  # the universal checkpoint leaves them out
        buffer.copy_(states["buffers"][name])
    _restore_random(states)


def _read(engine: Engine, directory: str, tag: str) -> None:
    path, _ = engine.deepspeed.load_checkpoint(directory, tag=tag, load_lr_scheduler_states=False)
    if path is None:  # DeepSpeed's silent way to say that it found nothing
        raise FileNotFoundError(f"{directory}: DeepSpeed finds no checkpoint {tag!r} in it")


def _converted(source: Path, target: Path, stages: tuple[int, int], shapes: Mapping[str, torch.Size]) -> None:
    """Make the universal checkpoint `target` of `source`; what that takes of disk and memory, `trainer.planning` says. The other ranks
    wait for its last file, since that may take longer than a collective may. `stages`: from which to which; `shapes`: of the parameters,
    only where they are whole."""
    last = target.with_suffix(".done")
    if dist.get_rank() == 0:
        shutil.rmtree(target, ignore_errors=True)
        last.unlink(missing_ok=True)
        dist.barrier()
        # in the folder itself, since DeepSpeed reads paths as regular expressions; in a process, since it prints
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
        command += ["--input_folder", "source", "--output_folder", target.name, "--num_extract_workers", "1", "--num_merge_workers", "1"]
        link = target.with_name("source")
        link.unlink(missing_ok=True)
        link.symlink_to(source)
        done = subprocess.run(command, cwd=target.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            free = shutil.disk_usage(target.parent).free
            shutil.rmtree(target.parent)
            if free < FULL or any(words in done.stdout for words in NO_ROOM):
                raise UserError(
                    f"{source}: no room to convert it for these ranks, {free / 1e9:.1f} GB are free; make room (`crawl2chat plan` says "
                    "how much it takes) and run the same command, or go on with the ranks and the ZeRO stage it was saved by"
                )
            raise RuntimeError(f"{source}: DeepSpeed cannot convert it: {done.stdout[-2_000:]}")
        if stages[0] != 3 and stages[1] == 3:
            _for_stage_three(target)
        elif stages[0] == 3 and stages[1] != 3:
            _from_stage_three(target, shapes)
        last.touch()
        return
    dist.barrier()
    while not last.exists():
        time.sleep(0.1)


def _for_stage_three(universal: Path) -> None:
    """Let stage 3 read a universal checkpoint made from stage 1 or 2: it looks for the count of steps elsewhere."""
    path = universal / "zero" / "optimizer_state.pt"
    common = torch.load(path, weights_only=False, map_location="cpu")
    step = torch.load(next(universal.glob("zero/*/step.pt")), weights_only=False, map_location="cpu")
    torch.save({**common, "optimizer_state_dict": {"state": {0: {"step": step}}, "param_groups": common["param_groups"]}}, path)
    (universal / "zero_pp_rank_0_mp_rank_00_model_states.pt").symlink_to("mp_rank_00_model_states.pt")


def _from_stage_three(universal: Path, shapes: Mapping[str, torch.Size]) -> None:
    """Let stages 1 and 2 read a universal checkpoint made from stage 3: they want shapes, and the count of steps with each parameter."""
    import deepspeed

    path = universal / "zero" / "optimizer_state.pt"
    common = torch.load(path, weights_only=False, map_location="cpu")
    torch.save({**common, "ds_version": deepspeed.__version__}, path)
    for name, shape in shapes.items():
        folder = universal / "zero" / name
        for state in ("fp32", "exp_avg", "exp_avg_sq"):
            flat = torch.load(folder / f"{state}.pt", weights_only=False, map_location="cpu")
            torch.save({"param": flat.view(shape)}, folder / f"{state}.pt")
        torch.save(common["optimizer_state_dict"]["state"][0]["step"], folder / "step.pt")
    (universal / "mp_rank_00_model_states.pt").symlink_to("zero_pp_rank_0_mp_rank_00_model_states.pt")


def find(trajectory: Trajectory, accept: Callable[[Checkpoint], bool], tell: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint that rank 0 accepts, the same one on every rank. `tell` hears of damaged ones."""
    found = [trajectory.latest(accept, tell) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def _random_states() -> dict[str, Any]:
    states: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
