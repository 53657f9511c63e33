"""Source files: patterns expanded to names that survive a move of the folder, and their hashes, remembered."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline import storage
from pipeline.errors import UserError
from pipeline.files import File

WILD = "*?["


@dataclass(frozen=True)
class Found:
    """A file that a pattern matched. `name` is relative to the pattern's part before its first wildcard folder."""

    name: str
    path: str
    bytes: int
    stamp: str  # where, size, mtime and inode: an unchanged stamp means an unchanged hash


def expand(key: str, patterns: Sequence[str]) -> list[Found]:
    """The files that `patterns` match, by name. UserError (naming `key`) for one that matches none, or a folder."""
    found: dict[str, Found] = {}
    for pattern in patterns:
        if "://" in pattern:
            raise UserError(f"{key}: {pattern}: only files of this machine or a mounted folder can be read; copy it there first")
        path = os.path.expanduser(pattern)
        prefix = _fixed_prefix(path)
        matches = sorted(glob.glob(path, recursive=True)) if any(mark in path for mark in WILD) else [path]
        files = [match for match in matches if not os.path.isdir(match)]
        if matches and not files:
            raise UserError(f"{key}: {pattern}: a folder; name its files, for example {pattern.rstrip('/')}/*.warc.gz")
        if not files or not os.path.lexists(files[0]):
            raise UserError(f"{key}: {pattern}: matches no file (looked from {os.getcwd()}); check the path, or quote it from the shell")
        for file in files:
            one = _found(key, file, prefix)
            if one.name in found and found[one.name].path != one.path:
                raise UserError(
                    f"{key}: {file} and {found[one.name].path} would both be named {one.name!r}; "
                    "use one pattern that starts at a folder they share"
                )
            found[one.name] = one
    return [found[name] for name in sorted(found)]


def _found(key: str, file: str, prefix: str) -> Found:
    try:
        stat = os.stat(file)
        with open(file, "rb"):
            pass
    except OSError as error:
        raise UserError(f"{key}: {file}: cannot be read ({error.strerror}); mend its permissions or leave it out of the pattern") from None
    path = os.path.abspath(file)
    return Found(os.path.relpath(file, prefix), path, stat.st_size, f"{path}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}")


def _fixed_prefix(path: str) -> str:
    folder = os.path.dirname(path)
    while any(mark in folder for mark in WILD):
        folder = os.path.dirname(folder)
    return folder or "."


class HashCache:
    """Remembered hashes of source files, outside identity: <root>/cache/sources.json."""

    def __init__(self, root: Path) -> None:
        self.path = root / "cache" / "sources.json"
        self.known: dict[str, str] = json.loads(storage.read(self.path) or b"{}")

    def unhashed(self, files: Iterable[Found]) -> list[Found]:
        return [file for file in files if file.stamp not in self.known]

    def files(self, found: Sequence[Found]) -> list[File]:
        """All of `found`, hashed; what is new is hashed by a few threads and remembered."""
        new = self.unhashed(found)
        if new:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
                for file, hashed in zip(new, threads.map(lambda file: File.of(file.name, file.path), new), strict=True):
                    self.known[file.stamp] = hashed.sha256
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_name(f".sources.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(self.known, indent=0))
            os.replace(temporary, self.path)
        return [File(file.name, file.path, 0, file.bytes, self.known[file.stamp]) for file in found]
