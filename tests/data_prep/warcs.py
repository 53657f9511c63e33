"""Small WARC files for the tests of reading them, written by hand so that they can also be wrong."""

import gzip


def http(body: bytes = b"<html><body><p>Hello there.</p></body></html>", *headers: str, status: str = "200 OK") -> bytes:
    if not any(header.lower().startswith("content-type") for header in headers):
        headers = ("Content-Type: text/html", *headers)
    return "\r\n".join([f"HTTP/1.1 {status}", *(header for header in headers if header != "Content-Type:"), "", ""]).encode() + body


def record(block: bytes, kind: str = "response", number: int = 0, length: int | str | None = None, **extra: str) -> bytes:
    """One record; `length` overrides what it claims. Extra headers: `Content_Type="text/html"`."""
    headers = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:00000000-0000-0000-0000-{number:012d}>",
        "WARC-Target-URI": f"https://site.example/{number}",
        "WARC-Date": "2026-01-02T03:04:05Z",
        "Content-Type": "application/http; msgtype=response",
        "Content-Length": str(len(block) if length is None else length),
    }
    headers.update({name.replace("_", "-"): value for name, value in extra.items()})
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value]
    return b"WARC/1.0\r\n" + "".join(lines).encode() + b"\r\n" + block + b"\r\n\r\n"


def members(*records: bytes) -> bytes:
    return b"".join(gzip.compress(record, mtime=0) for record in records)
