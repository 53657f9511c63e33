"""Token shards: Megatron-LM's format byte for byte, and no damaged file read as if it were whole."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.token_shards import IndexRow, TokenShard, TokenShardsWriter, TokenShardWriter, open_shards, read_index, write_index
from pipeline.stage import File, UserError


def write(path: Path, documents: list[list[int]], vocab_size: int = 1_000) -> Path:
    with TokenShardWriter(path, vocab_size) as writer:
        for ids in documents:
            writer.write(ids)
    return path


def test_the_files_are_megatrons_byte_for_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", [[1, 2, 300], [], [4]])
    assert path.read_bytes() == b"\x01\x00\x02\x00\x2c\x01\x04\x00"
    assert (tmp_path / "a.idx").read_bytes() == (
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, 8, 3, 4)
        + struct.pack("<3i", 3, 0, 1)
        + struct.pack("<3q", 0, 6, 6)
        + struct.pack("<4q", 0, 1, 2, 3)
    )


@pytest.mark.parametrize(("vocab_size", "code", "dtype"), [(65_499, 8, np.uint16), (65_500, 4, np.int32), (262_144, 4, np.int32)])
def test_ids_are_uint16_below_65500_and_int32_from_there(tmp_path: Path, vocab_size: int, code: int, dtype: type) -> None:
    path = write(tmp_path / "a.bin", [[0, vocab_size - 1]], vocab_size)
    assert (tmp_path / "a.idx").read_bytes()[17] == code
    shard = TokenShard.open(path)
    assert shard.tokens.dtype == dtype
    assert shard.tokens.tolist() == [0, vocab_size - 1]


@given(st.lists(st.lists(st.integers(0, 99_999), max_size=20), max_size=20))
@settings(max_examples=50)
def test_documents_come_back_in_order(tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]]) -> None:
    shard = TokenShard.open(write(tmp_path_factory.mktemp("shard") / "unit.bin", documents, 100_000))
    assert [shard.document(number).tolist() for number in range(len(shard))] == documents
    assert shard.lengths.tolist() == [len(ids) for ids in documents]
    assert len(shard.tokens) == shard.offsets[-1] == sum(map(len, documents))


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
@settings(max_examples=50)
def test_shards_keep_to_their_budget_and_hold_every_document_in_order(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], budget: int
) -> None:
    directory = tmp_path_factory.mktemp("shards")
    documents = [[number % 300] * length for number, length in enumerate(lengths)]
    with TokenShardsWriter(lambda place: directory / f"{place}.bin", 300, budget) as writer:
        for ids in documents:
            writer.write(np.array(ids, np.uint32))
    shards = [TokenShard.open(directory / str(place)) for place in range(len(writer.documents))]
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        f"{place}.{end}" for place in range(len(shards)) for end in ("bin", "idx")
    )
    assert [len(shard) for shard in shards] == writer.documents
    assert sum(len(shard.tokens) for shard in shards) == writer.tokens
    assert [shard.document(number).tolist() for shard in shards for number in range(len(shard))] == documents
    assert all(len(shard.tokens) <= budget or len(shard) == 1 for shard in shards)
    for shard, following in itertools.pairwise(shards):
        assert len(shard.tokens) + len(following.document(0)) > budget  # no shard was closed before it had to be


@pytest.mark.parametrize("ids", [[70_000], [-1], np.array([65_536], np.uint32)])
def test_an_id_that_the_type_cannot_hold_is_refused(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(OverflowError), TokenShardWriter(tmp_path / "a.bin", 1_000) as writer:
        writer.write(ids)


def test_a_shard_without_documents_is_valid(tmp_path: Path) -> None:
    shard = TokenShard.open(write(tmp_path / "empty.bin", []))
    assert (len(shard), len(shard.tokens), shard.offsets.tolist()) == (0, 0, [0])
    with pytest.raises(IndexError):
        shard.document(0)


def test_opens_by_bin_path_or_by_prefix_with_dots(tmp_path: Path) -> None:
    write(tmp_path / "pages.v1.bin", [[7]])
    assert TokenShard.open(tmp_path / "pages.v1").tokens.tolist() == [7]
    assert TokenShard.open(str(tmp_path / "pages.v1.bin")).tokens.tolist() == [7]


def test_an_artifacts_files_are_paired_by_name_wherever_they_are_stored(tmp_path: Path) -> None:
    files = []
    for unit in ("b", "a"):
        write(tmp_path / "shard.bin", [[ord(unit)]])
        for suffix in (".bin", ".idx"):
            stored = (tmp_path / f"shard{suffix}").rename(tmp_path / f"{unit}{len(files)}{suffix}")
            files.append(File.of(f"train/{unit}{suffix}", stored))
    assert [shard.tokens.tolist() for shard in open_shards(files)] == [[ord("b")], [ord("a")]]
    with pytest.raises(UserError, match=r"train/a\.bin"):
        open_shards(files[:3])


def test_tokens_are_mapped_not_read(tmp_path: Path) -> None:
    shard = TokenShard.open(write(tmp_path / "a.bin", [[1, 2, 3]]))
    assert isinstance(shard.tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        shard.tokens[0] = 5


def test_reads_documents_of_several_sequences(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", [[1, 2], [3], [4, 5]])
    index = tmp_path / "a.idx"
    content = bytearray(index.read_bytes()[: 34 + 3 * 12])
    content[26:34] = struct.pack("<Q", 3)
    index.write_bytes(bytes(content) + struct.pack("<3q", 0, 2, 3))
    shard = TokenShard.open(path)
    assert [shard.document(number).tolist() for number in range(len(shard))] == [[1, 2, 3], [4, 5]]


def test_an_id_too_large_for_the_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OverflowError):
        write(tmp_path / "a.bin", [[70_000]])
    assert not (tmp_path / "a.idx").exists()


@pytest.mark.parametrize("name", ["a.bin", "a.idx"])
def test_every_truncation_is_a_user_error_naming_the_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.bin", [[1, 2, 3], [4]])
    whole = (tmp_path / name).read_bytes()
    for size in range(len(whole)):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            TokenShard.open(path)


@pytest.mark.parametrize("name", ["a.bin", "a.idx"])
def test_an_absent_file_is_a_user_error_naming_it(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.bin", [[1]])
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        TokenShard.open(path)


def test_files_of_two_shards_do_not_fit_together(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", [[1, 2]])
    write(tmp_path / "b.bin", [[1, 2, 3]])
    (tmp_path / "b.idx").rename(tmp_path / "a.idx")
    with pytest.raises(UserError, match=r"a\.bin"):
        TokenShard.open(path)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, b"X"),  # magic
        (9, b"\x02"),  # version
        (17, b"\x07"),  # a type of floats
        (18, b"\xff"),  # sequences
        (25, b"\xff"),  # sequences, beyond any file
        (34, struct.pack("<2i", 5, -1)),  # lengths whose sum is right
        (42, struct.pack("<q", 2)),  # first pointer
        (58, struct.pack("<q", 1)),  # first document
        (66, struct.pack("<q", 9)),  # second document
        (74, struct.pack("<q", 1)),  # end of the documents
    ],
)
def test_contradictory_indices_are_user_errors(tmp_path: Path, position: int, value: bytes) -> None:
    path = write(tmp_path / "a.bin", [[1, 2, 3], [4]])
    content = bytearray((tmp_path / "a.idx").read_bytes())
    content[position : position + len(value)] = value
    (tmp_path / "a.idx").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.idx"):
        TokenShard.open(path)


def test_index_rows_come_back_and_their_bytes_are_stable(tmp_path: Path) -> None:
    rows = [IndexRow("a" * 32, "train", 12, 40), IndexRow("b" * 32, "validation", 1, 0)]
    for name, content in {"one": rows, "two": rows, "none": []}.items():
        write_index(tmp_path / name, content)
        assert read_index(tmp_path / name) == content
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
