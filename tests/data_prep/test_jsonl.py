"""JSONL: good lines are texts, bad ones damage with their line number, and none is lost."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from data_prep.sources import Damaged, Outcome, PlainText, Rejected
from data_prep.sources.jsonl import read_jsonl


@pytest.fixture
def read(tmp_path: Path):
    def read(data: bytes, limit: int = 1 << 20, name: str = "a.jsonl") -> list[Outcome]:
        (tmp_path / name).write_bytes(data)
        return list(read_jsonl(tmp_path / name, limit))

    return read


def test_a_line_gives_text_url_and_date(read) -> None:
    line = {"text": "Hello\nthere", "url": "https://a.example/", "date": "2026-01-01", "id": 7, "more": [1, {}]}
    for name in ("a.jsonl", "a.jsonl.gz"):
        data = json.dumps(line).encode() + b'\r\n\n{"text": "no more", "url": null}'
        first, second = read(gzip.compress(data) if name.endswith("gz") else data, name=name)
        assert isinstance(first, PlainText) and isinstance(second, PlainText)
        assert (first.text, first.record.url, first.record.date, first.record.location) == (
            "Hello\nthere",
            "https://a.example/",
            "2026-01-01",
            "1",
        )
        assert (second.text, second.record.url, second.record.location) == ("no more", "", "3")


@pytest.mark.parametrize(
    "bad",
    [b"not json", b"[]", b"{}", b'{"text": 1}', b'{"text": null}', b'{"text": "a", "url": 5}', b'{"text": "\xff"}', b'{"text": "\\ud800"}',
     b'{"text": "a"', b'{"text": "a"} {', b'{"text": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"\0\0\0"],
)  # fmt: skip
def test_a_bad_line_is_damage_and_the_next_is_read(read, bad: bytes) -> None:
    outcomes = read(bad + b'\n{"text": "good"}\n')
    assert [type(outcome) for outcome in outcomes] == [Damaged, PlainText]
    assert [outcome.record.location for outcome in outcomes] == ["1", "2"]


def test_a_line_over_the_limit_is_rejected_unread(read) -> None:
    data = b'{"text": "' + b"x" * (32 << 20) + b'"}\n{"text": "good"}\n'
    tracemalloc.start()
    outcomes = read(data, limit=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(outcomes[0], Rejected) and outcomes[0].reason == "too_large"
    assert isinstance(outcomes[1], PlainText) and outcomes[1].record.location == "2"
    assert peak < 1 << 20


@pytest.mark.parametrize("limit", range(15, 19))
def test_the_limit_is_the_length_of_the_line(read, limit: int) -> None:
    outcomes = read(b'{"text": "1234"}\n{"text": "12"}', limit)
    assert [isinstance(outcome, PlainText) for outcome in outcomes] == [limit >= 17, True]


def test_truncated_and_false_gzip_are_damage_at_a_line(read) -> None:
    lines = b"".join(b'{"text": "number %d"}\n' % number for number in range(5000))
    packed = gzip.compress(lines)
    outcomes = read(packed[: len(packed) // 2], name="a.jsonl.gz")
    assert isinstance(outcomes[-1], Damaged) and len(outcomes) > 100
    assert outcomes[-1].record.location == str(len(outcomes))
    assert all(isinstance(outcome, PlainText) for outcome in outcomes[:-1])
    assert [type(outcome) for outcome in read(lines, name="a.jsonl.gz")] == [Damaged]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_an_empty_file_has_no_records(read, name: str) -> None:
    assert read(b"", name=name) == []


def test_a_byte_order_mark_is_no_damage(read) -> None:
    assert isinstance(read(b'\xef\xbb\xbf{"text": "a"}')[0], PlainText)


def test_the_key_is_the_lines_own(read) -> None:
    one, two = b'{"text": "one"}', b'{"text": "two"}'
    keys = [outcome.record.key for outcome in read(one + b"\n" + two + b"\n" + one)]
    assert keys[0] == keys[2] != keys[1]
    assert read(two)[0].record.key == keys[1]
