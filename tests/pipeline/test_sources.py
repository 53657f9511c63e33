"""Source files: what a pattern matches, under which names, and what is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.sources import HashCache, expand, require_unchanged


def test_a_name_with_brackets_is_a_name_where_such_a_file_stands(tmp_path: Path) -> None:
    (tmp_path / "a, b=c [x]").mkdir()
    file = tmp_path / "a, b=c [x]" / "page[1].txt"
    file.write_text("one")
    assert [found.name for found in expand("key", [str(file)])] == ["page[1].txt"]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match="a pipe or a device"):
        expand("key", [f"{tmp_path}/*.txt"])


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone.txt").symlink_to("/nowhere")
    with pytest.raises(UserError, match=r"gone\.txt: cannot be read"):
        expand("key", [f"{tmp_path}/*.txt"])


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.txt")).write_text("one")
    with pytest.raises(UserError, match="its name is not UTF-8"):
        expand("key", [f"{tmp_path}/*.txt"])


def test_a_file_that_two_patterns_match_under_two_names_would_be_read_twice(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.txt").write_text("one")
    assert len(expand("key", [f"{tmp_path}/in/*.txt", f"{tmp_path}/in/one.txt"])) == 1
    with pytest.raises(UserError, match=r"as 'one\.txt' and as 'in/one\.txt'"):
        expand("key", [f"{tmp_path}/in/*.txt", f"{tmp_path}/*/*.txt"])


def test_files_of_one_name_are_told_apart_by_their_folders_wherever_these_stand(tmp_path: Path) -> None:
    names = ["1/old/a.txt", "2/old/a.txt", "2/old/b.txt", "3/a.txt"]
    for place in ("here", "there/deeper"):
        for name in names:
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place / name).write_text(name)
        patterns = [f"{tmp_path / place}/{folder}/*.txt" for folder in ("1/old", "2/old", "3")]
        found = expand("key", patterns)
        assert [file.name for file in found] == ["1/old/a.txt", "2/old/a.txt", "3/a.txt", "b.txt"]
        assert all(Path(file.path).read_text().endswith(file.name) for file in found)
        assert expand("key", patterns[::-1]) == found
        taken = [f"{tmp_path / place}/*/a.txt", *patterns[:2]]  # 3/a.txt is another file's name already
        assert [file.name for file in expand("key", taken)] == ["1/old/a.txt", "2/old/a.txt", "3/a.txt", "b.txt"]


def test_a_file_that_changes_or_goes_after_the_look_is_named(tmp_path: Path) -> None:
    file = tmp_path / "one.txt"
    file.write_text("one")
    [found] = expand("key", [str(file)])
    require_unchanged({found.path: found.stamp})
    file.write_text("longer")
    with pytest.raises(UserError, match="changed while"):
        HashCache(tmp_path / "root").files([found])
    file.unlink()
    with pytest.raises(UserError, match="was removed while"):
        HashCache(tmp_path / "root").files([found])


def test_a_damaged_cache_of_hashes_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one")
    found = expand("key", [f"{tmp_path}/one.txt"])
    whole = HashCache(tmp_path / "root").files(found)
    for damage in ('{"cut', "[1]", "3"):
        (tmp_path / "root" / "cache" / "sources.json").write_text(damage)
        assert HashCache(tmp_path / "root").files(found) == whole


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cache").symlink_to("/proc/nothing/can/be/made/here")
    assert HashCache(tmp_path / "root").files(expand("key", [f"{tmp_path}/one.txt"]))[0].bytes == 3
