"""What is computed again, and what is not, when inputs, params or places change."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from pipeline.stage import MapRun, UserError
from tests.drive import Toy


@pytest.fixture
def toy(tmp_path: Path, ray_head: str) -> Toy:
    toy = Toy(tmp_path, ray_head)
    toy.write(one="a bee sat in the clover", two="the miller counts his sacks")
    toy.run()
    return toy


def fingerprints(toy: Toy, *arguments: str) -> dict[str, str]:
    return {stage: row["fingerprint"] for stage, row in toy.rows("plan", *arguments).items()}


def test_another_input_file_computes_one_shard(toy: Toy) -> None:
    toy.write(three="rain fell on the roof")
    toy.run("target=clean")
    assert toy.manifest("clean")["shards"] == {"computed": 1, "reused": 2}


def test_a_removed_and_restored_file_computes_nothing(toy: Toy) -> None:
    (toy.folder / "in" / "two.txt").unlink()
    toy.run("target=clean")
    assert toy.manifest("clean")["shards"] == {"computed": 0, "reused": 1}


def test_a_param_rebuilds_its_stage_and_those_after_it_only(toy: Toy) -> None:
    states = toy.states("shout.mark=?")
    assert states == {"clean": "DONE", "vocabulary": "DONE", "shout": "MISSING", "join": "MISSING"}
    reasons = toy.rows("why", "target=shout", "shout.mark=?")["shout"]["why"]
    assert [reason["text"] for reason in reasons] == ["params.mark: ! → ?"]


def test_why_names_what_changed_however_far_before_a_stage_it_lies(toy: Toy) -> None:
    def reasons(*arguments: str) -> list[str]:
        return [reason["text"] for reason in toy.rows("why", "target=join", *arguments)["join"]["why"]]

    assert reasons("clean.shorter_than=5", "join.separator=_") == [
        "params.separator:   → _",
        "inputs.corpus: clean params.shorter_than: 8 → 5",
    ]
    toy.run("clean.shorter_than=5", "target=shout")  # what leads there is done, and was made of the same
    assert reasons("clean.shorter_than=5") == ["inputs.corpus: clean params.shorter_than: 8 → 5"]
    shout = toy.rows("why", "target=shout", "clean.shorter_than=6", "shout.case=lower")["shout"]["why"]
    assert [(reason["stage"], reason["roles"], reason["what"]) for reason in shout] == [
        ("", [], "params.case"),
        ("clean", ["corpus", "vocabulary"], "params.shorter_than"),
    ]


def test_another_side_input_rebuilds_every_shard(toy: Toy) -> None:
    toy.write(three="rain fell on the roof")
    toy.run()
    assert toy.manifest("shout")["shards"] == {"computed": 3, "reused": 0}


def test_a_pinned_side_input_keeps_the_other_shards(toy: Toy) -> None:
    pin = toy.rows("plan")["vocabulary"]["fingerprint"]
    toy.write(three="rain fell on the roof")
    toy.run(f"vocabulary.pin={pin[:16]}")
    assert toy.manifest("shout", f"vocabulary.pin={pin}")["shards"] == {"computed": 1, "reused": 2}


def test_root_and_run_settings_are_no_identity(toy: Toy, tmp_path: Path) -> None:
    here = fingerprints(toy)
    elsewhere = tmp_path / "moved" / "root"
    shutil.copytree(toy.root, elsewhere, symlinks=True)
    assert fingerprints(toy, f"root={elsewhere}", "clean.run.cpus=2", "clean.run.in_flight=7", "name=other") == here
    assert set(toy.states(f"root={elsewhere}").values()) == {"DONE"}


def test_force_with_the_same_bytes_leaves_what_follows_done(toy: Toy) -> None:
    toy.run("force=[vocabulary]", "target=vocabulary")
    assert set(toy.states().values()) == {"DONE"}


def test_other_bytes_upstream_make_what_follows_stale_and_are_rebuilt(toy: Toy) -> None:
    path = Path(toy.rows("plan")["vocabulary"]["path"], "manifest.json")
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "digest": "0" * 64}))
    states = toy.rows("plan")
    assert {stage: row["state"] for stage, row in states.items()} == {
        "clean": "DONE", "vocabulary": "DONE", "shout": "STALE", "join": "STALE",
    }  # fmt: skip
    for stage, role in (("shout", "vocabulary"), ("join", "corpus")):
        [reason] = states[stage]["why"]
        assert reason["text"].startswith(f"inputs.{role}: vocabulary was built again with other bytes: ")
    toy.run()
    assert set(toy.states().values()) == {"DONE"}
    assert toy.manifest("shout")["inputs"]["vocabulary"]["digest"] == "0" * 64


def test_force_computes_again_what_the_pool_holds(toy: Toy) -> None:
    file = toy.manifest("clean")["files"][0]
    path = toy.root / file["path"]
    whole = path.read_bytes()
    path.write_bytes(b"?" * len(whole))
    toy.run("force=[clean]", "target=clean")
    assert toy.manifest("clean")["shards"] == {"computed": 2, "reused": 0}
    assert path.read_bytes() == whole


def test_what_a_forced_stage_changes_follows_in_the_same_run(toy: Toy) -> None:
    for stage, edit in {"vocabulary": None, "shout": "vocabulary"}.items():  # as if the vocabulary had been another one
        path = Path(toy.rows("plan")[stage]["path"], "manifest.json")
        manifest = json.loads(path.read_text())
        if edit is None:
            manifest["digest"] = "0" * 64
        else:
            manifest["inputs"][edit]["digest"] = "0" * 64
        path.write_text(json.dumps(manifest))
    assert set(toy.states().values()) == {"DONE"}
    toy.run("force=[vocabulary]")
    assert set(toy.states().values()) == {"DONE"}
    assert toy.manifest("shout")["inputs"]["vocabulary"]["digest"] == toy.manifest("vocabulary")["digest"] != "0" * 64


def test_a_stage_that_keeps_nothing_says_why_and_is_done(toy: Toy) -> None:
    said = toy.run("clean.shorter_than=1", "target=clean").stderr
    assert "clean         kept nothing: all 11 records were dropped, most often as too_long (11)\n" in said
    assert toy.manifest("clean", "clean.shorter_than=1")["counts"]["kept"] == 0


def test_no_more_shards_are_in_flight_than_allowed(toy: Toy) -> None:
    toy.run("shout.sleep_s=1.5", "shout.run.in_flight=1", "target=shout")
    events = map(json.loads, (toy.root / "runs" / "toy" / "events.jsonl").read_text().splitlines())
    *_, first, second = [event["time"] for event in events if event["stage"] == "shout" and event["event"] == "progress"]
    assert second - first > 1.4


def test_a_source_that_changes_while_it_is_read_spoils_nothing(toy: Toy) -> None:
    toy.write(three="rain fell on the roof")
    first = toy.start("clean.sleep_s=2", "target=clean")
    events = toy.root / "runs" / "toy" / "events.jsonl"
    known = len(events.read_text().splitlines())
    while "progress" not in "".join(events.read_text().splitlines()[known:]):
        assert first.poll() is None
        time.sleep(0.05)
    toy.write(three="snow fell on the roof")
    _, error = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "three.txt: changed while this run read it" in error
    assert "Traceback" not in error
    toy.write(three="rain fell on the roof")
    toy.run("clean.sleep_s=2", "target=clean")
    files = toy.manifest("clean", "clean.sleep_s=2")["files"]
    assert [(toy.root / file["path"]).read_text().split()[0] for file in files if "three" in file["name"]] == ["rain"]


def test_a_damaged_record_of_the_pool_is_computed_again(toy: Toy) -> None:
    for text, path in zip(("{", "{}"), sorted((toy.root / "store" / "clean" / "shards").glob("*/record.json")), strict=True):
        path.write_text(text)
    toy.write(three="rain fell on the roof")
    toy.run("target=clean")
    assert toy.manifest("clean")["shards"] == {"computed": 3, "reused": 0}


def test_damaged_records_of_the_store_are_one_line_or_do_not_matter(toy: Toy) -> None:
    run = toy.root / "runs" / "toy"
    with open(run / "events.jsonl", "a") as events:
        events.write('{"time": 1, "ev')
    assert set(toy.states().values()) == {"DONE"}
    (run / "plan.json").write_text("{")
    for command in ("ls", "gc"):
        assert toy.run(command, expect=1).stderr.count("\n") == 1
    toy.run()
    toy.run("gc")
    Path(toy.rows("plan")["join"]["path"], "manifest.json").write_text("{}")
    for command in ("ls", "status", "verify", "run"):
        result = toy.run(command, expect=1)
        assert "manifest.json: damaged; remove this file" in result.stderr
        assert result.stdout == "" and result.stderr.count("\n") == 1


def test_a_lost_pool_file_is_found_and_computed_again(toy: Toy) -> None:
    lost = toy.root / toy.manifest("clean")["files"][0]["path"]
    before = lost.read_bytes()
    lost.unlink()
    assert "damaged" in toy.run("verify", expect=1).stderr
    toy.run("force=[clean]")
    assert lost.read_bytes() == before
    toy.run("verify")


def test_a_bad_shard_stops_no_other_and_is_named(toy: Toy) -> None:
    result = toy.run("shout.fail_on=miller", expect=1)
    assert "shout: 1 of 2 shards failed: two (two: holds 'miller'; remove it)" in result.stderr
    assert "to go on from what is finished" in result.stderr
    assert "Traceback" not in result.stderr
    row = toy.rows("status", "shout.fail_on=miller")["shout"]
    assert row["state"] == "FAILED"
    toy.write(two="the baker counts his sacks")
    toy.run("shout.fail_on=miller", "target=shout")


@pytest.mark.parametrize(("refusal", "tries"), [("ENOSPC", 1), ("EIO", 3)])
def test_only_a_refusal_that_may_pass_is_tried_again(toy: Toy, tmp_path: Path, refusal: str, tries: int) -> None:
    attempts = tmp_path / "attempts"
    (toy.folder / "in" / "two.txt").unlink()
    result = toy.run(f"shout.refuse={refusal}", f"shout.attempts={attempts}", "shout.run.retries=2", expect=1)
    assert attempts.read_text().count("again") == tries
    assert "then run the same command again" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("reserved", "memory"), [("0.25", "0.5"), ("0.05", "0.1")])
def test_a_task_killed_as_for_memory_is_tried_once_more_with_double_memory(toy: Toy, tmp_path: Path, reserved: str, memory: str) -> None:
    attempts = tmp_path / "attempts"
    (toy.folder / "in" / "two.txt").unlink()
    settings = ["shout.refuse=SIGKILL", f"shout.attempts={attempts}", "shout.enough_gb=0.5", f"shout.run.memory_gb={reserved}"]
    result = toy.run(*settings, "shout.run.retries=1", expect=0 if memory == "0.5" else 1)
    assert attempts.read_text().count("again") == (2 if memory == "0.5" else 3)
    if result.returncode:
        assert f"set shout.run.memory_gb above the {memory} of the last try" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("demand", ["cpus=1000", "gpus=8", "memory_gb=1e6"])
def test_what_no_node_could_ever_run_is_refused(toy: Toy, demand: str) -> None:
    assert f"shout.run.{demand.partition('=')[0]}=" in (error := toy.run("shout.mark=new", f"shout.run.{demand}", expect=1).stderr)
    assert "the largest node has" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (MapRun(cpus=10), "cpus=10: the largest node has 8; set at most that, or add nodes"),
        (MapRun(memory_gb=65), "memory_gb=65: the largest node has 64"),
        (MapRun(cpus=4, gpus=1), "no single node has cpus=4 and gpus=1; lower one of them, or add nodes"),
    ],
)
def test_a_shard_that_no_single_node_has_room_for_is_refused(run: MapRun, words: str) -> None:
    nodes = [{"CPU": 8.0, "memory": 4.0 * 2**30}, {"CPU": 2.0, "GPU": 1.0, "memory": 64.0 * 2**30}]
    MapRun(cpus=2, gpus=1, memory_gb=64).require_room("shout", *nodes)
    with pytest.raises(UserError, match=rf"^shout\.run[.:] ?{words}"):
        run.require_room("shout", *nodes)


def test_gpus_that_this_machine_lacks_are_missed_before_the_first_shard(tmp_path: Path) -> None:
    alone = Toy(tmp_path)
    alone.write(one="a text")
    error = alone.run("shout.run.gpus=64", "cluster.cpus=1", expect=1).stderr
    assert "shout.run.gpus=64: the largest node has" in error and "Traceback" not in error
    assert not list((alone.root / "store").glob("*/*/spec.json"))


def test_a_sweep_shares_what_stands_before_it_and_resumes(toy: Toy) -> None:
    toy.run("-m", "shout.mark=1st,2nd")
    runs = sorted(path.name for path in (toy.root / "runs").iterdir() if path.name.startswith("toy-"))
    assert len(runs) == 2
    assert len(list((toy.root / "store" / "clean").glob("[0-9a-f]*"))) == 1
    again = toy.run("-m", "shout.mark=1st,2nd")
    assert "started" not in again.stderr


def test_gc_keeps_what_a_run_still_shows(toy: Toy) -> None:
    toy.run("plan")
    toy.run("shout.fail_on=miller", expect=1)  # the same run, planned anew and failed: its view is that of the first
    toy.run("gc", "apply=true")
    assert (toy.root / "runs" / "toy" / "stages" / "join" / "text" / "all.txt").read_text()
    assert set(toy.states().values()) == {"DONE"}


def test_a_command_for_an_early_stage_leaves_the_later_ones_in_the_run(toy: Toy) -> None:
    shown = {stage: (toy.root / "runs/toy/stages" / stage / "manifest.json").resolve() for stage in ("shout", "join")}
    toy.run("target=clean", "clean.shorter_than=5")
    assert {stage: (toy.root / "runs/toy/stages" / stage / "manifest.json").resolve() for stage in shown} == shown
    shutil.rmtree(toy.root / "runs/toy/stages/join")  # the plan alone must be enough
    listed = toy.run("gc", "target=clean", "clean.shorter_than=5").stdout
    assert "/store/clean/" in listed and "/store/shout/" not in listed and "/store/join/" not in listed


def test_a_run_that_fails_shows_what_was_done_before(tmp_path: Path, ray_head: str) -> None:
    toy = Toy(tmp_path, ray_head)
    toy.write(one="a bee sat in the clover")
    toy.run("shout.fail_on=bee", expect=1)
    assert sorted(path.parent.name for path in (toy.root / "runs/toy/stages").glob("*/manifest.json")) == ["clean", "vocabulary"]


@pytest.mark.parametrize(("damage", "said"), [("", "has 0 bytes instead of"), (None, "is missing")])
def test_an_input_that_lost_a_file_is_named_with_the_mend(toy: Toy, damage: str | None, said: str) -> None:
    path = toy.root / toy.manifest("vocabulary")["files"][0]["path"]
    path.unlink() if damage is None else path.write_text(damage)
    failed = toy.run("shout.mark=?", expect=1).stderr
    assert f"vocabulary: its published file {path} {said}" in failed and "run force=[vocabulary]" in failed and "Traceback" not in failed
    toy.run("shout.mark=?", "force=[vocabulary]")


def test_stray_files_in_the_store_do_not_matter(toy: Toy) -> None:
    def said() -> list[str]:
        return [toy.run(command).stdout for command in ("ls", "gc", "verify", "status")]

    before = said()
    for folder in ("store", "store/clean", "runs"):
        (toy.root / folder / ".DS_Store").write_text("")
        (toy.root / folder / "notes.txt").write_text("")
    assert said() == before


def test_gc_removes_what_cut_processes_left(toy: Toy) -> None:
    artifact = Path(toy.rows("plan")["clean"]["path"])
    left = [artifact / ".spec.json.1.tmp", toy.root / "store" / "clean" / ".abc.removed"]
    for path in left:
        path.write_text("cut")
    toy.run("gc", "apply=true")
    assert not any(path.exists() for path in left)
    toy.run("verify")


def test_gc_removes_what_no_run_uses_and_nothing_else(toy: Toy) -> None:
    published = toy.published()
    toy.run("shout.mark=?", "name=other")
    shutil.rmtree(toy.root / "runs" / "other")
    listed = toy.run("gc").stdout
    assert "2 artifacts" not in listed
    assert "to remove" in listed
    toy.run("gc", "apply=true")
    assert toy.published() == published
    toy.run("verify")
    assert toy.rows("plan", "shout.mark=?")["shout"]["state"] == "MISSING"
    assert "0 entries" in toy.run("gc").stdout
