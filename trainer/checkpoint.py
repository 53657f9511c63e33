"""Checkpoints of a training: every rank writes its part, and the record that makes them complete comes last.

DeepSpeed writes weights and optimizer states. Random states go into a file for each rank, since DeepSpeed saves none. What
the loop itself remembers travels in the record's facts.

A checkpoint's files are cut for a number of ranks and a ZeRO stage. Other ranks load it through DeepSpeed's universal checkpoint:
rank 0 converts it into one file for each state of each parameter, of which every rank reads its part.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipeline.stage import Checkpoint, Trajectory, UserError
from trainer.engine import Engine

TORCH_CANNOT_WRITE = ("PytorchStreamWriter failed", "unexpected pos")  # how torch puts that a disk is full
TAG, UNIVERSAL = "state", "universal"


def save(engine: Engine, trajectory: Trajectory, step: int, facts: Mapping[str, Any], keep: Sequence[int] = ()) -> None:
    """Save after `step` steps; called by every rank with the same arguments. `keep` names steps to keep beside the newest.

    UserError where it cannot be written, above all for want of room: the checkpoint before is as it was.
    """
    directory = trajectory.begin(step)
    states = {**_random_states(), "buffers": dict(engine.deepspeed.module.named_buffers())}
    try:
        engine.deepspeed.save_checkpoint(directory, tag=TAG, save_latest=False)
        torch.save(states, Path(directory, f"random-{dist.get_rank()}.pt"))
        dist.barrier()
        if dist.get_rank() == 0:
            trajectory.commit(step, facts, keep)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in TORCH_CANNOT_WRITE):
            raise
        free = shutil.disk_usage(directory).free
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "a file is cut short"
        raise UserError(
            f"{directory}: the checkpoint of step {step} cannot be written: {reason}, {free / 1e9:.1f} GB are free; make room and run the "
            "same command, which goes on from the checkpoint before"
        ) from error
    dist.barrier()


def form(world: int, zero: int) -> dict[str, int]:
    """The facts of a checkpoint that say what its files are cut for."""
    return {"world_size": world, "zero": zero}


def loadable(found: Mapping[str, int], wanted: Mapping[str, int]) -> bool:
    """Whether ranks of one form can load a checkpoint of another. Stages 1 and 2 shard alike; 0 and 3 are read by themselves."""
    stages = {found["zero"], wanted["zero"]}
    return len(stages) == 1 or stages == {1, 2}


def load(engine: Engine, checkpoint: Checkpoint, trajectory: Trajectory, wanted: Mapping[str, int]) -> None:
    """Put the engine and this rank's random numbers back to where `save` was called; called by every rank. `wanted`: their form.

    Of ranks that are more than there were, each takes the random numbers of one that was.
    """
    saved = checkpoint.facts
    if saved["zero"] == 0 or all(saved[name] == value for name, value in wanted.items()):
        _read(engine, checkpoint.directory, TAG)
    else:
        directory = Path(trajectory.scratch())
        _converted(Path(checkpoint.directory, TAG), directory / UNIVERSAL)
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


def _converted(source: Path, target: Path) -> None:
    """Make the universal checkpoint `target` of `source`; what that takes of disk and memory, `trainer.planning` says. The other ranks
    wait for its last file, since that may take longer than a collective may."""
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
            raise RuntimeError(f"{source}: DeepSpeed cannot convert it: {done.stdout[-2_000:]}")
        last.touch()
        return
    dist.barrier()
    while not last.exists():
        time.sleep(0.1)


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
