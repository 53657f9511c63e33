"""Checkpoints of other ranks or another ZeRO stage, through DeepSpeed's universal checkpoint: a folder for each parameter, in it a file for
each of its states, of which every rank reads its part.

DeepSpeed's own tool makes it out of what stages 1 to 3 have written. What each stage then misses in another's is added here, and stage 0,
which the tool leaves out, is written and read here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.stage import UserError
from trainer.engine import Engine, dimensions

FULL = 1 << 20  # bytes: a disk with less is
NO_ROOM = ("No space left", "Disk quota exceeded", "File too large", "PytorchStreamWriter failed", "iostream error")
MOMENTS = ("exp_avg", "exp_avg_sq")
WHOLE, SHARDED = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"  # of stages 0 to 2, of stage 3


def convert(source: Path, target: Path, stages: tuple[int, int], parameters: Mapping[str, Tensor]) -> None:
    """Make the universal checkpoint `target` of `source`; `trainer.planning` says what that takes of disk and memory. Called by every
    rank: the others wait for its last file, since it may take longer than a collective may. `stages`: from which to which; `parameters`:
    of the engine that will read it."""
    last = target.with_suffix(".done")
    if dist.get_rank() == 0:
        shutil.rmtree(target, ignore_errors=True)
        last.unlink(missing_ok=True)
        dist.barrier()
        try:
            _write(source, target, stages, parameters)
        except (OSError, RuntimeError) as error:
            free = shutil.disk_usage(target.parent).free
            shutil.rmtree(target.parent)
            if free < FULL or any(words in str(error) for words in NO_ROOM):
                raise UserError(
                    f"{source}: no room to convert it for these ranks, {free / 1e9:.1f} GB are free; make room (`crawl2chat plan` says "
                    "how much it takes) and run the same command, or go on with the ranks and the ZeRO stage it was saved by"
                ) from None
            raise
        last.touch()
        return
    dist.barrier()
    while not last.exists():
        time.sleep(0.1)


def read_whole(engine: Engine, universal: Path) -> None:
    """Put a universal checkpoint into an engine of stage 0, where every rank holds everything."""
    states = engine.deepspeed.optimizer.state
    for name, parameter in engine.deepspeed.module.named_parameters():
        read = {part: _load(universal / "zero" / name / f"{part}.pt") for part in ("fp32", *MOMENTS, "step")}
        parameter.data.copy_(read["fp32"]["param"])
        moments = {part: read[part]["param"].to(parameter.device) for part in MOMENTS}
        states[parameter] = {"step": read["step"].to(parameter.device), **moments}


def _write(source: Path, target: Path, stages: tuple[int, int], parameters: Mapping[str, Tensor]) -> None:
    before, after = stages
    if before == 0:
        _of_stage_zero(source, target, parameters)
    else:
        _of_shards(source, target)
    if before < 3 and after == 3:
        _for_stage_three(target)
    elif before == 3 and after < 3:
        _of_stage_three(target, parameters)


def _of_shards(source: Path, target: Path) -> None:
    # in the folder itself, since DeepSpeed reads paths as regular expressions; in a process, since it prints
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", "source", "--output_folder", target.name, "--num_extract_workers", "1", "--num_merge_workers", "1"]
    link = target.with_name("source")
    link.unlink(missing_ok=True)
    link.symlink_to(source)
    done = subprocess.run(command, cwd=target.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{source}: DeepSpeed cannot convert it: {done.stdout[-2_000:]}")


def _of_stage_zero(source: Path, universal: Path, parameters: Mapping[str, Tensor]) -> None:
    """Stage 0 has one file, with the optimizer's states by number: those of matrices first, as the engine groups them."""
    import deepspeed

    saved = _load(source / WHOLE)
    optimizer = saved["optimizer"]
    groups = [[name for name, parameter in parameters.items() if (dimensions(parameter) > 1) is matrices] for matrices in (True, False)]
    for number, name in enumerate(name for group in groups for name in group):
        folder, state = universal / "zero" / name, optimizer["state"][number]
        folder.mkdir(parents=True)
        for part, tensor in (("fp32", saved["module"][name]), *((moment, state[moment]) for moment in MOMENTS)):
            torch.save({"param": tensor}, folder / f"{part}.pt")
        torch.save(state["step"], folder / "step.pt")
    torch.save({"ds_version": deepspeed.__version__, "param_groups": optimizer["param_groups"]}, universal / "zero" / "optimizer_state.pt")
    (universal / WHOLE).symlink_to(source / WHOLE)


def _for_stage_three(universal: Path) -> None:
    """Let stage 3 read what was not made from it: it looks for the count of steps elsewhere."""
    path = universal / "zero" / "optimizer_state.pt"
    common, step = _load(path), _load(next(universal.glob("zero/*/step.pt")))
    torch.save({**common, "optimizer_state_dict": {"state": {0: {"step": step}}, "param_groups": common["param_groups"]}}, path)
    (universal / SHARDED).symlink_to(WHOLE)


def _of_stage_three(universal: Path, parameters: Mapping[str, Tensor]) -> None:
    """Let the others read what was made from stage 3: they want shapes, and the count of steps with each parameter."""
    import deepspeed

    path = universal / "zero" / "optimizer_state.pt"
    common = _load(path)
    torch.save({**common, "ds_version": deepspeed.__version__}, path)
    for name, parameter in parameters.items():
        folder = universal / "zero" / name
        for state in ("fp32", *MOMENTS):
            torch.save({"param": _load(folder / f"{state}.pt").view(parameter.shape)}, folder / f"{state}.pt")
        torch.save(common["optimizer_state_dict"]["state"][0]["step"], folder / "step.pt")
    (universal / WHOLE).symlink_to(SHARDED)


def _load(path: Path) -> Any:
    return torch.load(path, weights_only=False, map_location="cpu")
