"""The ingest stage: files of pages in, documents and rejects out, every record accounted for."""

import gzip
import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from warcs import http, members, record

from data_prep import ingest as ingest_module
from data_prep.documents import Document, Reject, read_documents, read_rejects
from data_prep.sources.units import kind_of, plan_units, unit_names
from data_prep.stages import IngestParams, compile_shard, ingest, ingest_shard
from data_prep.urls import OWN_LISTS
from pipeline.files import File
from pipeline.stage import Shard, ShardResult, Unit, UserError, joined

TEXT = "<html><body><p>{} and a few more words to make it a paragraph.</p></body></html>"


class Done:
    """A shard's result with the rows it wrote."""

    def __init__(self, result: ShardResult, folder: Path) -> None:
        self.result = result
        self.counts = result.counts
        self.files = {name: folder / name / "unit.parquet" for name in ("documents", "rejects")}
        self.documents: list[Document] = list(read_documents(self.files["documents"]))
        self.rejects: list[Reject] = list(read_rejects(self.files["rejects"]))

    @property
    def digests(self) -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files.values()]


@pytest.fixture
def run(tmp_path: Path):
    """Ingest the bytes as a file of that name, and check what must hold of any file."""
    number = 0

    def run(data: bytes | Path, name: object = "a.warc", blocklists: tuple[bytes, ...] = (), params: IngestParams = IngestParams()) -> Done:  # noqa: B008
        nonlocal number
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        path = data if isinstance(data, Path) else folder / "source"
        if isinstance(data, bytes):
            path.write_bytes(data)
        for index, blocklist in enumerate(blocklists):
            (folder / f"list{index}.hosts").write_bytes(blocklist)
        lists = [*OWN_LISTS, *(str(path) for path in sorted(folder.glob("*.hosts")))]
        compile_shard(Shard(joined("blocklist", *(File.of(path, path) for path in lists), argument=lists), None, {}, str(folder)))
        compiled = str(folder / "blocklist" / "blocklist.safetensors")
        side = {"blocklist": File.of(compiled, compiled)}
        done = Done(ingest_shard(Shard(Unit("unit", "", name, (str(path),)), params, side, str(folder))), folder)
        assert done.counts is not None and done.counts.balanced
        assert done.counts.kept == len(done.documents) == done.result.records["documents"]
        assert done.counts.total - done.counts.kept == len(done.rejects) == done.result.records["rejects"]
        assert Counter(reject.reason for reject in done.rejects if reject.reason != "errored") == done.counts.rejected
        ids = [row.id for row in (*done.documents, *done.rejects) if row.id]
        assert len(ids) == len(set(ids))
        return done

    return run


def pages(*numbers: int) -> list[bytes]:
    return [record(http(TEXT.format(f"Page {number}").encode()), number=number) for number in numbers]


def test_documents_and_rejects_of_a_warc(run) -> None:
    parts = [
        record(b"x", "warcinfo", 9),
        *pages(1),
        record(http(status="404 Gone"), number=2),
        record(http(b"<p></p>"), number=3),
        b"junk\n",
        *pages(4),
    ]
    done = run(members(*parts), "crawl/a.warc.gz")
    assert [document.text for document in done.documents] == [f"Page {n} and a few more words to make it a paragraph." for n in (1, 4)]
    assert [document.url for document in done.documents] == ["https://site.example/1", "https://site.example/4"]
    assert [document.source for document in done.documents] == [f"crawl/a.warc.gz#{len(members(*parts[:n]))}" for n in (1, 5)]
    assert [reject.reason for reject in done.rejects] == ["http_status", "empty_text", "errored"]
    before = len(members(*parts[:3])), len(parts[3])  # junk starts no record: it is read on from the member before it
    assert done.rejects[2].source == "crawl/a.warc.gz#{}+{}".format(*before)
    assert (done.counts.total, done.counts.kept, done.counts.errored) == (5, 2, 1)
    assert done.result.metrics["other_records"] == 1
    assert done.result.reproducible


def test_jsonl_texts_are_normalised_and_bad_lines_errored(run) -> None:
    lines = [{"text": "one\r\ntwo\0 ", "url": "https://a.example/", "date": "2026"}, {"text": " \n"}, {"no": "text"}]
    done = run(b"\n".join(json.dumps(line).encode() for line in lines), "a.jsonl")
    assert [(document.text, document.source, document.date) for document in done.documents] == [("one\ntwo", "a.jsonl#1", "2026")]
    assert [(reject.reason, reject.source) for reject in done.rejects] == [("empty_text", "a.jsonl#2"), ("errored", "a.jsonl#3")]


def test_blocked_hosts_are_rejected_before_extraction(run) -> None:
    own = record(http(TEXT.format("x").encode()), number=9, WARC_Target_URI="https://www.pornhub.com/")
    done = run(b"".join([own, *pages(1)]), blocklists=(b"0.0.0.0 site.example\n", b"other.example"))
    assert [reject.reason for reject in done.rejects] == ["blocked_adult", "blocked_list0"]
    assert [reject.detail for reject in done.rejects] == ["pornhub.com", "site.example"]


def test_ids_do_not_depend_on_how_records_are_cut_into_files(run) -> None:
    records = pages(*range(6))
    together = [document.id for document in run(members(*records), "all.warc.gz").documents]
    apart = [document.id for part in (records[:2], records[2:]) for document in run(b"".join(part), "part.warc").documents]
    assert together == apart
    lines = [json.dumps({"text": f"line {number}"}).encode() for number in range(4)]
    together = [document.id for document in run(b"\n".join(lines), "all.jsonl").documents]
    assert together == [document.id for line in reversed(lines) for document in run(line, "part.jsonl").documents][::-1]
    assert all(len(identity) == 32 for identity in together)


def test_the_same_record_twice_gets_two_ids(run) -> None:
    done = run(b"".join(pages(1, 1, 1)))
    assert len({document.id for document in done.documents}) == 3
    assert done.documents[0].id == run(b"".join(pages(1))).documents[0].id


def test_limits_are_params(run) -> None:
    data = record(http(b"<div>" * 50 + b"text here"), number=1) + record(http(b"<p>" * 200 + b"text here"), number=2)
    assert [document.text for document in run(data).documents] == ["text here", "text here"]
    reasons = [reject.reason for reject in run(data, params=IngestParams(max_depth=20, max_tags=100)).rejects]
    assert reasons == ["too_deep", "too_many_tags"]
    texts = "\n".join(json.dumps({"text": text}) for text in ("a" * 10, " " + "b" * 10 + "\r\n", "c" * 11)).encode()
    done = run(texts, "a.jsonl", params=IngestParams(max_characters=10))
    assert [document.text for document in done.documents] == ["a" * 10, "b" * 10]
    assert [(reject.reason, reject.detail) for reject in done.rejects] == [("too_long", "11 characters > 10")]
    assert [reject.reason for reject in run(data, params=IngestParams(max_record_bytes=400)).rejects] == ["too_large"]


def test_a_page_killed_by_the_backstop_is_errored_and_the_shard_not_reproducible(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "EXTRACTION_CPU_S", 0.3)
    hopeless = ("<div " + " ".join(f"a{number}=1" for number in range(300_000)) + ">text").encode()
    done = run(b"".join([*pages(1), record(http(hopeless), number=2), *pages(3)]))
    assert (done.counts.kept, done.counts.errored, done.result.reproducible) == (2, 1, False)
    assert (done.rejects[0].reason, done.rejects[0].url, done.rejects[0].detail) == ("errored", "https://site.example/2", "out of CPU time")


def test_a_page_that_takes_too_much_memory_alone_is_rejected_for_it(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "EXTRACTION_MEMORY_BYTES", 250 << 20)
    heavy = b"<html><p>" + b"too many words " * (1 << 20)
    done = run(b"".join([*pages(1), record(http(heavy), number=2), *pages(3)]))
    assert (done.counts.kept, done.counts.rejected, done.counts.errored) == (2, {"out_of_memory": 1}, 0)
    assert (done.result.reproducible, done.result.metrics["killed_by_backstop"]) == (False, 1)
    assert (done.rejects[0].url, done.rejects[0].detail) == ("https://site.example/2", "out of memory")
    assert done.rejects[0].source == f"a.warc#{len(pages(1)[0])}"


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.jsonl", "a.jsonl.gz"])
def test_an_empty_file_is_an_empty_shard(run, name: str) -> None:
    assert run(b"", name).counts.total == 0


def test_real_pages_are_all_accounted_for_in_stable_bytes(shared_data: Path, run) -> None:
    path = shared_data / "web" / "pages-00.warc.gz"
    first = run(path, path.name)
    assert first.counts.total == 383 and first.counts.kept > 360 and first.counts.errored == 0
    assert first.digests == run(path, path.name).digests


def test_dividing_a_file_changes_no_document(shared_data: Path, run) -> None:
    path = shared_data / "web" / "real_warc" / "commoncrawl_16_pages.warc.gz"
    units = plan_units([File.of(path.name, str(path))], 30_000, "")
    assert len(units) > 3
    parts = [run(path, unit.argument) for unit in units]
    assert [document for part in parts for document in part.documents] == run(path, path.name).documents


def test_real_archives_and_their_mutations_are_accounted_for(shared_data: Path, run) -> None:
    draw = random.Random(1)
    for path in sorted((shared_data / "web" / "real_warc").iterdir()):
        whole = run(path, path.name)
        assert whole.counts.errored == 0
        data = bytearray(path.read_bytes())
        for _ in range(3):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        cut = bytes(data[: draw.randrange(len(data))])
        damaged = run(cut, path.name)
        assert damaged.digests == run(cut, path.name).digests


def test_units_are_named_apart() -> None:
    names = ["b/x.1.warc.gz", "b/x.2.warc.gz", "a.warc", "a.jsonl", "c.jsonl.gz"]
    words = unit_names(names)
    assert words[:2] == ["b-x-1", "b-x-2"] and words[4] == "c"
    assert words[2].startswith("a-") and words[2] != words[3]
    assert unit_names(names[2:3]) == ["a"]
    assert not any("." in word or "/" in word for word in words)


class _Context:
    """What the stage reads of its context before it maps anything."""

    def __init__(self, *names: str) -> None:
        self.inputs: dict[str, object] = {}
        self.sources = tuple(File(name, name, 0, 0, "") for name in names)

    def files(self, role: str) -> tuple[File, ...]:
        return self.sources


@pytest.mark.parametrize(("names", "words"), [(("a.warc", "notes.txt"), "notes.txt"), (("x.hosts",), "no pages"), ((), "no pages")])
def test_files_that_cannot_be_read_are_named(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ingest(_Context(*names), IngestParams())  # type: ignore[arg-type]


def test_kinds_go_by_the_end_of_the_name() -> None:
    kinds = {"a.warc": ".warc", "b/A.WARC.GZ": ".warc.gz", "e.wet": ".wet", "f.warc.wet.gz": ".wet.gz", "c.jsonl": ".jsonl"}
    kinds |= {"d.jsonl.gz": ".jsonl.gz", "g.jsonl.zst": ".jsonl.zst", "x.dataset.json": ".dataset.json", "warc": None, "x.gz": None}
    assert {name: kind_of(name) for name in kinds} == kinds


def test_an_unreadable_file_is_an_os_error(run, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        run(tmp_path / "nowhere.warc")
    (tmp_path / "folder.warc").mkdir()
    with pytest.raises(OSError, match="folder"):
        run(tmp_path / "folder.warc")


def test_gzip_is_recognised_by_its_bytes(run) -> None:
    assert run(gzip.compress(b"".join(pages(1))), "a.warc").counts.kept == run(b"".join(pages(1)), "a.warc.gz").counts.kept == 1
