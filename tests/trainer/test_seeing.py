"""What a training shows: numbers of every step, TensorBoard's files, a profile, texts to read."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.progress import Progress
from pipeline.stage import UserError
from tests.trainer.worlds import TINY, VOCABULARY, alone, equal, pretraining, training, trajectory, write_tokenizer
from trainer import seeing
from trainer.engine import Optimization, TrainRun, preflight
from trainer.planning import work_per_token
from trainer.seeing import Seen, peak_flops


def events(directory: Path, name: str, kind: str) -> list[dict[str, Any]]:
    lines = (directory / f"{name}.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_every_step_is_told_with_its_speed_and_what_is_read(tmp_path: Path) -> None:
    alone(lambda: training(tmp_path, pretraining(tmp_path), TrainRun(workers=1), name="told"))
    steps = events(tmp_path, "told", "progress")
    assert [step["done"] for step in steps] == [1, 2, 3, 4, 5, 6]
    for step in steps:
        assert {"loss", "norm", "lr", "tokens_per_second", "memory_gb", "epoch"} <= step.keys() and "mfu" not in step
        assert step["tokens_per_second"] > 0 and step["memory_gb"] > 0.1
    assert [event["done"] for event in events(tmp_path, "told", "validation")] == [0, 3, 6]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_gpu_of_a_known_name_has_a_peak(monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == peak and peak_flops(torch.device("cpu")) is None


def test_utilisation_is_the_flops_of_all_tokens_over_the_peak_of_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeing, "peak_flops", lambda device: 4e9)
    alone(lambda: training(tmp_path, pretraining(tmp_path), TrainRun(workers=1), name="one"))
    flops = work_per_token(TINY.resolved(VOCABULARY), 24).total
    for step in events(tmp_path, "one", "progress"):
        assert step["mfu"] == pytest.approx(step["tokens_per_second"] * flops / 4e9, rel=1e-3, abs=1e-4)
    monkeypatch.setattr(seeing.dist, "get_world_size", lambda: 2)
    seen = Seen(TrainRun(), Progress(str(tmp_path / "two.jsonl"), "test"), str(tmp_path), 9, 3e6, torch.device("cpu"))
    seen.step(1, 2.0, {}, 1000)
    [step] = events(tmp_path, "two", "progress")
    assert (step["tokens_per_second"], step["mfu"]) == (500, 0.1875)  # 500 · 3e6 / (2 · 4e9)


def test_tensorboard_profile_and_texts_are_written_and_change_nothing(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = alone(lambda: training(tmp_path, pretraining(tmp_path), TrainRun(workers=1), name="plain"))
    run = TrainRun(workers=1, tensorboard=True, show_every=3, profile_step=2)
    task = pretraining(tmp_path, tokenizer=str(write_tokenizer(tmp_path)))
    shown = alone(lambda: training(tmp_path, task, run, name="shown"))
    assert equal(plain, shown)
    folder = Path(trajectory(tmp_path, "shown").directory)
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    assert {"train/loss", "train/tokens_per_second", "validation/bits_per_byte"} <= {*board.Tags()["scalars"]}
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in (folder / "profile").iterdir()] == ["step-2-rank-0.json"]
    assert json.loads((folder / "profile" / "step-2-rank-0.json").read_text())["traceEvents"]
    texts = events(tmp_path, "shown", "sample")
    assert [text["done"] for text in texts] == [3, 6] and all(text["text"].count(" -> ") == 3 for text in texts)


def test_one_of_two_ranks_writes_texts_whether_weights_are_sharded_or_not(two_ranks: dict[str, Any]) -> None:
    texts = [[(text["done"], text["text"]) for text in events(two_ranks["directory"], f"shown-{zero}", "sample")] for zero in (1, 3)]
    assert [done for done, _ in texts[0]] == [2, 4, 6] and texts[0] == texts[1]


def test_weights_and_biases_gets_the_numbers_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    plain = alone(lambda: training(tmp_path, pretraining(tmp_path), TrainRun(workers=1), name="plain"))
    shown = alone(lambda: training(tmp_path, pretraining(tmp_path), TrainRun(workers=1, wandb="mine"), name="shown"))
    assert equal(plain, shown)
    [record] = Path(trajectory(tmp_path, "shown").directory).glob("wandb/offline-run-*/*.wandb")
    told = (b"train/loss", b"train/tokens_per_second", b"validation/bits_per_byte")
    until = time.monotonic() + 20  # a process of its own writes them
    while not all(name in record.read_bytes() for name in told):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize("settings", [{"tensorboard": True}, {"wandb": "mine"}], ids=["tensorboard", "wandb"])
def test_what_is_not_installed_is_named_before_anything_starts(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    preflight("pretrain", Optimization(), run := TrainRun(**settings))
    monkeypatch.setattr("trainer.engine.find_spec", lambda package: None)
    [package] = settings
    with pytest.raises(UserError, match=rf'^pretrain\.run\.{package}: it is not installed; pip install "crawl2chat\[{package}\]"$'):
        preflight("pretrain", Optimization(), run)
