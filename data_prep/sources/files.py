"""Opening a source: a file of this machine, or one behind a URL, read as a stream that goes on where the connection broke."""

from __future__ import annotations

import io
import os
import time
from typing import Any, BinaryIO

from pipeline.stage import UserError

TRIES = 6  # waits of 1, 2, 4, 8 and 16 s lie between them
FIRST_WAIT_S = 1.0
_REMOTE_BLOCK = 8 << 20  # bytes asked for at once
_BUFFER = 1 << 20


def is_remote(path: str | os.PathLike[str]) -> bool:
    return "://" in os.fspath(path)


def open_source(path: str | os.PathLike[str]) -> io.BufferedReader:
    """The bytes of a local file, or of a URL that fsspec knows (http, https, s3 …).

    OSError for what cannot be read, for a URL after `TRIES` tries in a row without a byte.
    """
    if is_remote(path):
        return io.BufferedReader(_Remote(os.fspath(path)), _BUFFER)
    return open(path, "rb")


class _Remote(io.RawIOBase):
    """A file behind a URL. Its server must answer requests for ranges of bytes, as all object stores do."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._position = 0
        self._file: BinaryIO | None = None
        self._failures: tuple[type[Exception], ...] = (OSError, TimeoutError)
        try:
            import aiohttp
        except ModuleNotFoundError:  # only http needs it, and says so itself
            pass
        else:
            self._failures = (*self._failures, aiohttp.ClientError)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            offset += self._tried(lambda file: file.seek(0, os.SEEK_END))
        elif whence == os.SEEK_CUR:
            offset += self._position
        self._position = offset
        return offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        def read(file: BinaryIO) -> bytes:
            file.seek(self._position)
            return file.read(len(buffer))

        data = self._tried(read)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _tried(self, use: Any) -> Any:
        for attempt in range(TRIES):
            try:
                if self._file is None:
                    self._file = _opened(self._url)
                return use(self._file)
            except self._failures as error:
                if _is_missing(error):
                    raise UserError(f"{self._url}: is not there; mend the list it stands in, or the address before it") from None
                self._file = None
                if attempt == TRIES - 1:
                    raise OSError(f"{self._url}: cannot be read after {TRIES} tries ({type(error).__name__}: {error})") from error
            time.sleep(FIRST_WAIT_S * 2**attempt)
        raise AssertionError


def _is_missing(error: BaseException | None) -> bool:
    """Whether the server says that there is no such file. fsspec says so too of a server that could not be reached."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, FileNotFoundError) or getattr(error, "status", None) in (404, 410)


def _opened(url: str) -> BinaryIO:
    import fsspec

    try:
        file: BinaryIO = fsspec.open(url, "rb", block_size=_REMOTE_BLOCK, cache_type="readahead").open()
    except ImportError as error:  # fsspec names the package for this kind of address
        raise UserError(f"{url}: {error}") from None
    if not file.seekable():
        raise UserError(f"{url}: its server gives no ranges of bytes, so a broken transfer could not go on; copy the file here first")
    return file
