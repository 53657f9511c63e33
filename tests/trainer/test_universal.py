"""A universal checkpoint: what making one takes, beside what is planned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from tests.trainer.test_placing import Likelihood
from tests.trainer.worlds import together
from trainer import universal
from trainer.checkpoint import TAG, UNIVERSAL
from trainer.engine import Engine, Optimization, TrainRun, settling
from trainer.model.config import ModelConfig
from trainer.model.transformer import Transformer
from trainer.planning import conversion_bytes, count_parameters

SMALL = ModelConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4).resolved(512)
LARGE = ModelConfig(hidden_size=512, num_hidden_layers=8, num_attention_heads=8).resolved(4096)


@contextmanager
def most(read: Callable[[], int]) -> Iterator[list[int]]:
    """The largest of what `read` says, again and again meanwhile."""
    found, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            with suppress(FileNotFoundError, psutil.NoSuchProcess):  # gone while it is looked at
                found[0] = max(found[0], read())

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield found
    finally:
        done.set()
        watch.join()


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def in_memory() -> int:
    """Of the processes that this one has started: each page once."""
    return sum(process.memory_full_info().pss for process in psutil.Process().children(recursive=True))


def converted(directory: str, config: ModelConfig, zero: int) -> tuple[int, int]:
    """Bytes of disk that the conversion of a checkpoint of these ranks takes at most, and of memory beside the ranks."""
    settings, run = Optimization(), TrainRun(zero=zero)
    model = Transformer(config, 1, settling(settings, run, torch.device("cpu")))
    engine = Engine(Likelihood(model), settings, run, 10)
    whole = Likelihood(Transformer(config, seed=None))  # on no device: the shapes that will be read
    engine.backward(engine.forward(torch.arange(32).view(2, 16)))
    engine.step(0)
    source, target = Path(directory, f"{zero}-{config.hidden_size}"), Path(directory, f"to-{zero}-{config.hidden_size}")
    for folder in (source / TAG, target):
        folder.mkdir(parents=True, exist_ok=True)
    for path, content in engine.snapshot(str(source), TAG).items():
        Path(path).write_bytes(content.getbuffer())
    dist.barrier()
    with most(lambda: on_disk(target)) as disk, most(in_memory) as memory:
        universal.convert(source / TAG, target / UNIVERSAL, (zero, 2), dict(whole.named_parameters()))
    return disk[0], memory[0]


def cases(directory: str) -> dict[int, list[tuple[int, int]]]:
    return {zero: [converted(directory, config, zero) for config in (SMALL, LARGE)] for zero in (1, 3)}


@pytest.mark.proof
def test_a_conversion_takes_what_the_plan_says(tmp_path: Path) -> None:
    found = together(2, tmp_path, cases, str(tmp_path))[0]
    small, large = (conversion_bytes(count_parameters(config), 2, "fp32") for config in (SMALL, LARGE))
    for zero, least in ((1, 0.9), (3, 0.6)):  # of stage 3 DeepSpeed's tool reads no weights
        (disk, memory), (more_disk, more_memory) = found[zero]
        assert more_disk - disk == pytest.approx(large["disk_bytes"] - small["disk_bytes"], rel=0.1), zero
        assert least < (more_memory - memory) / (large["memory_bytes"] - small["memory_bytes"]) < 1.1, zero
