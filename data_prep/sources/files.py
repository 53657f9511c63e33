"""Opening a source: a file of this machine, or one behind a URL, read as a stream that goes on where the connection broke."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.stage import UserError

TRIES = 6  # waits of 1, 2, 4, 8 and 16 s lie between them
FIRST_WAIT_S = 1.0
BLOCK_BYTES = 8 << 20  # asked for at once
_KEPT_BLOCKS = 2  # readers look back a little
_BUFFER = 1 << 20

Result = TypeVar("Result")


def is_remote(path: str | os.PathLike[str]) -> bool:
    return "://" in os.fspath(path)


def open_source(path: str | os.PathLike[str]) -> io.BufferedReader:
    """The bytes of a local file, or of a URL that fsspec knows (http, https, s3 …).

    OSError for what cannot be read, for a URL after `TRIES` tries of the same block.
    """
    if is_remote(path):
        return io.BufferedReader(_Remote(os.fspath(path)), _BUFFER)
    return open(path, "rb")


class _Remote(io.RawIOBase):
    """A file behind a URL, read in blocks. Its server must answer requests for ranges of bytes, as all object stores do."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._files, self._path = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:  # fsspec names the package for this kind of address
            raise UserError(f"{url}: {error}") from None
        self._url = url
        self._failures = _failures()
        self._position = 0
        self._blocks: dict[int, bytes] = {}
        size = self._tried(lambda: self._files.info(self._path)["size"])
        if size is None:
            raise UserError(f"{url}: its server does not say how large it is, so it cannot be read in blocks; copy it here first")
        self._size = int(size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._position >= self._size:
            return 0
        number, at = divmod(self._position, BLOCK_BYTES)
        data = self._block(number)[at : at + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            block = self._tried(lambda: self._fetched(number * BLOCK_BYTES, min((number + 1) * BLOCK_BYTES, self._size)))
            while len(self._blocks) >= _KEPT_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = block
        return self._blocks[number]

    def _fetched(self, start: int, end: int) -> bytes:
        data: bytes = self._files.cat_file(self._path, start=start, end=end)
        if len(data) != end - start:
            raise OSError(f"asked for bytes {start} to {end}, got {len(data)} bytes")
        return data

    def _tried(self, use: Callable[[], Result]) -> Result:
        for attempt in range(TRIES):
            try:
                return use()
            except self._failures as error:
                if _is_missing(error):
                    raise UserError(f"{self._url}: is not there; mend the list it stands in, or the address before it") from None
                if attempt == TRIES - 1:
                    cause = error.__cause__ or error
                    said = f"{self._url}: cannot be read after {TRIES} tries ({type(cause).__name__}: {cause})"
                    raise UserError(f"{said}; mend the connection, then run the same command again") from error
            time.sleep(FIRST_WAIT_S * 2**attempt)
        raise AssertionError


def _failures() -> tuple[type[Exception], ...]:
    """What a broken connection raises. aiohttp is what fsspec reads http with; where it is missing, fsspec says so."""
    try:
        import aiohttp
    except ModuleNotFoundError:
        return OSError, TimeoutError
    return OSError, TimeoutError, aiohttp.ClientError


def _is_missing(error: BaseException | None) -> bool:
    """Whether the server says that there is no such file. fsspec says so too of a server that could not be reached."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, FileNotFoundError) or getattr(error, "status", None) in (404, 410)
