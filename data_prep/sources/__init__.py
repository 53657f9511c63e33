"""Where pages come from: one module per file format. Each reads a file as a stream of the outcomes defined here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one record of a source file before anything is made of it.

    location  where it stands in its file: the byte offset of a WARC record, the line number (from 1) of a JSONL file
    key       digest of the record's own bytes and names, the same in whatever file the record stands; b"" if unreadable
    """

    location: str
    url: str = ""
    date: str = ""
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page: the body without transfer and content encodings, and the charset its server or record declared."""

    record: Record
    body: bytes
    charset: str | None


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text that needs no extraction, with what the source says of it."""

    record: Record
    text: str
    title: str = ""
    published: str = ""
    language_hint: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A sound record that is not wanted."""

    record: Record
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A record, or a stretch of the file, that cannot be read."""

    record: Record
    detail: str


@dataclass(frozen=True, slots=True)
class Other:
    """A record that never holds a document (a crawler's request, its notes)."""

    kind: str


Outcome = Page | PlainText | Rejected | Damaged | Other
