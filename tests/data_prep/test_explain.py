"""explain tells for every stage what it did with a document, found by id or URL."""

import hashlib
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_prep.documents import Document, DocumentWriter, Reject, RejectWriter
from data_prep.explain import ExplainSettings, Step, explain, explain_command
from pipeline.stage import Artifact, File, UserError


def identity(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


KEPT, DROPPED, AGAIN, BLOCKED = (identity(name) for name in ("kept", "dropped", "again", "blocked"))


def document(name: str, url: str) -> Document:
    return Document(identity(name), url, "secret text", "", f"a.warc.gz#{name}")


def artifact(folder: Path, stage: str, documents: list[Document], rejects: list[Reject]) -> Artifact:
    folder = folder / stage
    (folder / "documents").mkdir(parents=True)
    (folder / "rejects").mkdir()
    with DocumentWriter(folder / "documents/a.parquet") as kept:
        for one in documents:
            kept.write(one)
    with RejectWriter(folder / "rejects/a.parquet") as dropped:
        for reject in rejects:
            dropped.write(reject)
    files = [File.of(f"{kind}/a.parquet", folder / kind / "a.parquet") for kind in ("documents", "rejects")]
    return Artifact(stage, "f", "d", str(folder), tuple(files), {})


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Artifact]:
    kept, dropped, again = document("kept", "http://a/1"), document("dropped", "http://a/2"), document("again", "http://a/1")
    scores = tmp_path / "scores.parquet"
    table = {"id": [KEPT, DROPPED, AGAIN], "language": ["en", "en", "de"], "gopher_words": [80.0, 3.0, float("nan")]}
    pyarrow.parquet.write_table(pyarrow.table(table), scores)
    return {
        "demo": Artifact("demo", "f", "d", str(tmp_path), (File.of("pages/a.parquet", scores),), {}),
        "ingest": artifact(
            tmp_path, "ingest", [kept, dropped, again], [Reject(BLOCKED, "http://bad/", "a.warc.gz#9", "blocked_host", "bad")]
        ),
        "score": Artifact("score", "f", "d", str(tmp_path), (File.of("scores/a.parquet", scores),), {}),
        "select": artifact(
            tmp_path, "select", [kept, again], [Reject(DROPPED, "http://a/2", "a.warc.gz#dropped", "gopher_min_words", "3 < 50")]
        ),
        "dedup": artifact(tmp_path, "dedup", [kept], [Reject(AGAIN, "http://a/1", "a.warc.gz#again", "duplicate", KEPT)]),
    }


def steps(artifacts: dict[str, Artifact], query: str) -> list[tuple[str, str, str, str]]:
    return [(step.id, step.stage, step.outcome, step.reason) for step in explain(query, list(artifacts.items()))]


def test_a_kept_and_a_rejected_document_by_id(artifacts: dict[str, Artifact]) -> None:
    assert [step[1:3] for step in steps(artifacts, KEPT)] == [
        ("ingest", "kept"),
        ("score", "scored"),
        ("select", "kept"),
        ("dedup", "kept"),
    ]
    found = explain(DROPPED, list(artifacts.items()))
    assert found[0] == Step("ingest", DROPPED, "http://a/2", "a.warc.gz#dropped", "kept")
    assert found[1].scores == {"language": "en", "gopher_words": 3.0}
    assert found[2] == Step("select", DROPPED, "http://a/2", "a.warc.gz#dropped", "rejected", "gopher_min_words", "3 < 50")
    assert len(found) == 3


def test_a_url_finds_all_its_documents_one_after_the_other(artifacts: dict[str, Artifact]) -> None:
    assert [step[0] for step in steps(artifacts, "http://a/1")] == [KEPT] * 4 + [AGAIN] * 4
    assert steps(artifacts, "http://a/1")[-1] == (AGAIN, "dedup", "rejected", "duplicate")


def test_a_page_that_never_became_a_document(artifacts: dict[str, Artifact]) -> None:
    assert steps(artifacts, "http://bad/") == [(BLOCKED, "ingest", "rejected", "blocked_host")]


def test_the_command_prints_stages_reasons_and_scores_but_no_text(
    artifacts: dict[str, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    explain_command(artifacts, ["http://a/1"], ExplainSettings())
    printed = capsys.readouterr().out
    assert f"{KEPT}  http://a/1  a.warc.gz#kept" in printed
    assert f"rejected  duplicate: {KEPT}" in printed
    assert "does not apply" in printed and "80" in printed
    assert "secret" not in printed


@pytest.mark.parametrize("words", [["http://nowhere/"], [], ["a", "b"]])
def test_what_is_not_found_or_not_understood_is_one_line(artifacts: dict[str, Artifact], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        explain_command(artifacts, words, ExplainSettings())
    assert "\n" not in str(error.value)


def test_nothing_published_yet_names_the_command_to_run() -> None:
    with pytest.raises(UserError, match="target=ingest"):
        explain_command({}, ["x"], ExplainSettings())
