"""WARC files, sound, damaged and hostile: every record is a page, a reject, damage with its offset, or none of our business."""

import gzip
import random
import time
import tracemalloc
import zlib
from pathlib import Path

import brotli
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from warcs import http, members, record

from data_prep.sources import Damaged, Other, Outcome, Page, Rejected
from data_prep.sources.http import BadBody, BodyTooLarge, UnknownEncoding, decode_body
from data_prep.sources.warc import read_warc

LIMIT = 1 << 20
BODY = b"<html><body><p>Hello there.</p></body></html>"


@pytest.fixture
def read(tmp_path: Path):
    def read(data: bytes, limit: int = LIMIT) -> list[Outcome]:
        (tmp_path / "a.warc").write_bytes(data)
        return list(read_warc(tmp_path / "a.warc", limit))

    return read


def shape(outcomes: list[Outcome]) -> list[str]:
    return [outcome.reason if isinstance(outcome, Rejected) else type(outcome).__name__ for outcome in outcomes]


@pytest.mark.parametrize("pack", [b"".join, lambda records: members(*records), lambda records: gzip.compress(b"".join(records))])
def test_pages_come_with_url_date_body_and_charset(read, pack) -> None:
    bodies = [b"<html>one</html>", b"<html>two</html>"]
    records = [record(http(body, "Content-Type: text/html; charset='koi8-r'"), number=i) for i, body in enumerate(bodies)]
    outcomes = read(pack([record(b"software: x", "warcinfo", 9), *records]))
    assert outcomes[0] == Other("warcinfo")
    assert [outcome.body for outcome in outcomes[1:]] == bodies
    assert [outcome.record.url for outcome in outcomes[1:]] == ["https://site.example/0", "https://site.example/1"]
    assert {(outcome.record.date, outcome.charset) for outcome in outcomes[1:]} == {("2026-01-02T03:04:05Z", "koi8-r")}


def test_the_location_is_the_offset_of_the_record(read) -> None:
    first, second = record(http(), number=1), record(http(), number=2)
    assert [outcome.record.location for outcome in read(first + second)] == ["0", str(len(first))]
    assert [outcome.record.location for outcome in read(members(first, second))] == ["0", str(len(members(first)))]
    assert [outcome.record.location for outcome in read(gzip.compress(first + second))] == ["0", f"0+{len(first)}"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (record(http(status="404 Not Found")), "http_status"),
        (record(http(b"x", "Content-Type: image/png")), "not_html"),
        (record(http(b"\x89PNG\r\n\x1a\n", "Content-Type: text/html")), "not_html"),
        (record(http(b"just words", "Content-Type:")), "not_html"),
        (record(http(BODY, "Content-Type:")), "Page"),
        (record(http(b"")), "empty_body"),
        (record(b""), "empty_body"),
        (record(b"", length=0, kind="resource", Content_Type="text/html"), "empty_body"),
        (record(b"10 A 1.2.3.4", Content_Type="text/dns"), "not_http"),
        (record(http(), "revisit"), "revisit"),
        (record(BODY, "resource", Content_Type="text/html"), "Page"),
        (record(b"body", "conversion", Content_Type="text/plain"), "PlainText"),
        (record(b" ", "conversion", Content_Type="text/plain"), "empty_body"),
        (record(http(), "continuation"), "record_type"),
        (record(http(), WARC_Segment_Number="1"), "segmented"),
        (record(http(b"<html>" + b"x" * LIMIT)), "too_large"),
        (record(http(zlib.compress(b"x" * (LIMIT + 1)), "Content-Encoding: deflate")), "too_large"),
        (record(http(b"\x01", "Content-Encoding: compress")), "content_encoding"),
        (record(b"hello"), "Damaged"),
        (record(b"\0" * 40), "Damaged"),
        (record(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 500_000 + b"\r\n\r\n" + BODY), "Damaged"),
        (record(http(b"5\r\nhello\r\nzz\r\n", "Transfer-Encoding: chunked")), "Damaged"),
        (record(http(gzip.compress(BODY)[:-9], "Content-Encoding: gzip")), "Damaged"),
    ],
)  # fmt: skip
def test_every_response_has_one_outcome_and_the_next_record_is_read(read, data: bytes, expected: str) -> None:
    after = record(http(), number=7)
    assert shape(read(data + after)) == [expected, "Page"]
    assert shape(read(members(data, after))) == [expected, "Page"]


@pytest.mark.parametrize("kind", ["request", "metadata", "warcinfo"])
def test_a_crawlers_notes_are_no_documents(read, kind: str) -> None:
    assert read(record(b"GET / HTTP/1.1\r\n\r\n", kind)) == [Other(kind)]


@pytest.mark.parametrize("length", [2**31, 10**17, 10**30, -1, "", "many", 10_000])
def test_a_wrong_length_hides_no_other_record(read, length: int | str) -> None:
    bad, after = record(http(), length=length), record(http(), number=7)
    for data, location in ((bad + after, len(bad)), (members(bad, after), len(members(bad)))):
        outcomes = read(data)
        assert shape(outcomes) == ["Damaged", "Page"]
        assert [outcome.record.location for outcome in outcomes] == ["0", str(location)]


def test_a_claim_of_gigabytes_allocates_nothing(read) -> None:
    read(record(http()))
    tracemalloc.start()
    outcomes = read(record(http(), length=2**31))
    assert shape(outcomes) == ["Damaged"]
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_record_over_the_limit_is_not_held(read) -> None:
    data = gzip.compress(record(http(b"x" * (64 << 20)))) + gzip.compress(record(http(), number=7))
    tracemalloc.start()
    assert shape(read(data)) == ["too_large", "Page"]
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (gzip.compress(b""), []),
        (b"\r\n\r\n", []),
        (b"\0" * 1000, ["Damaged"]),
        (b"no archive at all\n" * 1000, ["Damaged"]),
        (b"\x1f\x8b", ["Damaged"]),
        (b"WARC/1.0\r\nWARC-Type: response\r\n", ["Damaged"]),
        (b"WARC/1.0\r\n" + b"A: b\r\n" * 100_000, ["Damaged"]),
        (members(record(http())) + b"\0" * 5000, ["Page"]),
        (members(record(http())) + b"trailing rubbish", ["Page", "Damaged"]),
        (record(http())[:-4], ["Page"]),
        (record(http()).replace(b"\r\n", b"\n", 8), ["Page"]),
    ],
)
def test_files_that_are_no_archive_or_end_oddly(read, data: bytes, expected: list[str]) -> None:
    assert shape(read(data)) == expected


def test_damage_in_one_member_leaves_the_others(read) -> None:
    parts = [members(record(http(), number=i)) for i in range(5)]
    for position in (0, 12, len(parts[2]) // 2, len(parts[2]) - 6):  # header, data, checksum
        broken = bytearray(parts[2])
        broken[position] ^= 0xFF
        outcomes = read(b"".join([*parts[:2], bytes(broken), *parts[3:]]))
        assert shape(outcomes) == ["Page", "Page", "Damaged", "Page", "Page"], position
        assert outcomes[2].record.location == str(len(parts[0]) + len(parts[1]))


def test_a_record_compressed_in_several_members_is_one_record(read) -> None:
    whole = record(http())
    data = members(whole[:50], whole[50:200], whole[200:], record(http(), number=7))
    assert shape(read(data)) == ["Page", "Page"]


def test_the_key_knows_the_record_and_not_the_file(read) -> None:
    one, two = record(http(), number=1), record(http(), number=2)
    together = [outcome.record.key for outcome in read(members(one, two))]
    assert together == [read(one)[0].record.key, read(two)[0].record.key]
    assert len({*together, read(record(http(b"<html>other"), number=1))[0].record.key}) == 3


@pytest.mark.parametrize("name", ["commoncrawl_16_pages", "transfer_compression_brotli", "transfer_compression_gzip", "wrong_chunks"])
def test_real_archives_give_their_pages(shared_data: Path, name: str) -> None:
    outcomes = list(read_warc(shared_data / "web" / "real_warc" / f"{name}.warc.gz", 32 << 20))
    pages = [outcome for outcome in outcomes if isinstance(outcome, Page)]
    assert len(pages) == (16 if name.startswith("common") else 1)
    assert all(b"<" in page.body[:1000] for page in pages)
    assert not any(isinstance(outcome, Damaged) for outcome in outcomes)


def test_sound_archives_are_read_as_fastwarc_reads_them(shared_data: Path) -> None:
    path = shared_data / "web" / "pages-00.warc.gz"
    pages = [outcome for outcome in read_warc(path, 32 << 20) if isinstance(outcome, Page)]
    with open(path, "rb") as file:
        records = [
            (str(known.stream_pos), known.headers["WARC-Target-URI"], known.headers["WARC-Date"], known.reader.read())
            for known in ArchiveIterator(file, record_types=WarcRecordType.response)
        ]
    assert [(page.record.location, page.record.url, page.record.date, page.body) for page in pages] == records


def test_mutations_of_real_archives_neither_crash_nor_hang_nor_vanish(shared_data: Path, read) -> None:
    """Truncated, flipped, cut out and doubled at seeded places: the undamaged head is read as before, twice the same."""
    draw = random.Random(5)
    for path in sorted((shared_data / "web" / "real_warc").iterdir()):
        data = path.read_bytes()[:200_000]
        whole = read(data)
        for _ in range(8):
            at, size = draw.randrange(len(data)), draw.randrange(1, 2000)
            flipped = bytearray(data)
            flipped[at] ^= 1 << draw.randrange(8)
            for mutant in (data[:at], bytes(flipped), data[:at] + data[at + size :], data[:at] + draw.randbytes(size) + data[at:]):
                start = time.monotonic()
                outcomes = read(mutant)
                assert outcomes == read(mutant)
                assert time.monotonic() - start < 20
                head = [known for known in whole if not isinstance(known, Other) and int(known.record.location.split("+")[0]) < at][:-1]
                assert [outcome for outcome in outcomes if not isinstance(outcome, Other)][: len(head)] == head


def test_encodings_are_undone() -> None:
    packed_as = {
        "gzip": gzip.compress(BODY),
        "x-gzip": gzip.compress(BODY),
        "deflate": zlib.compress(BODY),
        "br": brotli.compress(BODY),
        "gzip, br": brotli.compress(gzip.compress(BODY)),
        "identity": BODY,
    }
    for encoding, packed in packed_as.items():
        assert decode_body(packed, "", encoding, LIMIT) == BODY
    raw = zlib.compressobj(wbits=-15)
    assert decode_body(raw.compress(BODY) + raw.flush(), "", "deflate", LIMIT) == BODY
    chunked = b"5;x=y\r\n" + BODY[:5] + b"\r\n" + f"{len(BODY) - 5:X}".encode() + b"\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"
    assert decode_body(chunked, "chunked", "", LIMIT) == BODY


def test_bodies_stored_decoded_under_the_original_headers_are_taken_as_they_are() -> None:
    for encoding in ("gzip", "deflate", "br"):
        assert decode_body(BODY, "chunked", encoding, LIMIT) == BODY


@pytest.mark.parametrize(
    "chunked",
    [b"5\r\nhello", b"5\r\nhelloX", b"ffffffff\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n", b"5\r\nhello\r\n-1\r\n", b"5\r\nhello\r\n0"],
)
def test_wrong_chunks_are_damage(chunked: bytes) -> None:
    with pytest.raises(BadBody):
        decode_body(chunked, "chunked", "", LIMIT)


def test_a_compression_bomb_stops_at_the_limit() -> None:
    bombs = {
        "gzip": gzip.compress(b"\0" * (64 << 20)),
        "deflate": zlib.compress(b"\0" * (64 << 20)),
        "br": brotli.compress(b"\0" * (64 << 20), quality=1),
    }
    tracemalloc.start()
    for encoding, bomb in bombs.items():
        with pytest.raises(BodyTooLarge):
            decode_body(bomb, "", encoding, LIMIT)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_an_encoding_without_decoder_is_named() -> None:
    with pytest.raises(UnknownEncoding, match="zstd"):
        decode_body(b"x", "", "zstd", LIMIT)
