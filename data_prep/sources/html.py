"""Pages saved as files: HTML without a crawler's notes around it."""

from __future__ import annotations

import hashlib
import html
import os
import re
from collections.abc import Iterator, Sequence

from data_prep.sources import Outcome, Page, Record, Rejected

_HEAD = 1 << 16  # bytes in which the page's own address is looked for
_LINK = re.compile(rb"<link\b[^>]{0,2000}>", re.IGNORECASE)
_META = re.compile(rb"<meta\b[^>]{0,2000}>", re.IGNORECASE)
_CANONICAL = re.compile(rb"\brel\s*=\s*[\"']?canonical\b", re.IGNORECASE)
_OG_URL = re.compile(rb"\bproperty\s*=\s*[\"']?og:url\b", re.IGNORECASE)
_HREF = re.compile(rb"\bhref\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>]+))", re.IGNORECASE)
_CONTENT = re.compile(rb"\bcontent\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>]+))", re.IGNORECASE)


def read_html(paths: Sequence[str | os.PathLike[str]], names: Sequence[str], max_bytes: int) -> Iterator[Outcome]:
    """A page for each file, in order; its location is the file's name. Of files over `max_bytes` only the digest is taken."""
    for path, name in zip(paths, names, strict=True):
        with open(path, "rb") as file:
            key = hashlib.file_digest(file, "sha256").digest()
            if (size := file.tell()) > max_bytes:
                yield Rejected(Record(name, key=key), "too_large", f"file of {size} bytes")
                continue
            file.seek(0)
            body = file.read()
        record = Record(name, own_url(body), "", key)
        yield Page(record, body, None) if body.strip() else Rejected(record, "empty_body")


def own_url(body: bytes) -> str:
    """The address that a page gives as its own, by `<link rel=canonical>`, else by `og:url`; "" for none with a host."""
    head = body[:_HEAD]
    for tag, mark, value in ((_LINK, _CANONICAL, _HREF), (_META, _OG_URL, _CONTENT)):
        for match in tag.finditer(head):
            if mark.search(match[0]) and (found := value.search(match[0])):
                url = html.unescape(next(group for group in found.groups() if group is not None).decode("utf-8", "replace")).strip()
                if url.lower().startswith(("http://", "https://")):
                    return url
    return ""
