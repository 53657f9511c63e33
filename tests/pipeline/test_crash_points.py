"""SIGKILL at the k-th store operation, then the same command: the artifacts have the bytes of an uninterrupted run."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.drive import Toy

TEXTS = {
    "one": "a bee sat in the warm clover extraordinarily long",
    "two": "the miller counts his sacks of grain",
    "three": "rain fell on the incomprehensible roof all night",
}


def killed_at(k: int, folder: Path, head: str) -> tuple[bool, dict[str, list[tuple[str, str]]]]:
    """Run, end it at operation k, run again: (whether there was an operation k, what is published in the end)."""
    toy = Toy(folder, head)
    toy.write(**TEXTS)
    counter, driver = folder / "operations", folder / "driver"
    counter.touch()
    process = toy.start(
        CRAWL2CHAT_STORE_OBSERVER="tests.crash:observe",
        CRAWL2CHAT_CRASH_COUNTER=str(counter),
        CRAWL2CHAT_CRASH_AT=str(k),
        CRAWL2CHAT_CRASH_DRIVER=str(driver),
    )
    driver.write_text(str(process.pid))
    _, error = process.communicate(timeout=120)
    killed = process.returncode == -9
    assert killed or process.returncode == 0, error
    if killed:
        toy.run()
    toy.run("verify")
    return killed, toy.published()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, ray_head: str) -> dict[str, list[tuple[str, str]]]:
    killed, published = killed_at(10**9, tmp_path_factory.mktemp("whole"), ray_head)
    assert not killed
    assert set(published) == {"clean", "vocabulary", "shout", "join"}
    return published


def test_a_kill_at_some_store_operations_leaves_the_same_bytes(
    tmp_path: Path, ray_head: str, uninterrupted: dict[str, list[tuple[str, str]]]
) -> None:
    for k in (3, 9, 14, 22, 31, 40, 55):
        killed, published = killed_at(k, tmp_path / str(k), ray_head)
        assert killed, f"the run has no operation {k}"
        assert published == uninterrupted, f"killed at operation {k}"


@pytest.mark.proof
def test_a_kill_at_every_store_operation_leaves_the_same_bytes(
    tmp_path: Path, ray_head: str, uninterrupted: dict[str, list[tuple[str, str]]]
) -> None:
    for k in itertools.count(1):
        killed, published = killed_at(k, tmp_path / str(k), ray_head)
        assert published == uninterrupted, f"killed at operation {k}"
        if not killed:
            break
    print(f"{k - 1} store operations, a kill at each: the same bytes")
    assert k > 50
