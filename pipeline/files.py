"""A file as the kernel sees it: a name, where it is today, and the hash of its bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

READERS = 8


@dataclass(frozen=True, slots=True)
class File:
    """A file of an artifact or of the sources. `name` is identity, `path` is where it is found today."""

    name: str
    path: str
    records: int
    bytes: int
    sha256: str

    @classmethod
    def of(cls, name: str, path: str | os.PathLike[str], records: int = 0) -> File:
        """Hash the file at `path`."""
        with open(path, "rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(name, os.fspath(path), records, os.path.getsize(path), sha256)


def hashed(paths: Mapping[str, str | os.PathLike[str]]) -> Iterator[File]:
    """The files by name, several read at a time: others wait while they are hashed."""
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(File.of, paths, paths.values())
