"""WARC files (ISO 28500; WET files are such too), plain or gzip, whole or a part of one, read as a stream that survives damage.

Every damaged stretch becomes one `Damaged` with its offset, and reading goes on at the next record that can be found: the next
gzip member that starts with a WARC record, or, in a plain file, the next line that starts one. That is why the few lines of
framing are written here: fastwarc's iterator ends without a word at a truncated member and lets a wrong length swallow the
records behind it. On sound archives both read the same, which a test checks.

A part is a range of bytes, and its records are those that start in it: all parts together give what the whole file gives, in the
same order. The first record of a part is found in a gzip file by looking for a member that starts a record, and in a plain file
by going from header to header. A part ends by looking whether its successor will start where it ended: a record that holds a gzip
WARC file itself could mislead it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from isal import isal_zlib as zlib  # reads the same streams in half the time

from data_prep.sources import Damaged, Other, Outcome, Page, PlainText, Record, Rejected
from data_prep.sources.files import open_source
from data_prep.sources.http import BadBody, BodyTooLarge, UnknownEncoding, decode_body
from pipeline.stage import UserError

HTML_TYPES = ("text/html", "application/xhtml+xml")
NOT_DOCUMENTS = ("warcinfo", "request", "metadata")

_READ = 1 << 15  # bytes read at once of a compressed stream
_BLOCK = 1 << 20  # and of anything else
_PROBE = 1 << 12  # and of a gzip member to see what it starts with
_HEADER_LIMIT = 1 << 16
_GZIP = b"\x1f\x8b\x08"
_START = b"WARC/"
_CONTENT_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*([0-9]{1,18})[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
_STATUS = re.compile(rb"HTTP/[0-9.]+[ \t]+([0-9]{3})(?![0-9])")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s;\"']+)", re.IGNORECASE)
_LOOKS_LIKE_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body|title)\b", re.IGNORECASE)
_BINARY_SIGNATURES = (b"%PDF-", b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"PK\x03\x04", b"\x1f\x8b\x08", b"RIFF", b"\x7fELF",
                      b"\xd0\xcf\x11\xe0", b"OggS", b"ID3", b"wOFF", b"wOF2", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # fmt: skip


def read_warc(path: str | os.PathLike[str], max_bytes: int, start: int = 0, end: int | None = None) -> Iterator[Outcome]:
    """The records of the file (a path or URL) that start from byte `start` to before byte `end`, in order; all of them by default.

    A `Page` comes from a `response` with status 200, or a `resource`, that holds HTML: by its content type, or without one by
    its first bytes; a `PlainText` from a `conversion` to plain text. Records and bodies over `max_bytes` are rejected without being
    held in memory. OSError is raised when the file itself cannot be read, UserError for a file that cannot be divided at `end`.
    """
    for raw in _raw_records(path, max_bytes, start, end):
        yield raw if isinstance(raw, Damaged) else _judge(raw, max_bytes)


# Framing: from the file to header and block of every record


@dataclass(frozen=True, slots=True)
class _RawRecord:
    location: str
    header: bytes
    length: int  # of the block, as claimed and found
    digest: bytes  # sha256 of the block
    block: bytes | None  # None: over the limit


class _BadGzip(Exception):
    """A gzip member cannot be read on."""


class _BadRecord(Exception):
    """The stream is sound, but no record stands where one should."""


def _raw_records(path: str | os.PathLike[str], max_bytes: int, start: int, end: int | None) -> Iterator[_RawRecord | Damaged]:
    with open_source(path) as file:
        if file.peek(2)[:2] != _GZIP[:2]:
            yield from _frame(_Stream(file), "", max_bytes, start, end)
            return
        if start and not _seek_to_member(file, start, end):
            return
        while file.peek(1) and not _only_zeros_left(file):
            begun = file.tell()
            if end is not None and begun >= end and _member_starts(file, with_record=True):
                break
            member = io.BufferedReader(_Members(file), _READ)
            sound = yield from _frame(_Stream(member), str(begun), max_bytes)
            if not sound and not _seek_to_member(file, begun + 1):
                return
        if end is not None:
            _require_seam(path, file, end)


def _require_seam(path: str | os.PathLike[str], file: io.BufferedReader, end: int) -> None:
    """The next part looks for its first record from `end` on: it must be where this part has ended."""
    over = not file.peek(1) or _only_zeros_left(file)
    position = file.tell()
    found = _seek_to_member(file, end)
    if found == over or (found and file.tell() != position):
        raise UserError(
            f"{os.fspath(path)}: cannot be divided at byte {end}: a record there holds a gzip WARC file itself; set ingest.split_bytes=0"
        )


class _Members(io.RawIOBase):
    """The decompressed bytes of a gzip member and of those behind it that do not start a record; then the file stands behind them.

    Each record should be a member of its own, but a file may also have been compressed in pieces of another size.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._decoder = zlib.decompressobj(31)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = b""
        while not data:
            if self._decoder.eof:
                if _member_starts(self._file, with_record=False):
                    self._decoder = zlib.decompressobj(31)
                else:
                    return 0
            compressed = self._decoder.unconsumed_tail or self._file.read(_READ)
            try:
                data = self._decoder.decompress(compressed, len(buffer))
            except zlib.error as error:  # type: ignore[misc]
                raise _BadGzip(f"damaged gzip member ({error})") from None
            if self._decoder.eof:
                self._file.seek(-len(self._decoder.unused_data), os.SEEK_CUR)
            elif not compressed and not data:
                raise _BadGzip("the file ends inside a gzip member")
        buffer[: len(data)] = data
        return len(data)


def _member_starts(file: io.BufferedReader, with_record: bool) -> bool:
    """Whether a gzip member starts here whose data starts (or does not start) a WARC record; the file stays where it is."""
    beginning = file.read(_PROBE)
    file.seek(-len(beginning), os.SEEK_CUR)
    try:
        data = zlib.decompressobj(31).decompress(beginning, len(_START))
    except zlib.error:  # type: ignore[misc]
        return False
    return beginning.startswith(_GZIP) and (data == _START) == with_record


class _Stream:
    """Bytes with their position, counted from where reading began."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self.position = 0

    def line(self) -> bytes:
        line = self._file.readline(_HEADER_LIMIT)
        self.position += len(line)
        return line

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, _BLOCK))
        self.position += len(data)
        return data

    def left(self) -> int | None:
        """How many bytes there are from here on; None for a gzip member, which only knows at its end."""
        if not self._file.seekable():
            return None
        if not self._size:
            self._size = self._file.seek(0, os.SEEK_END)
            self._file.seek(self.position)
        return self._size - self.position

    def skip(self, size: int) -> None:
        """Go on without reading. Only for streams that can seek."""
        self.position = self._file.seek(self.position + size)

    def back_to(self, position: int) -> None:
        """Go back if the stream can; a gzip member only reads on."""
        if self._file.seekable():
            self._file.seek(position)
            self.position = position


def _frame(
    stream: _Stream, member: str, max_bytes: int, first: int = 0, end: int | None = None
) -> Generator[_RawRecord | Damaged, None, bool]:
    """The records of one stream; returns False if its compression is damaged, so that nothing behind can be read.

    Of a plain file those that start from byte `first` to before `end`; the others are passed over by their length. A record is
    yielded when what follows it has been read too, because the checksum of a gzip member stands behind its data.
    """

    def location() -> str:
        return f"{member}+{start}" if member and start else member or str(start)

    start, header = 0, b""
    try:
        start, line = _next_line(stream)
        while line and (end is None or start < end):
            header = b""
            outcome: _RawRecord | Damaged
            try:
                header = _read_header(stream, line)
                outcome = _read_block(stream, location(), header, max_bytes if start >= first else 0, skip=start < first)
                following = _next_line(stream)
            except _BadRecord as error:
                outcome = Damaged(_record_of(_fields(header), location()), str(error))
                stream.back_to(start + 1)
                following = _next_start(stream)
            if start >= first:
                yield outcome
            start, line = following
    except _BadGzip as error:
        yield Damaged(_record_of(_fields(header), location()), str(error))
        return False
    return True


def _next_line(stream: _Stream) -> tuple[int, bytes]:
    """The next line that is not blank, with its position; b"" at the end."""
    while True:
        position, line = stream.position, stream.line()
        if not line or line.strip(b"\r\n"):
            return position, line


def _next_start(stream: _Stream) -> tuple[int, bytes]:
    """The next line that starts a record, with its position; b"" at the end."""
    at_line_start = stream.position == 0
    while True:
        position, line = stream.position, stream.line()
        if not line or (at_line_start and line.startswith(_START)):
            return position, line
        at_line_start = line.endswith(b"\n")


def _read_header(stream: _Stream, line: bytes) -> bytes:
    if not line.startswith(_START):
        raise _BadRecord("no WARC record starts here")
    lines, size = [], 0
    while line.strip(b"\r\n"):
        lines.append(line.rstrip(b"\r\n") + b"\r\n")
        size += len(line)
        if size > _HEADER_LIMIT:
            raise _BadRecord(f"WARC header over {_HEADER_LIMIT} bytes")
        line = stream.line()
    if not line:
        raise _BadRecord("the WARC header ends early")
    return b"".join(lines) + b"\r\n"


def _read_block(stream: _Stream, location: str, header: bytes, max_bytes: int, skip: bool = False) -> _RawRecord:
    claimed = _CONTENT_LENGTH.search(header)
    if claimed is None:
        raise _BadRecord("the WARC header has no valid Content-Length")
    length = int(claimed[1])
    left = stream.left()
    if left is not None and length > left:  # or every such claim would have the file read to its end
        raise _BadRecord(f"the record claims {length} bytes, {left} are there")
    digest, parts, found = hashlib.sha256(), [], 0
    if skip:
        stream.skip(length)
        found = length
    while found < length:
        data = stream.read(length - found)
        if not data:
            raise _BadRecord(f"the record claims {length} bytes, {found} are there")
        found += len(data)
        digest.update(data)
        if length <= max_bytes:
            parts.append(data)
    return _RawRecord(location, header, length, digest.digest(), b"".join(parts) if length <= max_bytes else None)


def _seek_to_member(file: io.BufferedReader, position: int, end: int | None = None) -> bool:
    """Go to the next gzip member from `position` to before `end` whose data starts a WARC record."""
    while end is None or position < end:
        file.seek(position)
        window = file.read(_BLOCK)
        at = window.find(_GZIP)
        while at >= 0:
            file.seek(position + at)
            if _member_starts(file, with_record=True):
                return end is None or position + at < end
            at = window.find(_GZIP, at + 1)
        if len(window) < _BLOCK:
            return False
        position += _BLOCK - len(_GZIP) + 1
    return False


def _only_zeros_left(file: io.BufferedReader) -> bool:
    """Whether nothing but zeros is left, as on archives padded to whole blocks; if not, the file stays where it is."""
    if file.peek(1)[:1] != b"\0":
        return False
    start = file.tell()
    while block := file.read(_BLOCK):
        if block.strip(b"\0"):
            file.seek(start)
            return False
    return True


# Judging: what a whole record holds


def _judge(raw: _RawRecord, max_bytes: int) -> Outcome:
    fields = _fields(raw.header)
    record = _record_of(fields, raw.location, raw.digest)
    kind = fields.get("warc-type", "").lower()
    if kind in NOT_DOCUMENTS:
        return Other(kind)
    if kind == "revisit":
        return Rejected(record, "revisit")
    if kind not in ("response", "resource", "conversion"):
        return Rejected(record, "record_type", kind[:80])
    if "warc-segment-number" in fields:
        return Rejected(record, "segmented", "the body is spread over several records")
    if raw.block is None:
        return Rejected(record, "too_large", f"record of {raw.length} bytes")
    if not raw.block:
        return Rejected(record, "empty_body")
    content_type = fields.get("content-type", "")
    if kind == "response":
        if not (content_type.lower().startswith("application/http") or raw.block.startswith(b"HTTP/")):
            return Rejected(record, "not_http", content_type[:80])
        return _judge_http(record, raw.block, max_bytes)
    if kind == "conversion" and content_type.split(";")[0].strip().lower() in ("text/plain", ""):
        return _judge_text(record, raw.block)
    return _judge_body(record, raw.block, content_type)


def _judge_http(record: Record, block: bytes, max_bytes: int) -> Outcome:
    status = _STATUS.match(block)
    end = _HEADER_END.search(block, 0, _HEADER_LIMIT)
    if status is None or end is None:
        return Damaged(record, "no HTTP status line" if status is None else f"no end of the HTTP header in {_HEADER_LIMIT} bytes")
    if status[1] != b"200":
        return Rejected(record, "http_status", status[1].decode())
    fields = _fields(block[: end.start()])
    content_type = fields.get("content-type", "")
    if content_type and not _is_html(content_type):  # an image need not be decoded to be refused
        return Rejected(record, "not_html", content_type[:80])
    try:
        body = decode_body(block[end.end() :], fields.get("transfer-encoding", ""), fields.get("content-encoding", ""), max_bytes)
    except BodyTooLarge as error:
        return Rejected(record, "too_large", f"body {error}")
    except UnknownEncoding as error:
        return Rejected(record, "content_encoding", str(error)[:80])
    except BadBody as error:
        return Damaged(record, str(error))
    return _judge_body(record, body, content_type)


def _judge_text(record: Record, block: bytes) -> Outcome:
    """The text that somebody else made of a page (WET); always UTF-8."""
    text = block.decode("utf-8", "replace")
    return PlainText(record, text) if text.strip() else Rejected(record, "empty_body")


def _judge_body(record: Record, body: bytes, content_type: str) -> Outcome:
    if not body.strip():
        return Rejected(record, "empty_body")
    if content_type and not _is_html(content_type):
        return Rejected(record, "not_html", content_type[:80])
    if body.startswith(_BINARY_SIGNATURES):
        return Rejected(record, "not_html", f"{content_type[:80]}, but the body starts with {body[:4]!r}")
    if not content_type and not _LOOKS_LIKE_HTML.search(body[:1024]):
        return Rejected(record, "not_html", "no content type")
    charset = _CHARSET.search(content_type)
    return Page(record, body, charset[1] if charset else None)


def _is_html(content_type: str) -> bool:
    return content_type.split(";")[0].strip().lower() in HTML_TYPES


def _fields(header: bytes) -> dict[str, str]:
    """The named fields behind the first line, names in lower case; of several fields of a name the first counts."""
    fields: dict[str, str] = {}
    lines = _FOLD.sub(b" ", header).split(b"\n")[1:]
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            fields.setdefault(name.strip().lower().decode("latin-1"), value.strip().decode("utf-8", "replace"))
    return fields


def _record_of(fields: Mapping[str, str], location: str, digest: bytes = b"") -> Record:
    url = fields.get("warc-target-uri", "").removeprefix("<").removesuffix(">")  # wget writes it in brackets
    date = fields.get("warc-date", "")
    names = "\0".join([fields.get("warc-record-id", ""), url, date])
    return Record(location, url, date, hashlib.sha256(names.encode() + b"\0" + digest).digest() if digest else b"")
