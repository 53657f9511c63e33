"""What the store holds: files, artifacts, checkpoints, fences (being written)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class File:
    """A file of an artifact or of the sources. `name` is identity, `path` is where it is found today."""

    name: str
    path: str
    records: int
    bytes: int
    sha256: str

    @classmethod
    def of(cls, name: str, path: str, records: int = 0) -> File:
        """Hash the file at `path`."""
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(name, os.fspath(path), records, os.path.getsize(path), digest)


@dataclass(frozen=True)
class Artifact:
    """A published artifact: immutable files under one fingerprint."""

    stage: str
    fingerprint: str
    digest: str
    directory: str  # folder that holds the artifact's own files under their names
    files: tuple[File, ...]
    manifest: Mapping[str, Any]

    def select(self, folder: str) -> tuple[File, ...]:
        return tuple(file for file in self.files if file.name.startswith(folder + "/"))

    def file(self, name: str) -> File:
        return next(file for file in self.files if file.name == name)


class Fence:
    def check(self) -> None: ...


@dataclass(frozen=True)
class Checkpoint:
    """A COMPLETE training checkpoint. `facts` is what `commit` was given (world size, ZeRO stage …)."""

    step: int
    directory: str
    facts: Mapping[str, Any]


class Trajectory:
    """Picklable. Checkpoints of one training, shared by all drivers that ever ran it."""

    def latest(self) -> Checkpoint | None:
        """The newest COMPLETE checkpoint whose files are whole, or None."""
        raise NotImplementedError

    def begin(self, step: int) -> str:
        """A private directory (made) for this step's files; all ranks of this launch get the same one."""
        raise NotImplementedError

    def commit(self, step: int, facts: Mapping[str, Any]) -> None:
        """Rank 0, after a barrier: check the fence, hash every file, write COMPLETE last; older ones are retired."""
        raise NotImplementedError
