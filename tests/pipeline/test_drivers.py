"""Several drivers of one artifact: one builds, a frozen or dead one never spoils it, and what is done is reused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.runs import replace_folder
from tests.drive import Toy

SLOW = "shout.sleep_s=1.5"


@pytest.fixture
def toy(tmp_path: Path, ray_head: str) -> Iterator[Toy]:
    toy = Toy(tmp_path, ray_head)
    toy.write(one="a bee sat in the clover", two="the miller counts his sacks", three="rain fell on the roof")
    yield toy
    for process in toy.started:
        process.kill()
        process.communicate()


def events(toy: Toy) -> list[dict[str, object]]:
    path = toy.root / "runs" / "toy" / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def shouting(toy: Toy) -> bool:
    return any(event["stage"] == "shout" and event["event"] == "progress" for event in events(toy))


def test_a_second_driver_waits_and_uses_what_the_first_built(toy: Toy) -> None:
    first = toy.start(SLOW)
    wait_for(lambda: shouting(toy), first)
    second = toy.run(SLOW)
    assert first.wait(timeout=60) == 0
    assert "is building this; waiting for it" in second.stderr
    starts = [event["stage"] for event in events(toy) if event["event"] == "start"]
    assert sorted(starts) == ["clean", "join", "shout", "vocabulary"]


def test_after_a_kill_the_same_command_goes_on_at_once(toy: Toy) -> None:
    first = toy.start(SLOW)
    wait_for(lambda: shouting(toy), first)
    first.kill()
    first.wait()
    begun = time.monotonic()
    second = toy.run(SLOW)
    assert "waiting for it" not in second.stderr
    assert time.monotonic() - begun < 25
    assert set(toy.states(SLOW).values()) == {"DONE"}


def test_a_frozen_driver_never_publishes(toy: Toy) -> None:
    short = {"CRAWL2CHAT_LEASE_S": "2"}
    frozen = toy.start(SLOW, **short)
    wait_for(lambda: shouting(toy), frozen)
    os.kill(frozen.pid, signal.SIGSTOP)
    toy.run(SLOW, **short)
    path = Path(toy.rows("status", SLOW)["shout"]["path"], "manifest.json")
    published = path.read_bytes()
    os.kill(frozen.pid, signal.SIGCONT)
    _, error = frozen.communicate(timeout=60)
    assert frozen.returncode == 1
    assert "taken over" in error or "swept" in error
    assert path.read_bytes() == published


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_driver_releases_its_lease(toy: Toy, number: signal.Signals, code: int) -> None:
    first = toy.start(SLOW)
    wait_for(lambda: shouting(toy), first)
    first.send_signal(number)
    _, error = first.communicate(timeout=60)
    assert first.returncode == code
    assert "to go on" in error
    assert toy.states(SLOW)["shout"] == "PARTIAL"
    toy.run(SLOW)


def test_two_runs_that_show_the_same_stage_at_once_both_end_well(tmp_path: Path) -> None:
    def show(number: int) -> None:
        for turn in range(100):
            fresh = tmp_path / f"fresh-{number}"
            fresh.mkdir()
            (fresh / "manifest.json").write_text(str(turn))
            replace_folder(fresh, tmp_path / "view")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(show, range(4)))
    assert (tmp_path / "view" / "manifest.json").read_text()


def test_a_late_writer_stops_no_removal(tmp_path: Path) -> None:
    folder = tmp_path / "files-1"
    stop = threading.Event()

    def write() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            with contextlib.suppress(FileNotFoundError):
                (folder / str(count)).write_text("late")

    folder.mkdir()
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            time.sleep(0.005)
            storage.remove_tree(folder)
            assert not folder.exists()
            folder.mkdir()
    finally:
        stop.set()
        writer.join()
