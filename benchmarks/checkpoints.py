"""How long a training stands still for a checkpoint, and what the steps meanwhile lose by its being written.

    python -m benchmarks.checkpoints [--zero 1] [--checkpoints 8] [--every 8]

Two ranks of one thread train one model and save it every so many steps; every second checkpoint is waited for, as if it were written
at once. Given are medians over the checkpoints of each kind. `lost` is what a checkpoint costs in all: the seconds from its beginning
to the next one's, less as many median steps of the whole training.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from pipeline.progress import Progress
from tests.trainer.worlds import VOCABULARY, pretraining, together, trajectory
from trainer import loop
from trainer.engine import Optimization, TrainRun
from trainer.model.config import ModelConfig
from trainer.model.transformer import Transformer
from trainer.planning import count_parameters

MODEL = ModelConfig(hidden_size=640, num_hidden_layers=11, num_attention_heads=10, num_key_value_heads=5)
Found = tuple[list[float], list[float], list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zero", type=int, default=1)
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--every", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        pretraining(directory)
        steps, stood, lost = together(2, directory, measured, directory, given.zero, given.checkpoints, given.every)[0]
    parameters = count_parameters(MODEL.resolved(VOCABULARY)).exact
    print(f"{parameters / 1e6:.1f} M parameters, two ranks at ZeRO {given.zero}, median step {statistics.median(steps):.2f} s")
    print(f"{'':<22}{'stands still, s':>16}{'lost, s':>10}")
    for name, first in (("written behind it", 0), ("waited for", 1)):
        print(f"{name:<22}{statistics.median(stood[first::2]):>16.2f}{statistics.median(lost[first::2]):>10.2f}")


def measured(directory: Path, zero: int, checkpoints: int, every: int) -> Found:
    """Seconds of each step; seconds that each checkpoint stopped the training and that it took from it, all but the last one's."""
    steps: list[float] = []
    stood: list[float] = []
    begun: list[float] = []

    def timed(function: Callable[..., Any], told: list[float]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.monotonic()
            found = function(*arguments)
            told.append(time.monotonic() - start)
            return found

        return call

    def save(self: loop._Loop, done: int) -> None:
        begun.append(time.monotonic())
        original(self, done)
        if len(begun) % 2 == 0:
            self.saver.finish()

    original = loop._Loop.save
    run = TrainRun(zero=zero, checkpoint_every=every)
    task = pretraining(directory, rows_per_step=16, validation_tokens=0)
    with patch.object(loop._Loop, "save", timed(save, stood)), patch.object(loop._Loop, "step", timed(loop._Loop.step, steps)):
        loop.train(
            Transformer(MODEL.resolved(VOCABULARY), seed=0), task, loop.Plan(every * checkpoints, 10**9),
            Optimization(lr=1e-4, warmup_steps=1, schedule="constant"), run, device=torch.device("cpu"), inputs={},
            trajectory=trajectory(directory), progress=Progress(str(directory / "told.jsonl"), "benchmark"),
        )  # fmt: skip
    quiet = statistics.median(steps)
    lost = [later - earlier - every * quiet for earlier, later in pairwise(begun)]
    return steps, stood[:-1], lost


if __name__ == "__main__":
    main()
