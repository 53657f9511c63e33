"""Source files: patterns expanded to names that survive a move of the folder, and their hashes, remembered."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import storage
from pipeline.errors import UserError
from pipeline.files import File

WILD = "*?["


@dataclass(frozen=True)
class Found:
    """A file that a pattern matched. `name` is relative to the pattern's part before its first wildcard folder, and longer by the
    folders before where another file would have the same."""

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
        literal = os.path.lexists(path) or not any(mark in path for mark in WILD)  # a name may hold brackets
        prefix = (os.path.dirname(path) or ".") if literal else _fixed_prefix(path)
        matches = [path] if literal else sorted(glob.glob(path, recursive=True))
        files = [match for match in matches if not os.path.isdir(match)]
        if matches and not files:
            raise UserError(f"{key}: {pattern}: a folder; name its files, for example {pattern.rstrip('/')}/*")
        if not files or not os.path.lexists(files[0]):
            raise UserError(f"{key}: {pattern}: matches no file (looked from {os.getcwd()}); check the path, or quote it from the shell")
        for file in files:
            one = _found(key, file, prefix)
            if (name := found.setdefault(one.path, one).name) != one.name:
                raise UserError(f"{key}: two patterns match {file}, as {name!r} and as {one.name!r}: it would be read twice; leave one out")
    return sorted(_told_apart(list(found.values())), key=lambda file: file.name)


def _told_apart(files: list[Found]) -> list[Found]:
    """The files; where several have one name, each with as many of the folders before it as it takes to tell them apart."""
    times = Counter(file.name for file in files)
    if len(times) == len(files):
        return files
    return _told_apart([file if times[file.name] == 1 else replace(file, name=_longer(file)) for file in files])


def _longer(file: Found) -> str:
    """Its name with one more folder; that of the root has none before it."""
    return os.path.join(os.path.basename(file.path[: -len(file.name)].rstrip(os.sep)), file.name)


def _found(key: str, file: str, prefix: str) -> Found:
    path = os.path.abspath(file)
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # opening a pipe would wait for its writer
            raise UserError(f"{key}: {file}: a pipe or a device, read once and gone; copy what it gives into a file")
        with open(file, "rb"):
            pass
        found = Found(os.path.relpath(file, prefix), path, os.path.getsize(file), _stamp(path))
        found.name.encode()
    except OSError as error:
        raise UserError(f"{key}: {file}: cannot be read ({error.strerror}); mend its permissions or leave it out of the pattern") from None
    except UnicodeEncodeError:
        raise UserError(f"{key}: {os.fsencode(file)!r}: its name is not UTF-8; rename it or leave it out of the pattern") from None
    return found


def _stamp(path: str) -> str:
    now = os.stat(path)
    return f"{path}|{now.st_size}|{now.st_mtime_ns}|{now.st_ino}"


def require_unchanged(stamps: Mapping[str, str]) -> None:
    """UserError where a file (path → stamp) is no longer the one that was hashed."""
    for path, stamp in stamps.items():
        try:
            same = _stamp(path) == stamp
        except FileNotFoundError:
            raise UserError(f"{path}: was removed while this run read it; put it back or leave it out, then run again") from None
        if not same:
            raise UserError(f"{path}: changed while this run read it; once it is complete, run the same command again")


def _fixed_prefix(path: str) -> str:
    folder = os.path.dirname(path)
    while any(mark in folder for mark in WILD):
        folder = os.path.dirname(folder)
    return folder or "."


class HashCache:
    """Remembered hashes of source files, outside identity: <root>/cache/sources.json."""

    def __init__(self, root: Path) -> None:
        self.path = root / "cache" / "sources.json"
        self.known: dict[str, str] = {}
        with contextlib.suppress(ValueError, TypeError):  # a damaged cache is an empty one
            self.known.update(json.loads(storage.read(self.path) or b"{}"))

    def unhashed(self, files: Iterable[Found]) -> list[Found]:
        return [file for file in files if file.stamp not in self.known]

    def files(self, found: Sequence[Found]) -> list[File]:
        """All of `found`, hashed; what is new is hashed by a few threads and remembered."""
        new = self.unhashed(found)
        if new:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
                for file, sha256 in zip(new, threads.map(_hashed, new), strict=True):
                    self.known[file.stamp] = sha256
            with contextlib.suppress(OSError):  # a look at a root that cannot be written hashes again the next time
                self._remember()
        return [File(file.name, file.path, 0, file.bytes, self.known[file.stamp]) for file in found]

    def _remember(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".sources.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self.known, indent=0))
        os.replace(temporary, self.path)


def _hashed(file: Found) -> str:
    try:
        sha256 = File.of(file.name, file.path).sha256
    except FileNotFoundError:
        sha256 = ""  # the next line says so
    require_unchanged({file.path: file.stamp})
    return sha256
