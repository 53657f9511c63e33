"""explain tells for every stage what it did with a document, found by id or URL."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_prep.documents import Document, DocumentWriter, Reject, RejectWriter
from data_prep.explain import ExplainSettings, Step, explain, explain_command, render
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
    assert found[0] == Step("ingest", DROPPED, "http://a/2", "a.warc.gz#dropped", "kept", detail="11 characters in 1 line")
    assert found[1].scores == {"language": "en", "gopher_words": 3.0}
    assert found[2] == Step("select", DROPPED, "http://a/2", "a.warc.gz#dropped", "rejected", "gopher_min_words", "3 < 50")
    assert len(found) == 3


def test_a_url_finds_all_its_documents_one_after_the_other(artifacts: dict[str, Artifact]) -> None:
    assert [step[0] for step in steps(artifacts, "http://a/1")] == [KEPT] * 4 + [AGAIN] * 4
    assert steps(artifacts, "http://a/1")[-1] == (AGAIN, "dedup", "rejected", "duplicate")


def test_one_record_in_two_files_is_two_documents(tmp_path: Path) -> None:
    def table(stage: str, folder: str, name: str, columns: dict[str, list[object]]) -> File:
        path = tmp_path / f"{stage}-{folder}-{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return File.of(f"{folder}/{name}.parquet", path)

    def row(source: str, **more: object) -> dict[str, list[object]]:
        return {name: [value] for name, value in {"id": KEPT, "url": "", "source": source, **more}.items()}

    def stage(name: str, *files: File) -> tuple[str, Artifact]:
        return name, Artifact(name, "f", "d", str(tmp_path), files, {})

    stages = [
        stage("ingest", *(table("ingest", "documents", name, row(f"{name}.jsonl#1", text="one")) for name in "ab")),
        stage("score", *(table("score", "scores", name, {"id": [KEPT], "words": [words]}) for name, words in (("a", 1.0), ("b", 2.0)))),
        stage(
            "dedup",
            table("dedup", "documents", "a", row("a.jsonl#1", text="one")),
            table("dedup", "rejects", "b", row("b.jsonl#1", reason="duplicate", detail=KEPT)),
        ),
        stage("tokenize", table("tokenize", "index", "a", {"id": [KEPT], "split": ["train"], "tokens": [1], "bytes": [3]})),
    ]
    assert [(step.source, step.stage, step.outcome, dict(step.scores)) for step in explain(KEPT, stages)] == [
        ("a.jsonl#1", "ingest", "kept", {}),
        ("a.jsonl#1", "score", "scored", {"words": 1.0}),
        ("a.jsonl#1", "dedup", "kept", {}),
        ("a.jsonl#1", "tokenize", "train", {}),
        ("b.jsonl#1", "ingest", "kept", {}),
        ("b.jsonl#1", "score", "scored", {"words": 2.0}),
        ("b.jsonl#1", "dedup", "rejected", {}),
    ]
    assert [line[34:] for line in render(explain(KEPT, stages)) if line.startswith(KEPT)] == ["(no URL)  a.jsonl#1", "(no URL)  b.jsonl#1"]


def test_a_page_that_never_became_a_document(artifacts: dict[str, Artifact]) -> None:
    assert steps(artifacts, "http://bad/") == [(BLOCKED, "ingest", "rejected", "blocked_host")]


def test_the_command_prints_stages_reasons_and_scores_but_no_text(
    artifacts: dict[str, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    explain_command(artifacts, ["http://a/1"], ExplainSettings())
    printed = capsys.readouterr().out
    assert f"{KEPT}  http://a/1  a.warc.gz#kept" in printed
    assert f"rejected   duplicate: {KEPT} http://a/1" in printed
    assert "does not apply" in printed and "80" in printed
    assert "secret" not in printed


@pytest.mark.parametrize(
    "query",
    [
        "https://EXAMPLE.org:443/a/../page?utm_source=mail&id=1#top",
        "example.org/page?id=1",
        " https://example.org/page?id=1 ",
        "https://ex%61mple.org/%70age?id=1",
    ],
)
def test_a_url_is_found_in_any_form_that_leads_to_the_same_page(tmp_path: Path, query: str) -> None:
    own = document("own", "https://Example.org/page?id=1&fbclid=abc")
    others = [document("other", "https://example.org/page?id=2"), document("more", "https://example.org/Page?id=1"), document("none", "")]
    ingest = artifact(tmp_path, "ingest", [*others, own], [])
    assert [step.id for step in explain(query, [("ingest", ingest)])] == [own.id]


def test_a_url_with_an_international_host_is_found_in_both_spellings(tmp_path: Path) -> None:
    ingest = artifact(tmp_path, "ingest", [document("a", "https://bücher.example/x"), document("b", "https://xn--bcher-kva.example/x")], [])
    for query in ("https://bücher.example/x", "https://xn--bcher-kva.example/x"):
        assert [step.id for step in explain(query, [("ingest", ingest)])] == [identity("a"), identity("b")], query


def test_what_was_cut_and_replaced_found_and_encoded(tmp_path: Path) -> None:
    def of(stage: str, text: str) -> Artifact:
        return artifact(tmp_path, stage, [replace(document("one", "http://a/1"), text=text, extractor="blocks")], [])

    def table(stage: str, folder: str, **columns: list[object]) -> Artifact:
        path = tmp_path / f"{stage}-{folder}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"id": [identity("one")], **columns}), path)
        return Artifact(stage, "f", "d", str(tmp_path), (File.of(f"{folder}/a.parquet", path),), {})

    stages = [
        of("ingest", "menu\nwrite to joe@example.org\nor to [EMAIL]\nend"),
        of("line_dedup", "write to joe@example.org\nor to [EMAIL]\nend"),
        of("scrub", "write to [EMAIL]\nor to [EMAIL]\nend"),
        table("decontaminate", "overlaps", evaluation=["trivia"], row=[3], words=[14], start=[0], end=[9], text=["write to"]),
        table("tokenize", "index", split=["validation"], tokens=[12], bytes=[36]),
    ]
    told = [(step.stage, step.outcome, step.reason, step.detail) for step in explain("http://a/1", [(one.stage, one) for one in stages])]
    assert told == [
        ("ingest", "kept", "", "47 characters in 4 lines, by blocks"),
        ("line_dedup", "kept", "", "42 characters in 3 lines, −5 characters, −1 lines"),
        ("scrub", "kept", "", "34 characters in 3 lines, −8 characters, +1 [EMAIL]"),
        ("decontaminate", "found", "trivia", "row 3, 14 words"),
        ("tokenize", "validation", "", "12 tokens, 36 bytes"),
    ]


def test_a_near_duplicate_names_its_survivor_or_says_that_it_is_of_an_earlier_corpus(tmp_path: Path) -> None:
    def rejected(name: str, survivor: str) -> Reject:
        return Reject(identity(name), f"http://a/{name}", f"a#{name}", "near_duplicate", f"{identity(survivor)} 0.913")

    stage = artifact(tmp_path, "near_dedup", [document("kept", "http://a/1")], [rejected("x", "kept"), rejected("y", "gone")])
    assert [explain(f"http://a/{name}", [("near_dedup", stage)])[0].detail for name in "xy"] == [
        f"{KEPT} 0.913 http://a/1",
        f"{identity('gone')} 0.913 (of an earlier corpus)",
    ]


def test_only_row_groups_that_hold_the_document_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = artifact(tmp_path, "ingest", [document(str(number), f"http://a/{number}") for number in range(2_500)], [])
    read: list[tuple[int, bool]] = []
    whole = pyarrow.parquet.ParquetFile.read_row_group

    def noted(self: object, group: int, columns: list[str], **options: object) -> pyarrow.Table:
        read.append((group, "text" in columns))
        return whole(self, group, columns=columns, **options)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read_row_group", noted)
    assert len(explain("http://a/1700", [("ingest", stage)])) == 1
    assert [group for group, text in read if text] == [1] and len(read) == 4


@pytest.mark.parametrize("words", [["http://nowhere/"], [], ["a", "b"]])
def test_what_is_not_found_or_not_understood_is_one_line(artifacts: dict[str, Artifact], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        explain_command(artifacts, words, ExplainSettings())
    assert "\n" not in str(error.value)


def test_nothing_published_yet_names_the_command_to_run() -> None:
    with pytest.raises(UserError, match="target=ingest"):
        explain_command({}, ["x"], ExplainSettings())
