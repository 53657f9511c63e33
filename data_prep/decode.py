"""From the bytes of a page to text, whatever charset they are said to be in.

The order, the first that holds wins:
1. a byte order mark (UTF-8, UTF-16)
2. a declared 7-bit charset (ISO-2022-…) if its escapes are there, a declared UTF-16 if there are NUL bytes: these bytes would pass
   for UTF-8
3. UTF-8, if nearly all that is not ASCII decodes as such: other charsets hardly ever look like UTF-8 by accident, while servers
   that declare ISO-8859-1 for everything are many. A few bad bytes (a text cut by its length) become U+FFFD
4. the charset of the HTTP header, then of the page's meta tag, then the one detected from the bytes; each only if nearly all of
   it decodes
5. Windows-1252, which takes any byte
Names are read as browsers read them (WHATWG Encoding: ISO-8859-1 means Windows-1252), so no label can reach another codec.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# A browser reads the larger charset where a page names the smaller one; resiliparse gives the smaller one's name.
_SUPERSETS = {"gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs"}
_BAD_SHARE = 0.1  # of the characters that are not ASCII


def decode_html(body: bytes, declared: str | None) -> str:
    """The text of the page; `declared` is the charset its server named, if any. Never fails; line ends stay as they are."""
    for mark, name in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    if body.isascii() and b"\x1b" not in body and b"\0" not in body:
        return body.decode("ascii")
    for name in _candidates(body, declared):
        text = _try(body, name)
        if text is not None:
            return text
    return body.decode("cp1252", "replace")


def _candidates(body: bytes, declared: str | None) -> Iterator[str]:
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    header = map_encoding_to_html5(declared.strip(), fallback_utf8=False) if declared else None
    has_escapes, has_nul = b"\x1b" in body, b"\0" in body
    if has_escapes or has_nul:
        for name in (header, detect_encoding(body, from_html_meta=True)):
            if name and ((has_escapes and name.startswith("iso2022")) or (has_nul and name.startswith("utf-16"))):
                yield name
    yield "utf-8"
    for name in (header, detect_encoding(body, from_html_meta=True), detect_encoding(body)):
        if name and not name.startswith("utf-16"):
            yield _SUPERSETS.get(name, name)


def _try(body: bytes, name: str) -> str | None:
    try:
        return body.decode(name)
    except UnicodeDecodeError:
        text = body.decode(name, "replace")
    bad = text.count("\ufffd")
    not_ascii = len(text) - len(text.encode("ascii", "ignore"))
    return text if bad <= _BAD_SHARE * not_ascii else None
