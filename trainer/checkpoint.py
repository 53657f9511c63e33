"""Checkpoints of a training: every rank writes its part, and the record that makes them complete comes last.

DeepSpeed says what files hold weights and optimizer states. Random states go into a file for each rank, since DeepSpeed saves none.
What the loop itself remembers travels in the record's facts. All of it is copied to the host's memory, and written while the
next steps train.

A checkpoint's files are cut for a number of ranks and a ZeRO stage. Others load it through a universal checkpoint that rank 0 makes
of it (`trainer.universal`).
"""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipeline.stage import Checkpoint, Trajectory, UserError
from trainer import universal
from trainer.engine import Engine, elements, serialized

TAG, UNIVERSAL = "state", "universal"
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

    def require_room(self) -> None:
        """UserError where the disk has no room for a checkpoint's weights and moments in fp32, the least that one holds."""
        parameters = sum(map(elements, self.engine.deepspeed.module.parameters()))
        needed, free = 12 * parameters, shutil.disk_usage(self.trajectory.directory).free
        if free < needed:
            raise UserError(
                f"{self.trajectory.directory}: a checkpoint takes {needed / 1e9:.3g} GB at least, {free / 1e9:.3g} GB are free; make room, "
                "or set root to a larger disk"
            )

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


def load(engine: Engine, checkpoint: Checkpoint, trajectory: Trajectory, wanted: Mapping[str, int]) -> None:
    """Put the engine and this rank's random numbers back to where `save` was called; called by every rank. `wanted`: their form.

    Of ranks that are more than there were, each takes the random numbers of one that was.
    """
    saved, module = checkpoint.facts, engine.deepspeed.module
    if saved["zero"] == wanted["zero"] == 0 or all(saved[name] == value for name, value in wanted.items()):
        _read(engine, checkpoint.directory, TAG)
    else:
        directory = Path(trajectory.scratch())
        stages = saved["zero"], wanted["zero"]
        universal.convert(Path(checkpoint.directory, TAG), directory / UNIVERSAL, stages, dict(module.named_parameters()))
        if wanted["zero"] == 0:
            universal.read_whole(engine, directory / UNIVERSAL)
        else:
            engine.read_universal(lambda: _read(engine, str(directory), UNIVERSAL))
        dist.barrier()
        if dist.get_rank() == 0:
            shutil.rmtree(directory)
        dist.barrier()
    rank = dist.get_rank() % checkpoint.facts["world_size"]
    states = torch.load(Path(checkpoint.directory, f"random-{rank}.pt"), weights_only=False, map_location="cpu")
    for name, buffer in module.named_buffers():  # the universal checkpoint leaves them out
        buffer.copy_(states["buffers"][name])
    _restore_random(states)


def _read(engine: Engine, directory: str, tag: str) -> None:
    path = None  # also DeepSpeed's silent way to say that it found nothing
    if Path(directory, tag).is_dir():  # it would not say which folder is not there
        path, _ = engine.deepspeed.load_checkpoint(directory, tag=tag, load_lr_scheduler_states=False)
    if path is None:
        raise FileNotFoundError(f"{directory}: DeepSpeed finds no checkpoint {tag!r} in it")


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
