"""Data preparation killed anywhere and run again ends with the bytes of an uninterrupted run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drive import Toy, run_with_kills

TO_TOKENS = "target=tokenize"


class Recipe(Toy):
    """A recipe of the project itself, up to its token shards."""

    def command(self, *arguments: str) -> list[str]:
        return [part for part in super().command(*arguments) if "/in/*.txt" not in part]


def test_data_preparation_killed_at_some_shards_ends_with_the_same_bytes(tmp_path: Path, ray_head: str) -> None:
    whole, killed = (Recipe(tmp_path / name, ray_head, recipe="tiny") for name in ("whole", "killed"))
    whole.run(TO_TOKENS)
    assert run_with_kills(killed, 2, 1, TO_TOKENS) == 2
    assert killed.published(TO_TOKENS) == whole.published(TO_TOKENS)


@pytest.mark.proof
def test_ten_kills_over_real_pages_leave_the_same_bytes(tmp_path: Path, ray_head: str, shared_data: Path) -> None:
    whole, killed = (Recipe(tmp_path / name, ray_head, recipe="web") for name in ("whole", "killed"))
    arguments = (f"source.pages=[{shared_data}/web/pages-*.warc.gz]", "tokenizer.vocab_size=4096", TO_TOKENS)
    whole.run(*arguments)
    taken = run_with_kills(killed, 10, 3, *arguments)
    assert killed.published(*arguments) == whole.published(*arguments)
    killed.run("verify")
    print(f"{taken} kills: the same bytes")
    assert taken > 5
