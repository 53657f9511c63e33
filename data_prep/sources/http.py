"""The body of an HTTP response without its transfer and content encodings, within a limit of bytes (RFC 9110, RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Callable

from isal import isal_zlib as zlib  # reads the same streams in half the time

MOST_ENCODINGS = 5  # of a body, one in the other; no server has use for more than two
_FIRST_PIECE, _LARGEST_PIECE = 1 << 9, 1 << 20
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
    names = [name for name in map(str.strip, content_encoding.lower().split(",")) if name not in ("", "identity", "none", "utf-8")]
    if len(names) > MOST_ENCODINGS:
        raise UnknownEncoding(f"{len(names)} encodings, one in the other")
    for name in reversed(names):
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
    """The data of all members. Each is given the body in pieces of growing size, or a million small members would be slow: what a
    member leaves unused is copied."""
    inflated, position = bytearray(), 0
    while position < len(body) and len(inflated) <= limit:
        decoder, size, start, done = zlib.decompressobj(window), _FIRST_PIECE, position, len(inflated)
        try:
            while not decoder.eof and position < len(body) and len(inflated) <= limit:
                piece = body[position : position + size]
                position += len(piece)
                inflated += decoder.decompress(piece, limit + 1 - len(inflated))
                size = min(2 * size, _LARGEST_PIECE)
        except zlib.error as error:  # type: ignore[misc]
            if start:  # something else follows the compressed data
                del inflated[done:]
                break
            raise BadBody(f"damaged compressed body ({error})") from None
        if not decoder.eof and len(inflated) <= limit:
            raise BadBody("compressed body ends early")
        position -= len(decoder.unused_data)
    return bytes(inflated)


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
