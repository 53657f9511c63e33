"""On the real stages: what a new crawl file, a threshold, a tokenizer, a learning rate or a place makes anew."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.drive import Toy

MAPS = ("ingest", "score", "select", "scrub")
SMALL = ("demo.pages=48", "demo.trouble_pages=2", "demo.warc_files=4")


class Web(Toy):
    """The web recipe over crawl files in `in/`."""

    def command(self, *arguments: str) -> list[str]:
        command = [part for part in super().command(*arguments) if not part.startswith("hydra.searchpath")]
        command[4:4] = ["target=tokenize", "tokenizer.vocab_size=420", "tokenize.validation_fraction=0.1"]  # what is said later counts
        return [part.replace("*.txt]", "*.warc.gz]") for part in command]

    def shards(self, stage: str, *arguments: str) -> dict[str, int]:
        found: dict[str, int] = self.manifest(stage, *arguments)["shards"]
        return found


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four small crawl files."""
    folder = tmp_path_factory.mktemp("crawl")
    demo = Toy(folder, recipe="tiny")
    demo.run("target=demo", "source.pages=[]", *SMALL)
    return sorted((demo.root / "runs" / "tiny" / "stages" / "demo" / "pages").glob("*.warc.gz"))


@pytest.fixture(scope="module")
def built(crawl: list[Path], tmp_path_factory: pytest.TempPathFactory, ray_head: str) -> Path:
    """A root in which three of the files were run to token shards."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "in").mkdir()
    for path in crawl[:3]:
        shutil.copy(path, folder / "in")
    Web(folder, ray_head, recipe="web").run()
    return folder


@pytest.fixture
def web(built: Path, tmp_path: Path, ray_head: str) -> Web:
    shutil.copytree(built, tmp_path / "web", symlinks=True)
    return Web(tmp_path / "web", ray_head, recipe="web")


def test_one_more_crawl_file_computes_one_shard_in_each_map_stage(web: Web, crawl: list[Path]) -> None:
    pin = web.rows("plan")["tokenizer"]["fingerprint"]
    shutil.copy(crawl[3], web.folder / "in")
    pinned = f"tokenizer.pin={pin}"
    web.run(pinned)
    for stage in MAPS:
        lists = stage == "ingest"  # the lists of hosts and words, compiled once
        assert web.shards(stage, pinned) == {"computed": 1, "reused": 3 + lists}, stage
    assert web.shards("dedup", pinned) == {"computed": 3, "reused": 6}  # one table of hashes, their comparison, one file without duplicates
    assert web.shards("tokenize", pinned) == {"computed": 1, "reused": 3}


def test_another_tokenizer_rebuilds_every_token_shard(web: Web) -> None:
    other = "tokenizer.vocab_size=400"
    web.run(other)
    assert web.shards("tokenize", other)["computed"] == 3
    assert web.rows("plan")["tokenize"]["fingerprint"] != web.rows("plan", other)["tokenize"]["fingerprint"]


@pytest.mark.parametrize("threshold", ["select.gopher_quality.min_words=60", "select.language.min_score=0.9"])
def test_a_threshold_neither_ingests_nor_scores(web: Web, threshold: str) -> None:
    assert {stage for stage, state in web.states(threshold).items() if state == "DONE"} == {"ingest", "score"}
    result = web.run("target=select", threshold)
    assert {line.split()[0] for line in result.stderr.splitlines()} == {"select"}


def test_workers_names_and_places_change_no_fingerprint(web: Web, tmp_path: Path) -> None:
    def marks(*arguments: str) -> dict[str, Any]:
        return {stage: row["fingerprint"] for stage, row in web.rows("plan", *arguments).items()}

    here = marks()
    moved = tmp_path / "elsewhere"
    shutil.copytree(web.folder / "in", moved)
    assert marks(f"root={tmp_path}/new", "name=x", "ingest.run.cpus=2", f"source.pages=[{moved}/*.warc.gz]") == here


def test_a_learning_rate_touches_nothing_before_its_stage(tmp_path: Path) -> None:
    tiny = Toy(tmp_path, recipe="tiny")

    def marks(*arguments: str) -> dict[str, Any]:
        return {stage: row["fingerprint"] for stage, row in tiny.rows("plan", "source.pages=[]", *arguments).items()}

    before, after = marks(), marks("pretrain.lr=1e-4")
    changed = {stage for stage in before if before[stage] != after[stage]}
    assert changed == {"pretrain", "sft", "dpo", "grpo", "evaluate"}
    assert marks("pretrain.run.workers=4", "zero=2", "sft.run.micro_batch=1") == before
