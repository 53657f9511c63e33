"""Leases: exclusive, taken over at once from a dead local owner, and from a silent one only after the lease time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline import lease as lease_module
from pipeline.lease import Fence, LeaseLost, acquire, holder, living, newest_epoch, this_process


def pretend(folder: Path, owner: lease_module.Owner, epoch: int = 1) -> None:
    """The lease of another driver, as it would have written it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"lease-{epoch}.json").write_text(json.dumps(asdict(owner)))


def test_only_one_of_many_takes_the_lease(tmp_path: Path) -> None:
    taken = []
    threads = [threading.Thread(target=lambda: taken.append(acquire(tmp_path / "a"))) for _ in range(4)]
    for thread in threads:
        thread.daemon = True
        thread.start()
    time.sleep(1)
    assert [one.epoch for one in taken] == [1]
    for epoch in (1, 2, 3, 4):
        deadline = time.monotonic() + 10
        while len(taken) < epoch and time.monotonic() < deadline:
            time.sleep(0.02)
        taken[epoch - 1].release()
    assert sorted(one.epoch for one in taken) == [1, 2, 3, 4]


def test_a_newer_epoch_closes_the_older_fence(tmp_path: Path) -> None:
    first = acquire(tmp_path)
    first.fence.check()
    first.release()
    second = acquire(tmp_path)
    with pytest.raises(LeaseLost, match="taken over by process"):
        first.fence.check()
    second.fence.check()
    second.release()


def test_a_dead_owner_of_this_host_is_replaced_at_once(tmp_path: Path) -> None:
    code = "import sys, pathlib, pipeline.lease as l; l.acquire(pathlib.Path(sys.argv[1])); print('held', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    assert holder(tmp_path) is not None
    process.kill()
    assert holder(tmp_path) is None or process.wait() is not None  # a zombie is dead, too
    process.wait()
    begun = time.monotonic()
    acquire(tmp_path).release()
    assert time.monotonic() - begun < 1


def test_a_process_that_only_shares_the_number_of_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    pretend(tmp_path, replace(this_process(), started="1"))
    assert holder(tmp_path) is None


def test_a_silent_foreign_owner_is_replaced_after_the_lease_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "LEASE_S", 0.6)
    pretend(tmp_path, replace(this_process(), place="another boot", host="elsewhere"))
    told = []
    begun = time.monotonic()
    taken = acquire(tmp_path, told.append)
    assert 0.5 < time.monotonic() - begun < 5
    assert [owner.host for owner in told] == ["elsewhere"]
    assert taken.epoch == 2
    taken.release()


def test_a_foreign_owner_whose_counter_moves_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "LEASE_S", 0.6)
    pretend(tmp_path, replace(this_process(), place="another boot"))
    taken: list[lease_module.Lease] = []
    waiter = threading.Thread(target=lambda: taken.append(acquire(tmp_path)), daemon=True)
    waiter.start()
    for count in range(10):
        (tmp_path / "beat-1.json").write_text(str(count))
        time.sleep(0.2)
        assert not taken
    (tmp_path / "beat-1.json").write_text("released")
    waiter.join(timeout=5)
    assert taken and taken[0].epoch == 2
    taken[0].release()


def test_a_damaged_lease_is_nobodys(tmp_path: Path) -> None:
    for text in ("", "{}", '{"cut'):
        (tmp_path / "lease-1.json").write_text(text)
        assert holder(tmp_path) is None
    acquire(tmp_path).release()


def test_only_who_shows_a_beat_is_living(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "LEASE_S", 0.6)
    here, before_the_reboot, elsewhere = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    held = acquire(here)
    for folder in (before_the_reboot, elsewhere):
        pretend(folder, replace(this_process(), place="another boot"))
    assert holder(before_the_reboot) is not None
    beat = threading.Timer(0.3, (elsewhere / "beat-1.json").write_text, ["7"])
    beat.start()
    assert living([here, before_the_reboot, elsewhere]) == [here, elsewhere]
    held.release()
    assert living([here, before_the_reboot]) == []


def test_a_beat_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    held = acquire(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    held.release()
    assert newest_epoch(tmp_path / "b") == 1
    assert not (tmp_path / "a").exists()


def test_a_released_lease_has_no_holder(tmp_path: Path) -> None:
    held = acquire(tmp_path)
    owner = holder(tmp_path)
    assert owner is not None and owner.pid == os.getpid()
    held.release()
    assert holder(tmp_path) is None
    assert newest_epoch(tmp_path) == 1


def test_a_fence_travels_to_other_processes(tmp_path: Path) -> None:
    import pickle

    held = acquire(tmp_path)
    fence: Fence = pickle.loads(pickle.dumps(held.fence))
    fence.check()
    held.release()
