"""Documents and rejects survive the disk, in stable bytes and bounded memory."""

import hashlib
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import documents
from data_prep.documents import Document, DocumentWriter, Reject, RejectWriter, count_rows, read_batches, read_documents, read_rejects

anything = st.text(st.characters(exclude_categories=["Cs"]))
some_documents = st.lists(st.builds(Document, anything, anything, anything, anything, anything), max_size=20)


def write(path: Path, rows: list[Document]) -> int:
    with DocumentWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return writer.records


def numbered(number: int) -> list[Document]:
    return [Document(f"{i:032x}", f"https://a.example/{i}", f"text {i}\n" * 5, "2026-01-01", f"a.warc#{i}") for i in range(number)]


# the first example imports pyarrow
@given(rows=some_documents)
def test_documents_survive_the_disk(tmp_path_factory: pytest.TempPathFactory, rows: list[Document]) -> None:
    path = tmp_path_factory.mktemp("documents") / "a.parquet"
    assert write(path, rows) == len(rows) == count_rows(path)
    assert list(read_documents(path)) == rows


def test_rejects_survive_the_disk(tmp_path: Path) -> None:
    rows = [Reject("1", "https://a.example/", "a.warc#0", "not_html", "image/png"), Reject("2", "", "a.warc#9", "revisit")]
    with RejectWriter(tmp_path / "a.parquet") as writer:
        for row in rows:
            writer.write(row)
    assert writer.records == 2
    assert list(read_rejects(tmp_path / "a.parquet")) == rows


@pytest.mark.parametrize("number", [0, 1, documents.ROW_GROUP_ROWS, documents.ROW_GROUP_ROWS + 1, 2_500])
def test_any_number_of_rows_is_a_valid_file(tmp_path: Path, number: int) -> None:
    import pyarrow.parquet

    write(tmp_path / "a.parquet", numbered(number))
    assert list(read_documents(tmp_path / "a.parquet")) == numbered(number)
    groups = pyarrow.parquet.read_metadata(tmp_path / "a.parquet").num_row_groups
    assert groups == -(-number // documents.ROW_GROUP_ROWS)


def test_large_texts_close_a_row_group_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    monkeypatch.setattr(documents, "ROW_GROUP_CHARACTERS", 100)
    rows = [Document("1", "", "x" * 99, "", ""), Document("2", "", "y" * 300, "", ""), Document("3", "", "z", "", "")]
    write(tmp_path / "a.parquet", rows)
    metadata = pyarrow.parquet.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [1, 1, 1]
    assert list(read_documents(tmp_path / "a.parquet")) == rows


def test_the_same_rows_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbered(1_500))
    code = f"""
from data_prep.documents import Document, DocumentWriter, read_documents
rows = list(read_documents({str(tmp_path / "a.parquet")!r}))
with DocumentWriter({str(tmp_path / "b.parquet")!r}) as writer:
    for row in rows:
        writer.write(row)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path.cwd())})
    first, second = ((tmp_path / name).read_bytes() for name in ("a.parquet", "b.parquet"))
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_batches_hold_only_the_columns_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbered(300))
    batches = list(read_batches(tmp_path / "a.parquet", ["id", "text"], rows=128))
    assert [batch.num_rows for batch in batches] == [128, 128, 44]
    assert batches[0].schema.names == ["id", "text"]


def test_datasets_opens_the_files_an_empty_one_among_them(tmp_path: Path) -> None:
    import datasets

    files = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    write(Path(files[0]), [])
    write(Path(files[1]), numbered(3))
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.column_names == [field.name for field in fields(Document)]
    assert [Document(**row) for row in loaded] == numbered(3)


def test_importing_the_schema_loads_no_arrow() -> None:
    code = "import sys, data_prep.documents; sys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
