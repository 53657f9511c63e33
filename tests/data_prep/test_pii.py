"""E-mail and public IP addresses are found and replaced; nothing else of a text changes."""

import gzip
import ipaddress
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.pii.detect import PLACEHOLDERS, find, scrub

PIECES = st.sampled_from(
    ["joe@x.org", "a.b+c@mail.example.com", "93.184.216.34", "10.0.0.1", "2606:2800:220:1::1", "@", ".", ":", "::", "1", "8.8", "be", "com",
     "x", " ", "\n", "[EMAIL]", "[IP]", "]", "[", "-", "é", "中", "png", "_"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text()


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("Write to joe.doe+news@mail.example.co.uk.", "Write to [EMAIL]."),
        ("<jürgen@müller.de>, 'ann_o'neil@x.org'", "<[EMAIL]>, '[EMAIL]'"),
        ("联系abc@qq.com谢谢", "联系[EMAIL]谢谢"),
        ("email=foo@bar.com&x=1 mailto:a@b.io", "email=[EMAIL]&x=1 mailto:[EMAIL]"),
        ("a@b.com,c@d.com;E@F.NET", "[EMAIL],[EMAIL];[EMAIL]"),
        ("from 93.184.216.34:8080, 93.184.216.34.", "from [IP]:8080, [IP]."),
        ("http://[2606:2800:220:1:248:1893:25c8:1946]/ and 2606:2800::1.", "http://[[IP]]/ and [IP]."),
        ("::ffff:93.184.216.34", "::ffff:[IP]"),
        ("user@93.184.216.34", "user@[IP]"),
        ("DNS is 8.8.8.8", "DNS is [IP]"),
    ],
)
def test_addresses_are_replaced(text: str, scrubbed: str) -> None:
    assert scrub(text)[0] == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "@joe, joe@, joe@localhost, a @ b.com",
        "logo@2x.png git@style.css",
        "10.0.0.1 192.168.1.1 127.0.0.1 169.254.1.1 192.0.2.7 224.0.0.1 0.0.0.0",
        "1.2.3.4.5, 300.1.1.1, 93.184.216.034, v93.184.216.34, 93.184.216.34x",
        "14.5.4.3. Installing\n  9.2.1.2 Certificates",
        "add::bad std::vector a::b ::1 fe80::1 2001:db8::1",
        "12:30:45 10:20 00:1a:2b:3c:4d:5e",
    ],
)
def test_what_is_no_public_address_stays(text: str) -> None:
    assert scrub(text) == (text, [])


@given(TEXTS)
@example("a@b.version 93.184.216.34")
@example("a@b.comX93.184.216.34@c.de")
@example("a@b.com2606:2800:220:1::1")
@example("2606:2800:220:1::1:be1joe@x.org")
@example("2606:2800:220::joe@x.org")
def test_scrubbing_twice_is_scrubbing_once(text: str) -> None:
    once, _ = scrub(text)
    assert scrub(once) == (once, [])


@given(TEXTS)
def test_nothing_outside_the_spans_changes(text: str) -> None:
    scrubbed, spans = scrub(text)
    assert spans == find(text) == sorted(spans)
    read = write = 0
    for span in spans:
        assert read <= span.start < span.end and 0 < span.confidence <= 1
        assert scrubbed[write : write + span.start - read] == text[read : span.start]
        write += span.start - read
        assert scrubbed.startswith(PLACEHOLDERS[span.kind], write)
        read, write = span.end, write + len(PLACEHOLDERS[span.kind])
    assert scrubbed[write:] == text[read:]


@given(st.ip_addresses())
def test_an_ip_address_goes_exactly_if_it_is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    public = address.is_global and not address.is_multicast
    if address.version == 6:
        public = public and ("::" not in str(address) or address in ipaddress.ip_network("2000::/3"))
    assert scrub(f"from {address} today")[0] == ("from [IP] today" if public else f"from {address} today")


def test_recall_on_labelled_text(shared_data: Path) -> None:
    wanted = found = extra = 0
    with gzip.open(shared_data / "pii" / "presidio_generated_large.jsonl.gz", "rt") as lines:
        for line in lines:
            entry = json.loads(line)
            ours = {(span.start, span.end) for span in find(entry["full_text"])}
            truth = {
                (span["start_position"], span["end_position"])
                for span in entry["spans"]
                if span["entity_type"] == "EMAIL_ADDRESS"
                or (span["entity_type"] == "IP_ADDRESS" and ipaddress.ip_address(span["entity_value"]).is_global)
            }
            wanted, found, extra = wanted + len(truth), found + len(truth & ours), extra + len(ours - truth)
    assert (found, extra) == (wanted, 0)
    assert wanted == 68


def test_hostile_text_takes_linear_time() -> None:
    for text in ("a@" * 100_000, "a." * 100_000 + "@", "@" + "a." * 100_000, "1." * 200_000, ":" * 200_000 + "z", "a:" * 100_000):
        assert find(text) == []
