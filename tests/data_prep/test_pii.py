"""Personal data of all kinds together: what is found is replaced, nothing else changes, and twice is once."""

import doctest
import importlib.util
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.pii import KINDS_OF_GOLD, measure, read_gold
from data_prep.pii import DEFAULT_KINDS, KINDS, PLACEHOLDER, Kind, Span, density, detect, find, replace, scrub
from data_prep.pii.names import names
from data_prep.pii.replace import Replacement, pseudonym
from data_prep.pii.spans import resolve
from pipeline.stage import UserError

KEY = b"a key of sixteen bytes, or more"
PIECES = st.sampled_from(
    ["joe@x.org", "a.b+c@mail.example.com", "(at)", "93.184.216.34", "2606:2800:220:1::1", "@", ".", ":", "::", "1", "8.8", "be",
     "com", "x", " ", "\n", "[EMAIL]", "[IP]", "[PHONE:0123456789ab]", "]", "[", "-", "é", "中", "png", "_", "+44 20 7946 0958",
     "call ", "Tel. ", "555", "0100", "(831) 899-3938", "4111 1111 1111 1111", "123-45-6789", "536-90-4399", "SSN ", "GB82WEST",
     "DE89 3704 0044 0532 0130 00", "1234", "10 Downing Street", ", London ", "SW1A 2AA", "Linienstraße ", "13", "10187 Berlin",
     "Suite 600", "Apt. ", "lives at ", "ZIP ", "94105", "https://joe:pw@", "password=", "hT7$kq9zLw", "BSN ", "111222333", "/",
     ",", "–", "00"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=14).map("".join) | st.text()


@given(TEXTS, st.sampled_from(["placeholder", "pseudonym", "removal"]))
@example("a@b.version 93.184.216.34", "placeholder")
@example("a@b.comX93.184.216.34@c.de", "placeholder")
@example("a@b.com2606:2800:220:1::1", "placeholder")
@example("2606:2800:220:1::1:be1joe@x.org", "placeholder")
@example("2606:2800:220::joe@x.org", "placeholder")
@example("+44 20 joe@x.org 7946 0958", "removal")
@settings(max_examples=200)
def test_scrubbing_twice_is_scrubbing_once(text: str, replacement: Replacement) -> None:
    once, _ = scrub(text, replacement=replacement, key=KEY)
    assert find(once) == []
    assert scrub(once, replacement=replacement, key=KEY) == (once, [])


@given(TEXTS)
@settings(max_examples=100)
def test_nothing_outside_the_spans_changes(text: str) -> None:
    scrubbed, spans = scrub(text)
    assert spans == find(text) == sorted(spans)
    read = write = 0
    for span in spans:
        assert read <= span.start < span.end <= len(text) and 0.5 <= span.confidence <= 1
        assert scrubbed[write : write + span.start - read] == text[read : span.start]
        write += span.start - read
        assert scrubbed.startswith(f"[{span.kind.upper()}]", write)
        read, write = span.end, write + len(span.kind) + 2
    assert scrubbed[write:] == text[read:]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.sampled_from(KINDS), st.sampled_from([0.6, 0.9])), max_size=8))
def test_overlapping_spans_become_spans_of_the_same_characters(raw: list[tuple[int, int, Kind, float]]) -> None:
    text = "a" * 50
    spans = [Span(start, start + length, kind, confidence) for start, length, kind, confidence in raw]
    resolved = resolve(text, spans)
    assert all(before.end <= behind.start for before, behind in pairwise(resolved))
    assert {at for span in resolved for at in range(span.start, span.end)} == {at for span in spans for at in range(span.start, span.end)}


def test_the_kind_that_comes_first_keeps_its_place_unless_it_is_unsure() -> None:
    text = "5 Main Street 0301234567"
    sure, unsure = Span(14, 24, "phone", 0.9), Span(0, 8, "phone", 0.7)
    address = Span(0, 20, "address", 0.8)
    assert resolve(text, [address, sure]) == [Span(0, 13, "address", 0.8), sure]
    assert resolve(text, [address, unsure]) == [address]


def test_removal_leaves_nothing_behind_and_joins_nothing() -> None:
    text = "Write to joe@x.org soon, or to ann@x.org."
    assert scrub(text, replacement="removal") == ("Write to soon, or to.", find(text))
    text = "Ring +44 20 joe@x.org 7946 0958 now."
    shorter, spans = scrub(text, replacement="removal")
    assert shorter == "Ring [PHONE] now."
    assert [(span.kind, text[span.start : span.end]) for span in spans] == [("phone", "+44 20 joe@x.org 7946 0958")]


def test_a_pseudonym_belongs_to_value_kind_and_key() -> None:
    text = "joe@x.org, Joe@X.org, ann@x.org, +44 20 7946 0958, +442079460958"
    scrubbed, _ = scrub(text, replacement="pseudonym", key=KEY)
    words = PLACEHOLDER.findall(scrubbed)
    assert len(words) == 5 and words[0] == words[1] != words[2] and words[3] == words[4]
    assert scrub(text, replacement="pseudonym", key=KEY)[0] == scrubbed
    assert not set(words) & set(PLACEHOLDER.findall(scrub(text, replacement="pseudonym", key=KEY[::-1])[0]))
    assert pseudonym("phone", "0123456789", KEY) != pseudonym("ssn", "0123456789", KEY)
    assert pseudonym("ip", "2606:2800:220:1:0:0:0:1", KEY) == pseudonym("ip", "2606:2800:220:1::1", KEY)
    with pytest.raises(ValueError, match="at least 16 bytes, not 3"):
        scrub(text, replacement="pseudonym", key=b"abc")


def test_density_is_the_share_of_characters() -> None:
    text = "joe@x.org and more"
    assert density(text, find(text)) == 9 / 18
    assert density("", []) == 0


def test_only_what_is_asked_for_is_found() -> None:
    text = "joe@x.org, 93.184.216.34, 10.0.0.9, (831) 899-3938"
    assert {span.kind for span in find(text)} == {"email", "ip", "phone"}
    assert [span.kind for span in find(text, kinds=["ip"])] == ["ip"]
    assert [text[span.start : span.end] for span in find(text, kinds=["ip"], private_ips=True)] == ["93.184.216.34", "10.0.0.9"]
    assert [span.kind for span in find(text, min_confidence=0.75)] == ["email", "ip"]
    assert "name" not in DEFAULT_KINDS


@pytest.mark.parametrize("module", [detect, replace])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert tried.attempted and not tried.failed


@pytest.mark.skipif(importlib.util.find_spec("presidio_analyzer") is not None, reason="Presidio is installed")
def test_names_without_presidio_say_what_to_install() -> None:
    with pytest.raises(UserError, match=r"pip install 'crawl2chat\[names\]'"):
        find("Ada Lovelace was here.", kinds=["name"])


def test_names_through_presidio(tmp_path: Path) -> None:
    """Wiring, offsets and parts of long texts, with a model that knows two names."""
    pytest.importorskip("presidio_analyzer")
    spacy = pytest.importorskip("spacy")
    model = spacy.blank("en")
    ruler = model.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": name} for name in ("Ada Lovelace", "Alan Turing")])
    model.to_disk(tmp_path / "model")
    text = "Ada Lovelace wrote.\n" + "Nothing happens here at all.\n" * 3_000 + "Alan Turing read."
    found = list(names(text, "en", str(tmp_path / "model")))
    assert [text[span.start : span.end] for span in found] == ["Ada Lovelace", "Alan Turing"]
    assert scrub("Mail Ada Lovelace: a@x.org", kinds=KINDS, names_model=str(tmp_path / "model"))[0] == "Mail [NAME]: [EMAIL]"
    with pytest.raises(UserError, match="spaCy model no_such_model"):
        find("Ada", kinds=["name"], names_model="no_such_model")


def test_recall_and_precision_on_labelled_text(shared_data: Path) -> None:
    counts = measure(read_gold(shared_data / "pii"), lambda text: find(text, private_ips=True))
    numbers = [counts[kind] for kind in ("email", "ssn", "credit_card", "iban", "ip", "phone")]
    assert all(counts[kind].recall >= 0.99 for kind in ("email", "ssn", "credit_card", "iban", "ip", "phone"))
    assert sum(one.right for one in numbers) / sum(one.found for one in numbers) >= 0.99
    assert counts["address"].recall >= 0.9 and counts["address"].precision >= 0.98
    assert set(counts) == set(KINDS_OF_GOLD.values())  # nothing of another kind is found at all
