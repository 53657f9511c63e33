"""Trainings killed anywhere and run again end with the bytes of an uninterrupted run."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from pathlib import Path

import pytest

from tests.drive import LIMIT_S, Toy, run_with_kills

Published = dict[str, list[tuple[str, str]]]
ALONE = [f"{stage}.run.workers=0" for stage in ("pretrain", "sft", "dpo", "grpo")]


class Tiny(Toy):
    """The demo at its smallest, with a Ray of its own where it needs one."""

    def command(self, *arguments: str) -> list[str]:
        command = super().command(*arguments)
        return [part for part in command if not part.startswith(("hydra.searchpath", "source.pages"))]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose data stages are done."""
    folder = tmp_path_factory.mktemp("prepared")
    Tiny(folder, recipe="tiny").run("target=tokenize")
    return folder


def fresh(prepared: Path, folder: Path) -> Tiny:
    shutil.copytree(prepared, folder, symlinks=True)
    return Tiny(folder, recipe="tiny")


def of_training(toy: Toy, *arguments: str) -> Published:
    published = toy.published(*arguments)
    return {stage: published[stage] for stage in ("pretrain", "sft", "dpo", "grpo", "evaluate") if stage in published}


def test_a_training_killed_at_some_steps_ends_with_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    whole = fresh(prepared, tmp_path / "whole")
    whole.run("target=pretrain", *ALONE)
    killed = fresh(prepared, tmp_path / "killed")
    assert run_with_kills(killed, 2, 0, "target=pretrain", *ALONE) == 2
    assert pretrained(killed, *ALONE) == pretrained(whole, *ALONE)


@pytest.mark.proof
def test_twenty_kills_over_all_training_stages_leave_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    whole = fresh(prepared, tmp_path / "whole")
    whole.run()
    taken = 0
    for chain in itertools.count():
        killed = fresh(prepared, tmp_path / f"killed-{chain}")
        taken += run_with_kills(killed, 20 - taken, chain)
        assert of_training(killed) == of_training(whole)
        killed.run("verify")
        if taken == 20:
            break
    print(f"{taken} kills in {chain + 1} runs: the same bytes")


def reached(toy: Toy) -> int:
    """The last step of pretraining that was told."""
    lines = [line for path in toy.root.glob("runs/*/events.jsonl") for line in path.read_text().splitlines(keepends=True)]
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return max((event["done"] for event in events if event["event"] == "progress" and event["stage"] == "pretrain"), default=0)


@pytest.mark.parametrize(
    "ranks", [pytest.param(("pretrain.run.workers=0",), id="alone"), pytest.param((), id="two ranks", marks=pytest.mark.proof)]
)
def test_a_request_to_end_leaves_a_checkpoint_from_which_the_same_command_goes_on(
    prepared: Path, tmp_path: Path, ranks: tuple[str, ...]
) -> None:
    arguments = ("target=pretrain", "pretrain.max_steps=120", "pretrain.run.checkpoint_every=1000", *ranks)
    whole = fresh(prepared, tmp_path / "whole")
    whole.run(*arguments)
    asked = fresh(prepared, tmp_path / "asked")
    process = asked.start(*arguments)
    while reached(asked) < 7:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.terminate()
    _, error = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 143 and "to go on: crawl2chat" in error
    [complete] = asked.root.glob("store/pretrain/trajectories/*/step-*/COMPLETE")
    step = int(complete.parent.name.partition(".")[0].removeprefix("step-"))
    assert 7 <= step < 120
    asked.run(*arguments)
    assert pretrained(asked, *arguments[1:]) == pretrained(whole, *arguments[1:])
    assert not list(asked.root.glob("store/pretrain/trajectories/*/stop.*"))


def crash_at(toy: Toy, k: int, *arguments: str) -> bool:
    """End the driver and the process at operation k on the trajectory's folder; False where there is none."""
    counter, driver = toy.folder / "operations", toy.folder / "driver"
    counter.touch()
    process = toy.start(
        *arguments,
        CRAWL2CHAT_STORE_OBSERVER="tests.crash:observe",
        CRAWL2CHAT_CRASH_COUNTER=str(counter),
        CRAWL2CHAT_CRASH_AT=str(k),
        CRAWL2CHAT_CRASH_DRIVER=str(driver),
        CRAWL2CHAT_CRASH_UNDER="/trajectories/",
    )
    driver.write_text(str(process.pid))
    _, error = process.communicate(timeout=LIMIT_S)
    assert process.returncode in (0, -9), error
    return process.returncode == -9


def pretrained(toy: Toy, *arguments: str) -> dict[str, str]:
    return {file["name"]: file["sha256"] for file in toy.manifest("pretrain", *arguments)["files"]}


def test_a_kill_at_some_of_a_ranks_store_operations_leaves_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    arguments = ("target=pretrain", *ALONE)
    whole = fresh(prepared, tmp_path / "whole")
    whole.run(*arguments)
    for k in (2, 4):
        toy = fresh(prepared, tmp_path / str(k))
        assert crash_at(toy, k, *arguments), f"a training has no operation {k}"
        toy.run(*arguments)
        assert pretrained(toy, *ALONE) == pretrained(whole, *ALONE)


@pytest.mark.proof
def test_a_kill_at_every_store_operation_of_two_ranks_leaves_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    whole = fresh(prepared, tmp_path / "whole")
    whole.run("target=pretrain")
    for k in itertools.count(1):
        toy = fresh(prepared, tmp_path / str(k))
        killed = crash_at(toy, k, "target=pretrain")
        if killed:
            toy.run("target=pretrain")
        assert pretrained(toy) == pretrained(whole), f"killed at operation {k}"
        shutil.rmtree(toy.folder)
        if not killed:
            break
    print(f"{k - 1} store operations of the ranks, a kill at each: the same bytes")
    assert k > 4
