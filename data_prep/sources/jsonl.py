"""JSONL files of ready texts, plain or gzip.

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


class _Line(msgspec.Struct):
    text: str
    url: str | None = None
    id: str | int | None = None  # read to be checked only: it is part of the line, and so of the record's key
    date: str | None = None
    # Hints, of which collections have all sorts: what is no string is passed over, it makes no line bad.
    title: Any = None
    published: Any = None
    language: Any = None


def read_jsonl(path: str | os.PathLike[str], max_bytes: int) -> Iterator[Outcome]:
    """All lines of the file in order; blank lines are passed over, other fields ignored.

    A line over `max_bytes` is rejected without being held in memory. Damaged compression ends the file with one `Damaged` at
    the line it was found in. OSError is raised when the file itself cannot be read.
    """
    decoder = msgspec.json.Decoder(_Line)
    number = 0
    with gzip.open(path, "rb") if os.fspath(path).endswith(".gz") else open(path, "rb") as file:
        while True:
            number += 1
            try:
                line = file.readline(max_bytes + 1)
                size = len(line)
                if size > max_bytes:
                    line, size = b"", size + _skip_line(file, max_bytes, line)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                yield Damaged(Record(str(number)), f"damaged gzip ({error})")
                return
            if not size:
                return
            if size > max_bytes:
                yield Rejected(Record(str(number)), "too_large", f"line of {size} bytes")
            elif line.strip():
                yield _judge(decoder, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, number)


def _skip_line(file: gzip.GzipFile | io.BufferedReader, max_bytes: int, line: bytes) -> int:
    skipped = 0
    while line and not line.endswith(b"\n"):
        line = file.readline(max_bytes)
        skipped += len(line)
    return skipped


def _judge(decoder: msgspec.json.Decoder[_Line], line: bytes, number: int) -> Outcome:
    key = hashlib.sha256(line.strip()).digest()
    try:
        fields = decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Damaged(Record(str(number), key=key), str(error))
    hints = [hint if isinstance(hint, str) else "" for hint in (fields.title, fields.published, fields.language)]
    return PlainText(Record(str(number), fields.url or "", fields.date or "", key), fields.text, *hints)
