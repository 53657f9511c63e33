"""Checkpoints of a training: every rank writes its part, and the record that makes them complete comes last.

DeepSpeed writes weights and optimizer states. Random states go into a file for each rank, since DeepSpeed saves none. What
the loop itself remembers travels in the record's facts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipeline.stage import Checkpoint, Trajectory
from trainer.engine import Engine

TAG = "state"


def save(engine: Engine, trajectory: Trajectory, step: int, facts: Mapping[str, Any], keep: Sequence[int] = ()) -> None:
    """Save after `step` steps; called by every rank with the same arguments. `keep` names steps to keep beside the newest."""
    directory = trajectory.begin(step)
    engine.deepspeed.save_checkpoint(directory, tag=TAG, save_latest=False)
    torch.save(_random_states(), Path(directory, f"random-{dist.get_rank()}.pt"))
    dist.barrier()
    if dist.get_rank() == 0:
        trajectory.commit(step, facts, keep)
    dist.barrier()


def load(engine: Engine, checkpoint: Checkpoint) -> None:
    """Put the engine and this rank's random numbers back to where `save` was called."""
    path, _ = engine.deepspeed.load_checkpoint(checkpoint.directory, tag=TAG, load_lr_scheduler_states=False)
    if path is None:  # DeepSpeed's silent way to say that it found nothing
        raise FileNotFoundError(f"{checkpoint.directory}: DeepSpeed finds no checkpoint {TAG!r} in it")
    _restore_random(torch.load(Path(checkpoint.directory, f"random-{dist.get_rank()}.pt"), weights_only=False))


def find(trajectory: Trajectory, accept: Callable[[Checkpoint], bool]) -> Checkpoint | None:
    """The newest whole checkpoint that rank 0 accepts, the same one on every rank."""
    found = [trajectory.latest(accept) if dist.get_rank() == 0 else None]
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
