"""Checkpoints: complete only with their record, hashed, pooled by training, each driver writing under its own name."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.lease import Fence, LeaseLost, this_process
from pipeline.reference import composed
from pipeline.runner import trajectory_key
from pipeline.states import Survey
from pipeline.store import Store
from pipeline.trajectory import Trajectory


def trajectory(folder: Path, fingerprint: str = "aa", epoch: int = 1) -> Trajectory:
    lease = folder / f"lease-of-{fingerprint}"
    lease.mkdir(exist_ok=True, parents=True)
    (lease / f"lease-{epoch}.json").write_text(json.dumps(asdict(this_process())))
    return Trajectory(str(folder / "steps"), fingerprint, Fence(str(lease), epoch))


def save(one: Trajectory, step: int, text: str = "weights", **kept: tuple[int, ...]) -> Path:
    folder = Path(one.begin(step))
    (folder / "rank").mkdir()
    (folder / "rank" / "state.bin").write_text(f"{text} {step}")
    one.commit(step, {"world_size": 2}, **kept)
    return folder


def test_the_newest_complete_checkpoint_is_found_with_its_facts(tmp_path: Path) -> None:
    one = trajectory(tmp_path)
    assert one.latest() is None
    save(one, 5)
    save(one, 10)
    Path(one.begin(15), "state.bin").write_text("cut before its record")
    found = one.latest()
    assert found is not None
    assert (found.step, found.facts) == (10, {"world_size": 2})


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    one = trajectory(tmp_path)
    save(one, 5)
    damaged = save(one, 10)
    (damaged / "rank" / "state.bin").write_text("weights 11")
    found = one.latest()
    assert found is not None and found.step == 5


def test_a_damaged_checkpoint_that_is_reached_again_is_replaced(tmp_path: Path) -> None:
    one = trajectory(tmp_path)
    save(one, 5)
    damaged = save(one, 10)
    (damaged / "rank" / "state.bin").write_text("weights 11")
    Path(one.begin(10), "rank", "state.bin").write_text("without the samples that were skipped on the way")
    one.commit(10, {"world_size": 3})
    found = one.latest()
    assert found is not None and (found.step, found.facts) == (10, {"world_size": 3})


def test_checkpoints_of_another_run_of_the_same_training_are_read(tmp_path: Path) -> None:
    save(trajectory(tmp_path, "aa"), 10)
    found = trajectory(tmp_path, "bb").latest(lambda checkpoint: checkpoint.step <= 20)
    assert found is not None and found.step == 10
    assert trajectory(tmp_path, "bb").latest(lambda checkpoint: checkpoint.step <= 9) is None


def test_the_last_two_and_the_kept_ones_stay(tmp_path: Path) -> None:
    one = trajectory(tmp_path)
    for step in (1, 2, 3, 4, 5):
        save(one, step, keep=(2,))
    assert [checkpoint.step for checkpoint in one.complete()] == [5, 4, 2]


def test_what_is_saved_stays_though_an_earlier_launch_came_further(tmp_path: Path) -> None:
    for step in (50, 55):
        save(trajectory(tmp_path, epoch=1), step)
    later = trajectory(tmp_path, epoch=2)
    for step in (5, 10, 15):
        save(later, step)
    assert [checkpoint.step for checkpoint in later.complete()] == [55, 50, 15, 10]
    save(later, 60)
    assert [checkpoint.step for checkpoint in later.complete()] == [60, 55]


@pytest.mark.parametrize(
    ("old", "new"),
    [('"world_size": 2', '"world_size": 1'), ("state.bin", "other.bin"), ("\n", ""), ("{", "[")],
    ids=["a fact", "a file's name", "its lines", "its kind"],
)
def test_a_record_that_was_edited_is_passed_over_by_name(tmp_path: Path, old: str, new: str) -> None:
    one = trajectory(tmp_path)
    save(one, 5)
    damaged = save(one, 10)
    written = (damaged / "COMPLETE").read_text()
    assert old in written
    (damaged / "COMPLETE").write_text(written.replace(old, new))
    told: list[str] = []
    found = one.latest(tell=told.append)
    assert found is not None and found.step == 5
    assert told == [f"{damaged}/COMPLETE: not the record that was written"]
    save(one, 15)


@pytest.mark.parametrize("name", ["step-10.aa.1.bak", "step-10-old", "step-x.aa.1"])
def test_a_folder_only_called_like_a_checkpoint_is_told_once_and_left_alone(tmp_path: Path, name: str) -> None:
    one = trajectory(tmp_path)
    save(one, 5)
    saved = save(one, 10)
    copy = saved.with_name(name)
    shutil.copytree(saved, copy)
    unfinished = saved.with_name("scratch.aa.1.bak")
    unfinished.mkdir()
    told: list[str] = []
    found = one.latest(tell=told.append)
    assert found is not None and found.directory == str(saved)
    assert told == [f"{copy}: not the name of a checkpoint; it is left alone"]
    save(one, 15)
    (copy / "COMPLETE").unlink()
    trajectory(tmp_path, epoch=2).sweep()
    assert (copy / "rank" / "state.bin").exists() and unfinished.exists()


def test_a_copy_under_another_steps_name_is_passed_over_and_no_other_gives_way_to_it(tmp_path: Path) -> None:
    one = trajectory(tmp_path)
    save(one, 5)
    saved = save(one, 10)
    copy = saved.with_name("step-20.aa.1")
    shutil.copytree(saved, copy)
    told: list[str] = []
    found = one.latest(tell=told.append)
    assert found is not None and found.directory == str(saved)
    assert told == [f"{copy}/COMPLETE: the record of step 10; give the folder back the name it was saved under"]
    save(one, 30)
    assert [checkpoint.step for checkpoint in one.complete()] == [30, 10] and copy.exists()


@pytest.mark.parametrize("name", ["notes.txt", "rank/notes.txt", "rank/COMPLETE"])
def test_a_checkpoint_with_a_file_that_was_not_saved_gives_way_by_name(tmp_path: Path, name: str) -> None:
    one = trajectory(tmp_path)
    save(one, 5)
    damaged = save(one, 10)
    (damaged / name).write_text("of another hand")
    told: list[str] = []
    found = one.latest(tell=told.append)
    assert found is not None and found.step == 5
    assert told == [f"{damaged / name}: not listed in COMPLETE; remove it"]


def test_a_hidden_file_beside_the_record_is_no_damage(tmp_path: Path) -> None:
    one = trajectory(tmp_path)
    Path(save(one, 10), ".DS_Store").write_text("a desktop's")
    found = one.latest()
    assert found is not None and found.step == 10


def test_a_driver_that_lost_its_lease_completes_nothing(tmp_path: Path) -> None:
    one = trajectory(tmp_path, epoch=1)
    folder = Path(one.begin(5))
    (folder / "state.bin").write_text("late")
    trajectory(tmp_path, epoch=2)
    with pytest.raises(LeaseLost):
        one.commit(5, {})
    assert one.latest() is None


def test_a_sweep_removes_what_this_and_older_epochs_left_unfinished_and_no_more(tmp_path: Path) -> None:
    complete = save(trajectory(tmp_path, epoch=1), 5)
    cut = Path(trajectory(tmp_path, epoch=1).begin(10))
    other = Path(trajectory(tmp_path, "bb", epoch=1).begin(10))
    newer, newest = trajectory(tmp_path, epoch=2), Path(trajectory(tmp_path, epoch=3).begin(15))
    own = Path(newer.begin(15))
    newer.sweep()
    assert complete.exists() and other.exists() and newest.exists() and not cut.exists() and not own.exists()


def test_a_training_that_only_goes_on_longer_shares_its_checkpoints(tmp_path: Path) -> None:
    def keys(*overrides: str) -> list[str]:
        config = load(*composed("demo", *overrides, f"++root={tmp_path}"))
        statuses = Survey(config, Store(config.root), hash_sources=True).statuses
        return [trajectory_key(statuses[name].spec or {}, config.nodes[name].stage.extendable) for name in ("pretrain", "dpo")]

    pretrain, dpo = keys()
    assert keys("pretrain.max_steps=500")[0] == pretrain
    assert len({pretrain, *(keys(other)[0] for other in ("pretrain.lr=1e-4", "++pretrain.seed=1", "tokenizer.vocab_size=512"))}) == 4
    assert keys("++dpo.max_steps=7")[1] != dpo  # another length is another training


def test_a_forced_training_sees_no_checkpoint_but_its_own(tmp_path: Path) -> None:
    save(trajectory(tmp_path, epoch=1), 5)
    forced = replace(trajectory(tmp_path, epoch=2), alone=True)
    assert forced.latest() is None
    save(forced, 3)
    found = forced.latest()
    assert found is not None and found.step == 3
