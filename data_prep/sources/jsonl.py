"""JSONL files of ready texts, plain, gzip or zstd.

One object a line with `text` and, if known, `url`, `id`, `date`, `title`, `published` and `language`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec

from data_prep.sources import Damaged, Outcome, PlainText, Record, Rejected
from data_prep.sources.files import open_source


class _Line(msgspec.Struct):
    text: str
    url: str | None = None
    id: str | int | None = None  # read to be checked only: it is part of the line, and so of the record's key
    date: str | None = None
    # Hints, of which collections have all sorts: what is no string is passed over, it makes no line bad.
    title: Any = None
    published: Any = None
    language: Any = None


def read_jsonl(path: str | os.PathLike[str], max_bytes: int, start: int = 0, end: int | None = None) -> Iterator[Outcome]:
    """The lines of the file (a path or URL) in order; blank lines are passed over, other fields ignored.

    Of a plain file those that start from byte `start` to before byte `end`: all such parts together give what the whole file gives.
    The location of a line is its number, behind a `start` that is not 0 `<start>+<number>`. A line over `max_bytes` is rejected
    without being held in memory. Damaged compression ends the file with one `Damaged` at the line it was found in. OSError is raised
    when the file itself cannot be read.
    """
    decoder = msgspec.json.Decoder(_Line)
    number = 0
    with open_source(path) as raw, _unpacked(raw, os.fspath(path).lower()) as file:
        position = _seek_to_line(file, start) if start else 0
        while end is None or position < end:
            number += 1
            location = f"{start}+{number}" if start else str(number)
            try:
                line = file.readline(max_bytes + 1)
                size = len(line)
                if size > max_bytes:
                    line, size = b"", size + _skip_line(file, max_bytes, line)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                yield Damaged(Record(location), f"damaged gzip ({error})")
                return
            except OSError as error:
                if error.errno is not None:  # pyarrow's errors of decompression have none
                    raise
                yield Damaged(Record(location), f"damaged zstd ({error})")
                return
            if not size:
                return
            position += size
            if size > max_bytes:
                yield Rejected(Record(location), "too_large", f"line of {size} bytes")
            elif line.strip():
                yield _judge(decoder, line.removeprefix(b"\xef\xbb\xbf") if number == 1 and not start else line, location)


def _unpacked(file: io.BufferedReader, name: str) -> io.BufferedReader | gzip.GzipFile:
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=file)
    if name.endswith(".zst"):
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd"), 1 << 20)
    return file


def _seek_to_line(file: io.BufferedReader | gzip.GzipFile, start: int) -> int:
    """Go to the first line that starts at byte `start` or behind it; returns where that is."""
    position = file.seek(start - 1)
    while byte_line := file.readline(1 << 20):
        position += len(byte_line)
        if byte_line.endswith(b"\n"):
            break
    return position


def _skip_line(file: gzip.GzipFile | io.BufferedReader, max_bytes: int, line: bytes) -> int:
    skipped = 0
    while line and not line.endswith(b"\n"):
        line = file.readline(max_bytes)
        skipped += len(line)
    return skipped


def _judge(decoder: msgspec.json.Decoder[_Line], line: bytes, location: str) -> Outcome:
    key = hashlib.sha256(line.strip()).digest()
    try:
        fields = decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Damaged(Record(location, key=key), str(error))
    hints = [hint if isinstance(hint, str) else "" for hint in (fields.title, fields.published, fields.language)]
    return PlainText(Record(location, fields.url or "", fields.date or "", key), fields.text, *hints)
