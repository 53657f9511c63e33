"""The body of an HTTP response without its transfer and content encodings, within a limit of bytes (RFC 9110, RFC 9112)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]{0,4096})?\r?\n")


class BadBody(ValueError):
    """The body contradicts its encoding."""


class BodyTooLarge(ValueError):
    """The decoded body passes the limit."""


class UnknownEncoding(ValueError):
    """No decoder for this content encoding."""


def decode_body(body: bytes, transfer_encoding: str, content_encoding: str, limit: int) -> bytes:
    """Undo the encodings that the headers name, allocating no more than `limit` bytes or so.

    Crawlers often store the decoded body under the original headers. So a body that does not start like a chunked one is taken
    as it is, and one that cannot be decompressed but starts like markup too.
    """
    if "chunked" in transfer_encoding.lower() and _CHUNK_SIZE.match(body):
        body = _join_chunks(body)
    for name in reversed([name.strip().lower() for name in content_encoding.split(",")]):
        if name in ("", "identity", "none", "utf-8"):
            continue
        if name not in _DECODERS:
            raise UnknownEncoding(name)
        try:
            body = _DECODERS[name](body, limit)
        except BadBody:
            if not body.lstrip()[:1] == b"<":
                raise
    if len(body) > limit:
        raise BodyTooLarge(f"over {limit} bytes")
    return body


def _join_chunks(body: bytes) -> bytes:
    chunks: list[bytes] = []
    position = 0
    while header := _CHUNK_SIZE.match(body, position):
        start, size = header.end(), int(header[1], 16)
        if size == 0:
            return b"".join(chunks)
        if start + size > len(body):
            raise BadBody(f"chunk of {size} bytes at {position}: the body has {len(body) - start} more")
        chunks.append(body[start : start + size])
        position = start + size
        if body.startswith((b"\r\n", b"\n"), position):
            position += 2 if body[position] == 13 else 1
        else:
            raise BadBody(f"chunk of {size} bytes before {position} does not end there")
    raise BadBody(f"no chunk size at {position} of {len(body)}")


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    parts, room = [], limit + 1
    while body and room > 0:
        decoder = zlib.decompressobj(window)
        try:
            parts.append(decoder.decompress(body, room))
        except zlib.error as error:
            if parts:  # something else follows the compressed data
                break
            raise BadBody(f"damaged compressed body ({error})") from None
        room -= len(parts[-1])
        if not decoder.eof and room > 0:
            raise BadBody("compressed body ends early")
        body = decoder.unused_data
    return b"".join(parts)


def _gunzip(body: bytes, limit: int) -> bytes:
    return _inflate(body, 31, limit)


def _deflate(body: bytes, limit: int) -> bytes:
    try:
        return _inflate(body, zlib.MAX_WBITS, limit)
    except BadBody:
        return _inflate(body, -zlib.MAX_WBITS, limit)  # the standard says zlib format; many servers send the bare stream


def _unbrotli(body: bytes, limit: int) -> bytes:
    import brotli

    decoder, parts, room = brotli.Decompressor(), [], limit + 1
    try:
        while room > 0 and not decoder.is_finished():
            parts.append(decoder.process(body, output_buffer_limit=room))
            body = b""
            room -= len(parts[-1])
            if not parts[-1] and not decoder.is_finished():
                raise BadBody("compressed body ends early")
    except brotli.error as error:
        raise BadBody(f"damaged brotli body ({error})") from None
    return b"".join(parts)


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _deflate,
    "br": _unbrotli,
}
