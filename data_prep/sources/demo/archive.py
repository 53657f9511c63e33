"""Demo pages as HTTP responses in WARC 1.1 files, one gzip member a record, with the same bytes on every machine."""

from __future__ import annotations

import datetime
import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from hashlib import sha256

_FIRST = datetime.datetime(2025, 3, 1, tzinfo=datetime.UTC)
_BLOCK = 65_535  # the most a stored deflate block holds


def gzip_stored(data: bytes) -> bytes:
    """A gzip member (RFC 1952) of stored blocks. What a compressor makes of the same input differs between versions of
    zlib; stored blocks do not, and these pages are small."""
    blocks = [data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)] or [b""]
    body = b"".join(
        struct.pack("<BHH", block_number == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
        for block_number, block in enumerate(blocks)
    )
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def response(body: bytes, content_type: str, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> bytes:
    """An HTTP/1.1 response. `content_type` may be empty."""
    lines = {
        "Server": "demo",
        **({"Content-Type": content_type} if content_type else {}),
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def chunked(body: bytes, size: int = 512) -> bytes:
    """The body in HTTP chunks."""
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def record_id(seed: int, number: int) -> str:
    return f"<urn:uuid:{uuid.UUID(bytes=sha256(f'{seed}/record/{number}'.encode()).digest()[:16], version=4)}>"


def _record(kind: str, identity: str, number: int, content_type: str, block: bytes, url: str = "") -> bytes:
    date = (_FIRST + datetime.timedelta(seconds=7 * number)).strftime("%Y-%m-%dT%H:%M:%SZ")
    headers = {
        "WARC-Type": kind,
        **({"WARC-Target-URI": url} if url else {}),
        "WARC-Date": date,
        "WARC-Record-ID": identity,
        "Content-Type": content_type,
        "Content-Length": str(len(block)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return gzip_stored(f"WARC/1.1\r\n{head}\r\n".encode() + block + b"\r\n\r\n")


def warc(seed: int, file_number: int, responses: Sequence[tuple[int, str, bytes]]) -> bytes:
    """One WARC file of (record number, url, HTTP response), behind a warcinfo record."""
    about = b"software: crawl2chat demo\r\nformat: WARC File Format 1.1\r\n"
    records = [_record("warcinfo", record_id(seed, -1 - file_number), 0, "application/warc-fields", about)]
    records += [
        _record("response", record_id(seed, number), number, "application/http; msgtype=response", block, url)
        for number, url, block in responses
    ]
    return b"".join(records)
