"""A file divided into parts gives what it gives as a whole; every kind of source gives its texts, and says what it cannot read."""

import gzip
import http.server
import json
import random
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from warcs import http as response
from warcs import members, record

from data_prep.sources import Damaged, Outcome, Page, PlainText, Rejected, files
from data_prep.sources.html import own_url, read_html
from data_prep.sources.huggingface import read_arrow, read_dataset, read_descriptor, shards_of
from data_prep.sources.jsonl import read_jsonl
from data_prep.sources.parquet import read_parquet
from data_prep.sources.units import DIVIDED, open_unit, plan_units, unit_names
from data_prep.sources.warc import read_warc
from pipeline.stage import File, UserError

LIMIT = 1 << 20
ARCHIVES = ["commoncrawl_16_pages.warc.gz", "iana_browser_crawl.warc.gz", "revisit_uncompressed.warc", "wrong_chunks.warc.gz"]


def texts(outcomes: list[Outcome]) -> list[str]:
    return [outcome.text for outcome in outcomes if isinstance(outcome, PlainText)]


def without_locations(outcomes: list[Outcome]) -> list[tuple[object, ...]]:
    """What must not depend on how a file is divided."""
    return [
        (type(o), getattr(o, "record", None) and (o.record.url, o.record.key), getattr(o, "text", ""), getattr(o, "reason", ""))
        for o in outcomes
    ]


def parts(read, path: Path, cuts: list[int]) -> list[Outcome]:
    return [outcome for start, end in pairwise([0, *cuts, None]) for outcome in read(path, LIMIT, start, end)]


# Parts


@pytest.mark.parametrize("name", ARCHIVES)
def test_parts_of_a_real_archive_are_its_records(shared_data: Path, name: str) -> None:
    path = shared_data / "web" / "real_warc" / name
    whole = list(read_warc(path, LIMIT))
    size = path.stat().st_size
    for number in (2, 3, 7, 40):
        assert parts(read_warc, path, [size * part // number for part in range(1, number)]) == whole


RECORDS = st.lists(
    st.sampled_from(
        [record(response(b"<p>" + b"x" * size + b"</p>"), number=size) for size in (1, 50, 900)]
        + [record(b"WARC/1.0\r\nContent-Length: 3\r\n\r\nabc", "metadata"), record(b"x", length=10**6), b"junk\nWARC/1.0 no\n", b"\0\0\0"]
    ),
    max_size=8,
)


@given(RECORDS, st.lists(st.integers(1, 9000), max_size=4), st.sampled_from(["plain", "members", "one", "pieces"]))
def test_parts_of_any_archive_are_its_records(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], cuts: list[int], packing: str
) -> None:
    path = tmp_path_factory.mktemp("parts") / "a.warc"
    data = b"".join(records)
    pieces = [data[at : at + 700] for at in range(0, len(data), 700)]
    packed = {
        "plain": data,
        "members": members(*records),
        "one": gzip.compress(data, mtime=0) if data else b"",
        "pieces": members(*pieces),
    }[packing]
    path.write_bytes(packed)
    cuts = sorted({cut for cut in cuts if cut < len(packed)})
    assert parts(read_warc, path, cuts) == list(read_warc(path, LIMIT))


def test_an_archive_that_holds_an_archive_is_not_divided_wrongly(tmp_path: Path) -> None:
    inner = members(*(record(response(), number=number) for number in range(20)))
    outer = [record(response(), number=30), record(inner, "resource", 31, Content_Type="application/gzip"), record(response(), number=32)]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip.compress(part, 0, mtime=0) for part in outer))  # stored: the inner members lie there as they are
    whole = list(read_warc(path, LIMIT))
    assert [type(outcome) for outcome in whole] == [Page, Rejected, Page]
    seam = path.read_bytes().index(inner) + len(inner) // 2
    with pytest.raises(UserError, match=r"split_bytes=0"):
        list(read_warc(path, LIMIT, 0, seam))
    assert parts(read_warc, path, [path.read_bytes().index(outer[1][:40]) - 25]) == whole


@given(
    st.lists(st.sampled_from([b'{"text": "one"}', b'{"text": "longer line"}', b"", b"bad", b"\xef\xbb\xbf{}", b'{"text": "x"}\r'])),
    st.lists(st.integers(1, 80), max_size=4),
)
def test_parts_of_lines_are_the_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cuts: list[int]) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    data = b"\n".join(lines)
    path.write_bytes(data)
    cuts = sorted({cut for cut in cuts if cut < len(data)})
    assert without_locations(parts(read_jsonl, path, cuts)) == without_locations(list(read_jsonl(path, LIMIT)))


def test_a_line_in_a_part_says_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    assert [outcome.record.location for outcome in read_jsonl(path, LIMIT, 5)] == ["5+1", "5+2"]
    assert [outcome.record.location for outcome in read_jsonl(path, LIMIT, 14, 28)] == ["14+1"]


def write_parquet(path: Path, rows: int, group: int, **columns: object) -> None:
    table = {"text": [f"text {row}" for row in range(rows)], "url": [f"https://site.example/{row}" for row in range(rows)], **columns}
    pyarrow.parquet.write_table(pyarrow.table(table), path, row_group_size=group)


def test_parts_of_a_table_are_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, 1_000, 130, other=list(range(1_000)), date=[None, *["2026-01-01"] * 999])
    whole = list(read_parquet(path, LIMIT))
    assert [outcome.record.location for outcome in whole] == [str(row) for row in range(1, 1_001)]
    assert texts(whole) == [f"text {row}" for row in range(1_000)]
    assert (whole[0].record.date, whole[1].record.date) == ("", "2026-01-01")
    assert parts(read_parquet, path, [1, 3, 8]) == whole


# Planning


def planned(folder: Path, split_bytes: int = 0, prefix: str = "https://x.example/") -> tuple[list, list[list[Outcome]]]:
    found = [File.of(path.relative_to(folder).as_posix(), str(path)) for path in sorted(folder.rglob("*")) if path.is_file()]
    units = plan_units(found, split_bytes, prefix)
    return units, [list(open_unit(unit.argument, unit.paths, LIMIT)[1]) for unit in units if unit.paths]


def test_large_files_are_divided_and_small_ones_are_not(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "number %d"}\n' % number for number in range(1_000))
    (tmp_path / "big.jsonl").write_bytes(lines)
    (tmp_path / "big.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "small.jsonl").write_bytes(lines[:100])
    (tmp_path / "big.warc.gz").write_bytes(members(*(record(response(b"<p>%d</p>" % number), number=number) for number in range(50))))
    write_parquet(tmp_path / "big.parquet", 500, 50)
    units, outcomes = planned(tmp_path, 4_000)
    names = [unit.name for unit in units]
    assert len(names) == len(set(names))
    assert sum(name.startswith("big-") and "part" in name for name in names) > 8
    assert sum(len(found) for found in outcomes) == 1_000 + 1_000 + 500 + 50 + len(list(read_jsonl(tmp_path / "small.jsonl", LIMIT)))
    whole, _ = planned(tmp_path)
    assert [unit.argument for unit in whole] == ["big.jsonl", "big.jsonl.gz", "big.parquet", "big.warc.gz", "small.jsonl"]
    assert {unit.argument for unit in units if isinstance(unit.argument, str)} <= {"small.jsonl", "big.jsonl.gz"}
    json.dumps([unit.argument for unit in units])


def test_saved_pages_are_taken_together_and_a_new_one_changes_one_unit(tmp_path: Path) -> None:
    for number in range(900):
        (tmp_path / f"page-{number:04d}.html").write_text(f"<p>page {number}")
    units, outcomes = planned(tmp_path)
    assert 1 < len(units) < 12 and sum(map(len, outcomes)) == 900
    (tmp_path / "page-0450b.html").write_text("<p>new")
    more, _ = planned(tmp_path)
    assert len({unit.content for unit in more} - {unit.content for unit in units}) <= 2
    assert {unit.name for unit in more} >= {unit.name for unit in units}


def test_a_list_of_paths_is_a_unit_for_each(tmp_path: Path) -> None:
    lines = "crawl-data/a.warc.gz\n\n# later\nhttps://other.example/b.warc.wet.gz\n"
    (tmp_path / "warc.paths.gz").write_bytes(gzip.compress(lines.encode()))
    units, _ = planned(tmp_path, prefix="s3://commoncrawl/")
    assert [unit.argument["url"] for unit in units] == ["s3://commoncrawl/crawl-data/a.warc.gz", "https://other.example/b.warc.wet.gz"]
    assert [unit.name for unit in units] == ["warc-000001", "warc-000004"]
    (tmp_path / "warc.paths.gz").write_bytes(gzip.compress(b"a.warc.gz\nb.pdf\n"))
    with pytest.raises(UserError, match=r"line 2: 'b\.pdf'"):
        planned(tmp_path)


def test_files_of_no_known_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"notes\.txt is no kind"):
        planned(tmp_path)


# Kinds


def test_wet_records_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.wet.gz"
    path.write_bytes(members(record(b"x", "warcinfo"), record("Grüße\naus".encode(), "conversion", 4, Content_Type="text/plain")))
    [_, text] = read_warc(path, LIMIT)
    assert isinstance(text, PlainText) and text.text == "Grüße\naus" and text.record.url == "https://site.example/4"


def test_zstd_lines_are_read_and_their_damage_is_named(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "number %d"}\n' % number for number in range(5_000))
    packed = pyarrow.compress(lines, codec="zstd", asbytes=True)
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(packed + packed)
    assert len(texts(list(read_jsonl(path, LIMIT)))) == 10_000
    for broken in (packed[:-40], packed[: len(packed) // 2], b"no zstd at all", packed + b"trailing"):
        path.write_bytes(broken)
        outcomes = list(read_jsonl(path, LIMIT))
        assert isinstance(outcomes[-1], Damaged) and "zstd" in outcomes[-1].detail


def test_rows_that_cannot_be_texts_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", None, "x" * 2_000]}), path)
    assert [type(outcome) for outcome in read_parquet(path, 1_000)] == [PlainText, Damaged, Rejected]
    pyarrow.parquet.write_table(pyarrow.table({"body": ["one"]}), path)
    with pytest.raises(UserError, match="has no column `text`, only body"):  # or a misnamed file would count as one record
        list(read_parquet(path, LIMIT))
    path.write_bytes(b"PAR1 and nothing more")
    [damaged] = read_parquet(path, LIMIT)
    assert isinstance(damaged, Damaged) and "not a Parquet file" in damaged.detail
    with pytest.raises(OSError, match="nowhere"):
        list(read_parquet(tmp_path / "nowhere.parquet", LIMIT))


def test_invalid_utf_8_in_a_table_is_damage_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    offsets = pyarrow.py_buffer(b"".join(number.to_bytes(4, "little") for number in (0, 4, 6, 10)))
    column = pyarrow.StringArray.from_buffers(3, offsets, pyarrow.py_buffer(b"good\xff\xfefine"))
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
    outcomes = list(read_parquet(path, LIMIT))
    assert [type(outcome) for outcome in outcomes] == [PlainText, Damaged, PlainText]


def test_a_damaged_row_group_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, 300, 100)
    data = bytearray(path.read_bytes())
    column = pyarrow.parquet.read_metadata(path).row_group(1).column(0)
    at = column.dictionary_page_offset or column.data_page_offset
    data[at : at + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    outcomes = list(read_parquet(path, LIMIT))
    assert [type(outcome) for outcome in outcomes] == [PlainText] * 100 + [Damaged] + [PlainText] * 100
    assert "100 rows are lost" in outcomes[100].detail and outcomes[101].record.location == "201"


def test_columns_of_other_types_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({
        "text": pyarrow.array(["one", "one"]).dictionary_encode(),
        "id": pyarrow.array([1, 2]),
        "date": pyarrow.array([0, 10**6], pyarrow.timestamp("us")),
        "url": pyarrow.array(["https://a.example/", None], pyarrow.large_string()),
    })  # fmt: skip
    pyarrow.parquet.write_table(table, path)
    first, second = read_parquet(path, LIMIT)
    assert isinstance(second, PlainText) and second.record.date.startswith("1970-01-01 00:00:01") and second.record.url == ""
    assert first.record.key != second.record.key


def test_saved_pages_are_pages_with_their_own_addresses(tmp_path: Path) -> None:
    bodies = {
        "a.html": b"<head><link href='https://a.example/x?a=1&amp;b=2' rel=\"canonical\">",
        "b.html": b'<meta property="og:url" content="https://b.example/">',
        "c.htm": b"<link rel=canonical href=/relative>",
        "d.html": b" \n",
        "e.html": b"x" * (LIMIT + 1),
        "f.html": b"x" * (1 << 16) + b"<link rel=canonical href=https://late.example/>",
    }
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    outcomes = list(read_html([tmp_path / name for name in bodies], list(bodies), LIMIT))
    assert [outcome.record.location for outcome in outcomes] == list(bodies)
    assert [outcome.record.url for outcome in outcomes] == ["https://a.example/x?a=1&b=2", "https://b.example/", "", "", "", ""]
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, Rejected)] == ["empty_body", "too_large"]
    assert own_url(b"<link " + b"<link rel=canonical " * 100_000) == ""


def test_a_saved_page_is_the_same_record_wherever_it_stands(tmp_path: Path) -> None:
    def records(folder: str, names: list[str]) -> list[bytes]:
        for number, name in enumerate(names):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(b"<p>page %d" % number + b" more" * 1_000 * number)
        outcomes = read_html([tmp_path / folder / name for name in names], names, 3_000)
        return [outcome.record.key for outcome in outcomes if isinstance(outcome, Page | Rejected)]

    here = records("here", ["a.html", "b.html"])
    assert here == records("there", ["site/index.html", "site/b.html"]) and len(set(here)) == 2


def test_data_sets_are_streamed_from_their_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"text": [f"text {row}" for row in range(1_000)], "url": ["https://a.example/"] * 1_000, "more": list(range(1_000))}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    [path] = (tmp_path / "set").glob("*.arrow")
    outcomes = list(read_arrow(path, LIMIT))
    assert texts(outcomes) == rows["text"] and outcomes[-1].record.location == "1000" and outcomes[0].record.url == "https://a.example/"
    for part in range(3):
        write_parquet(tmp_path / f"{part}.parquet", 10, 10)
    load = {"path": "parquet", "data_files": [str(tmp_path / f"{part}.parquet") for part in range(3)], "split": "train"}
    assert shards_of(load) == 3
    assert [len(texts(list(read_dataset(load, LIMIT, shard, 3)))) for shard in range(3)] == [10, 10, 10]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"path": "a/b", "split": "train"}, "path, split, revision"),
        ({"path": "a/b", "split": "train", "revision": "main"}, "give the commit"),
        ({"path": "a/b", "split": "train", "revision": "0" * 40, "streaming": "no"}, "expected a JSON object"),
        ({"path": "/", "split": "train", "revision": "0" * 40}, "is a folder here"),
    ],
)
def test_a_data_set_of_the_hub_is_named_by_its_commit(tmp_path: Path, named: dict[str, str], words: str) -> None:
    (tmp_path / "x.dataset.json").write_text(json.dumps(named))
    with pytest.raises(UserError, match=words):
        read_descriptor(tmp_path / "x.dataset.json")


# Addresses


class _Handler(http.server.BaseHTTPRequestHandler):
    """A server of one file that answers ranges, and fails every third request in the middle of its answer."""

    data = b""
    requests = 0
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def do_HEAD(self) -> None:
        self.answer(self.data, 200 if self.path == "/a.warc.gz" else 404, body=False)

    def do_GET(self) -> None:
        type(self).requests += 1
        if self.path != "/a.warc.gz":
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        first, last = (
            (int(number) if number else len(self.data) - 1 for number in wanted.removeprefix("bytes=").split("-")) if wanted else (0, -1)
        )
        part = self.data[first : last + 1] if wanted else self.data
        if self.requests % 3 == 0:
            self.close_connection = True
            self.send_error(503) if self.requests % 2 else self.answer(part, 206, cut=True)
            return
        self.answer(part, 206 if wanted else 200, first=first)

    def answer(self, part: bytes, status: int, first: int = 0, body: bool = True, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(self.data)}")
        self.end_headers()
        if body:
            self.wfile.write(part[: len(part) // 2] if cut else part)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(files, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(files, "BLOCK_BYTES", 50_000)
    monkeypatch.setattr(files, "_BUFFER", 5_000)
    _Handler.requests = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_an_archive_behind_an_address_is_read_to_its_end_though_the_connection_breaks(server: str, tmp_path: Path) -> None:
    noise = random.Random(1)
    _Handler.data = members(*(record(response(b"<p>" + noise.randbytes(4_000)), number=number) for number in range(100)))
    (tmp_path / "a.warc.gz").write_bytes(_Handler.data)
    assert list(read_warc(f"{server}/a.warc.gz", LIMIT)) == list(read_warc(tmp_path / "a.warc.gz", LIMIT))
    assert 9 < _Handler.requests < 25


def test_an_address_where_nothing_is_is_named(server: str) -> None:
    with pytest.raises(UserError, match="is not there"):
        list(read_warc(f"{server}/b.warc.gz", LIMIT))


def test_a_dead_server_is_one_line_after_some_tries(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TRIES", 2)
    with pytest.raises(UserError, match=r"after 2 tries .*ClientConnectorError"):
        list(read_warc("http://127.0.0.1:9/a.warc.gz", LIMIT))


def test_every_kind_that_is_divided_has_a_name_of_its_own() -> None:
    assert unit_names([f"a{kind}" for kind in DIVIDED])[0].startswith("a-")
