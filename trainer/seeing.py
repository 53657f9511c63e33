"""What a training shows while it runs: every step's numbers to the run's events (and so to the console), and on request to TensorBoard
and Weights & Biases, texts that the model writes, and a profile of some steps. All of it is rank 0's, but for profiles."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from pipeline.stage import UserError

if TYPE_CHECKING:
    from pipeline.stage import Progress
    from trainer.engine import TrainRun

# dense bf16 matrices, FLOP/s, by words of the device's name (the vendors' data sheets)
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of a device in bf16, None where it is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", name)), None)


class Seen:
    """Where the numbers of a training go; of other ranks than 0 nowhere.

    directory  gets `tensorboard/` and `profile/`
    flops      of one token's forward and backward pass
    """

    def __init__(self, run: TrainRun, progress: Progress, directory: str, steps: int, flops: float, device: torch.device) -> None:
        self._run, self._progress, self._directory, self._steps = run, progress, Path(directory), steps
        self._flops, self._device, self._peak = flops, device, peak_flops(device)
        self._first = dist.get_rank() == 0
        self._board = _tensorboard(self._directory / "tensorboard") if self._first and run.tensorboard else None
        self._wandb = _wandb(run.wandb, self._directory) if self._first and run.wandb else None

    def step(self, done: int, seconds: float, values: Mapping[str, float], tokens: float) -> None:
        """After `done` steps, the last of which took `seconds` for `tokens` tokens over all ranks."""
        if not self._first:
            return
        speed: dict[str, float] = {}
        if tokens:
            speed["tokens_per_second"] = round(tokens / seconds, 1)
            if self._peak:
                speed["mfu"] = round(tokens / seconds * self._flops / (self._peak * dist.get_world_size()), 4)
        numbers = {**values, **speed, "memory_gb": round(self._memory() / 1e9, 3)}
        self._progress(done, self._steps, **numbers)
        self._write("train", done, numbers)

    def validation(self, done: int, values: Mapping[str, float]) -> None:
        if self._first and values:
            self._progress.event("validation", done=done, **values, text=", ".join(f"{name} {value:.4g}" for name, value in values.items()))
            self._write("validation", done, values)

    def text(self, done: int, text: str) -> None:
        if self._first and text:
            self._progress.event("sample", done=done, text=text)
            if self._board is not None:
                self._board.add_text("sample", text, done)

    @contextlib.contextmanager
    def profiled(self, step: int) -> Iterator[None]:
        """Around a step: profiled into a Chrome trace, one for each rank, if it is the one that `run.profile_step` names."""
        if step + 1 != self._run.profile_step:
            yield
            return
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device.type == "cuda" else [])]
        with profile(activities=activities) as trace:
            yield
        path = self._directory / "profile" / f"step-{step + 1}-rank-{dist.get_rank()}.json"
        path.parent.mkdir(exist_ok=True)
        trace.export_chrome_trace(str(path))
        if self._first:
            self._progress.event("note", text=f"profile of step {step + 1}: {path.parent} (chrome://tracing, or perfetto)")

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _write(self, group: str, done: int, values: Mapping[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, done)
        if self._wandb is not None:
            self._wandb.log({"step": done, **{f"{group}/{name}": value for name, value in values.items()}})

    def _memory(self) -> float:
        """Bytes: the most that tensors have taken of a GPU, or that this process has of the host."""
        if self._device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self._device))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _tensorboard(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(f'run.tensorboard=true: {error}; pip install "crawl2chat[tensorboard]"') from None
    writer: Any = SummaryWriter
    return writer(str(directory))


def _wandb(project: str, directory: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(f'run.wandb={project}: {error}; pip install "crawl2chat[wandb]"') from None
    run = wandb.init(project=project, dir=str(directory), resume="allow", id=directory.name[:32])
    run.define_metric("*", step_metric="step")  # its own count drops what comes again after going back
    return run
