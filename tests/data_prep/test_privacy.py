"""The stage that takes personal data out of texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from house import House, documents

from data_prep.documents import Document, DocumentWriter, Reject, read_documents, read_rejects
from data_prep.stages import ScrubParams, scrub, scrub_shard
from pipeline.stage import File, Shard, Unit, UserError

PROSE = "The harbour of {town} lay quiet that morning, and the fishermen talked of nets number {number} and of the price of herring."


def document(name: str, text: str) -> Document:
    return Document(hashlib.sha256(name.encode()).hexdigest()[:32], f"http://x/{name}", text, "", f"x#{name}")


def prose(name: str, number: int) -> Document:
    return document(name, PROSE.format(town=f"Town{number}", number=number))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    (tmp_path / "house").mkdir()
    yield House(tmp_path / "house")


MAILS = [document("mail", PROSE.format(town="Ys", number=3) + " Write to joe@example.org or to 93.184.216.34 soon.")]
CONTACTS = "\n".join(
    f"Office {number}: person{number}@example.org, phone +44 20 7946 0{number}, 93.184.216.{number}" for number in range(100, 104)
)


def pii(
    tmp_path: Path, params: ScrubParams, *documents: Document, key: bytes = b""
) -> tuple[list[Document], list[Reject], dict[str, Any], bytes]:
    """Documents, rejects and counts of one shard, and everything that the shard has written."""
    source = tmp_path / "in.parquet"
    with DocumentWriter(source) as writer:
        for one in documents:
            writer.write(one)
    side = {}
    if key:
        (tmp_path / "key").write_bytes(key)
        side["key"] = File.of("key", tmp_path / "key")
    shard = Shard(Unit("part", "", None, (str(source),)), params, side, str(tmp_path / "out"))
    result = scrub_shard(shard)
    assert result.counts is not None and result.counts.balanced
    paths = [shard.path("documents", ".parquet"), shard.path("rejects", ".parquet"), shard.path("found", ".json")]
    kept, rejected = list(read_documents(paths[0])), list(read_rejects(paths[1]))
    found = json.loads(Path(paths[2]).read_text())
    return kept, rejected, dict(result.metrics) | found, b"".join(Path(path).read_bytes() for path in paths)


def test_a_page_that_is_mostly_personal_data_is_dropped_without_telling_it(tmp_path: Path) -> None:
    page = document("contacts", CONTACTS)
    kept, [reject], counts, _ = pii(tmp_path, ScrubParams(), page, prose("a", 1))
    assert [one.id for one in kept] == [prose("a", 1).id]
    assert reject.reason == "pii_density" and reject.detail.endswith("> 0.2, 12 findings")
    assert counts["email"] == {"findings": 4, "unsure": 0, "documents": 1}
    [shown] = pii(tmp_path, ScrubParams(show_rejected=True), page)[1]
    assert "person100@example.org · +44 20 7946 0100 · 93.184.216.100" in shown.detail
    assert pii(tmp_path, ScrubParams(min_findings=13), page)[1] == [] == pii(tmp_path, ScrubParams(max_density=1.0), page)[1]


def test_urls_lose_what_identifies_a_person(tmp_path: Path) -> None:
    urls = ["http://x/?to=joe@x.org&tel=+442079460958", "ftp://joe:hunter2@x.org/a", "http://x/93.184.216.34"]
    documents_in = [replace(prose("a", number), url=url) for number, url in enumerate(urls)]
    kept, _, counts, _ = pii(tmp_path, ScrubParams(), *documents_in)
    assert [one.url for one in kept] == ["http://x/?to=[EMAIL]&tel=+442079460958", "ftp://[CREDENTIALS]@x.org/a", urls[2]]
    assert counts["urls_changed"] == 2 and counts["documents_changed"] == 0
    [reject] = pii(tmp_path, ScrubParams(), replace(document("contacts", CONTACTS), url=urls[0]))[1]
    assert "joe" not in reject.url


def test_pseudonyms_tie_the_documents_of_a_key_together(tmp_path: Path) -> None:
    params, text = ScrubParams(replacement="pseudonym"), "Mail joe@x.org today."
    one, two = pii(tmp_path, params, document("a", text), document("b", text.upper()), key=bytes(range(32)))[0]
    assert one.text.split()[1] == two.text.split()[1] != "joe@x.org"
    [other] = pii(tmp_path, params, document("a", text), key=bytes(32))[0]
    assert other.text != one.text


def test_the_scrub_stage_reports_counts_and_takes_its_key_from_a_file(house: House, tmp_path: Path) -> None:
    corpus = house.corpus(mails=MAILS, contacts=[document("contacts", CONTACTS)])
    scrubbed = house.run(scrub, ScrubParams(), corpus=corpus)
    [report] = [file for file in scrubbed.files if file.name == "report.json"]
    assert json.loads(Path(report.path).read_text()) == {
        "email": {"findings": 5, "unsure": 0, "documents": 2},
        "ip": {"findings": 5, "unsure": 0, "documents": 2},
        "phone": {"findings": 4, "unsure": 0, "documents": 1},
    }
    key = tmp_path / "key"
    for content in (b"", b"short"):
        key.write_bytes(content)
        with pytest.raises(UserError, match=r"a file of 16 random bytes or more.*scrub\.sources"):
            house.run(scrub, ScrubParams(replacement="pseudonym"), sources=[File.of("key", key)] if content else (), corpus=corpus)
    key.write_bytes(bytes(range(32)))
    keyed = house.run(scrub, ScrubParams(replacement="pseudonym"), sources=[File.of("key", key)], corpus=corpus)
    assert "[EMAIL:" in documents(keyed)[0].text
    house.run(scrub, ScrubParams(replacement="pseudonym"), sources=[File.of("key", key)], corpus=corpus)
    assert house.computed["scrub"] == 0


@pytest.mark.parametrize("replacement", ["placeholder", "pseudonym", "removal"])
def test_scrubbed_documents_are_byte_stable_and_scrubbed_again_the_same(tmp_path: Path, replacement: Any) -> None:
    params = ScrubParams(replacement=replacement, max_density=1.0)
    given = [document("contacts", CONTACTS), *MAILS, prose("a", 1)]
    kept, _, _, content = pii(tmp_path, params, *given, key=bytes(32))
    assert pii(tmp_path, params, *given, key=bytes(32))[3] == content
    again, _, counts, _ = pii(tmp_path, params, *kept, key=bytes(32))
    assert again == kept and counts["documents_changed"] == 0
    assert not any(word in content for word in (b"person10", b"joe@", b"7946", b"93.184"))
