"""A thousand damaged archives, and whatever else is meant to break a step: nothing crashes, hangs, grows or vanishes.

Every case is examined in a child process whose CPU time and memory the operating system bounds, so a hang or a leak fails here as it would
fail a worker. The pages in it are extracted in a child of its own with the limits of `ingest`.
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import mutations
import pytest

from data_prep.isolation import Isolated
from data_prep.pii import KINDS, find, scrub
from data_prep.sources import Page
from data_prep.sources.http import BadBody, BodyTooLarge, UnknownEncoding, decode_body
from data_prep.sources.warc import read_warc

CASES = 1_000
TOGETHER = 20  # are examined at once
CPU_S = 60.0  # they take 1 s
MEMORY_BYTES = 8 << 30  # of address space, which arrow takes by the gigabyte; what is resident is measured by the cases


def examined(numbers: range, data: Path) -> list[str]:
    groups = [numbers[first : first + TOGETHER] for first in range(0, len(numbers), TOGETHER)]
    with Isolated(mutations.examine, CPU_S, MEMORY_BYTES) as examiner:
        return [f"{group}: {found}" for group in groups for found in _words(examiner.map([(list(group), data)])[0])]


def _words(found: object) -> list[str]:
    return found if isinstance(found, list) else [repr(found)]


def test_some_damaged_archives_are_accounted_for(shared_data: Path) -> None:
    assert examined(range(0, CASES, 51), shared_data) == []


@pytest.mark.proof
def test_a_thousand_damaged_archives_are_accounted_for(shared_data: Path) -> None:
    assert examined(range(CASES), shared_data) == []


def test_a_case_is_the_same_whenever_it_is_made(shared_data: Path) -> None:
    cases = [mutations.case(number, shared_data) for number in range(20)]
    assert cases == [mutations.case(number, shared_data) for number in range(20)]
    assert len(set(cases)) == 20


@pytest.mark.parametrize(
    "kind", [".warc", *(pytest.param(kind, marks=pytest.mark.proof) for kind in (".jsonl", ".jsonl.gz", ".html", ".warc.gz"))]
)
def test_a_line_of_200_mb_is_rejected_in_little_memory(kind: str) -> None:
    with Isolated(mutations.swallow, 30, MEMORY_BYTES) as examiner:
        assert examiner.map([(kind,)]) == [[]]


def test_a_body_of_many_gzip_members_is_read_in_time_proportional_to_its_length() -> None:
    begun = time.process_time()
    packed = gzip.compress(b"<html>") + gzip.compress(b"") * 150_000  # each copying all behind it would take 10 s
    assert decode_body(packed, "", "gzip", 1 << 20) == b"<html>"
    assert time.process_time() - begun < 2
    few = packed[:10_000]
    assert decode_body(few[: len(few) // 20 * 20] + b"rubbish", "", "gzip", 1 << 20) == b"<html>"


def test_members_behind_each_other_are_one_body_within_the_limit() -> None:
    one, two = gzip.compress(b"<html>" * 500), gzip.compress(bytes(1 << 20))
    assert decode_body(one * 3, "", "gzip", 9_000) == b"<html>" * 1_500
    assert decode_body(one + two[:-9] + b"rubbish rubbish", "", "gzip", 2 << 20) == b"<html>" * 500
    for body, limit in ((one * 3, 8_999), (one + two, 1 << 20)):
        with pytest.raises(BodyTooLarge):
            decode_body(body, "", "gzip", limit)
    with pytest.raises(BadBody, match="ends early"):
        decode_body(one + two[:-9], "", "gzip", 2 << 20)


def test_encodings_without_end_are_not_undone() -> None:
    with pytest.raises(UnknownEncoding, match="13000 encodings"):
        decode_body(b"<html>", "", "gzip," * 13_000, 1 << 20)


def test_false_lengths_in_a_plain_archive_cost_no_reading_to_its_end(tmp_path: Path) -> None:
    path, false = tmp_path / "a.warc", b"WARC/1.0\r\nContent-Length: 99999999999\r\n\r\n"
    path.write_bytes(false * 2_000 + bytes(32 << 20) + b"\n" + mutations.record(mutations.http()))
    begun = time.process_time()
    outcomes = list(read_warc(path, 1 << 20))
    assert time.process_time() - begun < 10
    assert len(outcomes) == 2_001 and isinstance(outcomes[-1], Page)


SHORT, LONG = 4_000, 40_000  # characters
HOSTILE = {
    "email": ["a.b-c_", "a@", "a@b.co", "@a.", "a (at) ", " (dot) c", "[at]", "a@b-", "é@"],
    "credentials": ["://a:", "https://u:p@", "http://", "://a:b", "a:b@c "],
    "ip": ["1.2.3.4.", "8.8.4.45 ", "1.", "a:", ":", "2a00:1450::1 ", "::1", "255.255.255.255"],
    "secret": ["=", "password=", "api_key=abcd1234efgh5678 ", "A", "sk-", "AKIA", "eyJ", "eyJaaaaaaaaaa.",
               "-----BEGIN PRIVATE KEY-----", "Bearer ", "xoxb-", "SG.", "AccountKey=", "token:'"],
    "credit_card": ["4111 1111 1111 1111 ", "4111111111111111", "4111-", "1234 "],
    "iban": ["DE89370400440532013000 ", "DE89370400440532013000", "DE89 ", "DE"],
    "ssn": ["078-05-1120-", "ssn 219-09-9999 ", "123-45-"],
    "national_id": ["nif 123456789 ", "ABCDEF12", "ABCD123456H", "756.1234.", "nif "],
    "phone": ["+44 20 7946 0958 ", "+", "(1", "tel ", "call ", "555-555-0199-", "x1", "1-.-/", "tel: ", "00"],
    "address": ["12 Main Street ", "12 Main St, ", "12 Main St\n", "Hauptstraße 5, 10115 Berlin\n", "street ", "12-", "12 Aa Bb Cc Dd ",
                "ul. ", "P.O. Box 12 ", "address: 12 Foo ", "12 a "],
    "name": [],  # is Presidio's business
    "any": ["1", "1 ", "1\u00a0", "\u202e1\u202c", "1\u200b", "٠١٢٣", "1\u0301", "1\n", " ", "[EMAIL]", "[EMAIL", "[EMAIL] a 1 "],
}  # fmt: skip


def test_every_detector_is_attacked() -> None:
    assert {*KINDS, "any"} == {*HOSTILE}


@pytest.mark.parametrize("characters", [SHORT, pytest.param(LONG, marks=pytest.mark.proof)])
@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if HOSTILE[kind]])
def test_no_detector_is_slow_on_what_is_made_to_be(kind: str, characters: int) -> None:
    """Eight times as much takes eight times as long, whatever detector it was made for; no megabyte takes 40 s, where text takes 1."""
    for piece in HOSTILE[kind]:
        text = piece * (characters // len(piece))
        part, whole = _spent(text[: len(text) // 8]), _spent(text)
        assert whole < max(24 * part, 0.3), piece
        assert whole < 40 * len(text) / 1e6 + 0.1, piece


def _spent(text: str) -> float:
    """Processor seconds, the least of three: a machine may halve its speed from one moment to the next."""
    return min(_spent_once(text) for _ in range(3))


def _spent_once(text: str) -> float:
    begun = time.process_time()
    find(text)
    return time.process_time() - begun


@pytest.mark.proof
@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if HOSTILE[kind]])
def test_hostile_text_is_scrubbed_once_and_for_all(kind: str) -> None:
    for piece in HOSTILE[kind]:
        for mixed in (piece * 300, (piece + "\u200b") * 200, (piece + " a@b.co 1 ") * 100, "tel " + piece * 99 + " 5551234567"):
            scrubbed = scrub(mixed)[0]
            assert scrub(scrubbed)[0] == scrubbed, mixed[:60]
            assert mutations.later([mixed.strip()]) == []


def test_the_last_page_within_the_limit_of_end_tags_is_read() -> None:
    from data_prep.extract import Limits, extract

    assert extract("</p>" * 100 + "text", limits=Limits(max_tags=100)).text == "text"
    assert extract("</p>" * 101 + "text", limits=Limits(max_tags=100)).refused == "too_many_tags"
    begun = time.process_time()
    assert extract("</p>" * 500_000).refused == "too_many_tags"
    assert time.process_time() - begun < 2
