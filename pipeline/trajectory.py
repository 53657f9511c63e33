"""Training checkpoints: pooled by what decides the training, complete only once their COMPLETE record is written."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.files import hashed
from pipeline.lease import Fence

NAME = re.compile(r"(step-(?P<step>[0-9]+)|scratch)\.(?P<fingerprint>[^.]+)\.(?P<epoch>[0-9]+)")


@dataclass(frozen=True)
class Checkpoint:
    """A complete training checkpoint. `facts` is what `commit` was given (world size, ZeRO stage …)."""

    step: int
    directory: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Trajectory:
    """Picklable. The checkpoints of one training: every driver reads them all and writes under its own name.

    With `alone`, a driver reads only what it has written itself: a forced training begins anew. `directory` holds
    `step-<N>.<fingerprint>.<epoch>/…  COMPLETE`, the latter listing every file with its sha256, and in its last line its own.
    Folders of other names are nobody's: they are neither read nor removed.
    """

    directory: str
    fingerprint: str
    fence: Fence
    alone: bool = False

    def latest(
        self, accept: Callable[[Checkpoint], bool] = lambda checkpoint: True, tell: Callable[[str], None] = lambda damage: None
    ) -> Checkpoint | None:
        """The newest complete checkpoint that `accept` takes and whose files all have their hash, or None. `tell` hears what is
        wrong with those passed over."""
        for checkpoint in filter(accept, self.complete(tell)):
            damage = self.damage(checkpoint)
            if damage is None:
                return checkpoint
            tell(damage)
        return None

    def complete(self, tell: Callable[[str], None] = lambda damage: None) -> Iterator[Checkpoint]:
        """Every checkpoint that has its COMPLETE record, newest step first; files not yet verified. `tell` hears of records that
        cannot be read or are another step's, and of folders that are only called like a checkpoint."""
        found = []
        for name in storage.folders(self.directory):
            match = NAME.fullmatch(name)
            if match is None and name.startswith("step-"):
                tell(f"{Path(self.directory, name)}: not the name of a checkpoint; it is left alone")
            if match is None or not match["step"] or (self.alone and not name.endswith(f".{self.fingerprint}.{self.fence.epoch}")):
                continue
            sealed = storage.read(Path(self.directory, name, "COMPLETE"))
            if sealed is not None:
                found.append((int(match["step"]), int(match["epoch"]), match["fingerprint"], name, sealed))
        for number, _, _, name, sealed in sorted(found, reverse=True):
            folder, record = Path(self.directory, name), _opened(sealed)
            if record is None:
                tell(f"{folder / 'COMPLETE'}: not the record that was written")
            elif record["step"] != number:
                tell(f"{folder / 'COMPLETE'}: the record of step {record['step']}; give the folder back the name it was saved under")
            else:
                yield Checkpoint(number, str(folder), record["facts"])

    def damage(self, checkpoint: Checkpoint) -> str | None:
        """What is wrong with a checkpoint's files, or None when all are as COMPLETE says."""
        sealed = storage.read(Path(checkpoint.directory, "COMPLETE"))
        if sealed is None:
            return f"{checkpoint.directory}: retired"
        record = _opened(sealed)
        if record is None:
            return f"{checkpoint.directory}/COMPLETE: not the record that was written"
        files = record["files"]
        paths = {name: Path(checkpoint.directory, name) for name in files}
        for name, path in paths.items():
            if not path.is_file() or path.stat().st_size != files[name][0]:
                return f"{path}: missing or not the file that was saved"
        known = {*paths.values(), Path(checkpoint.directory, "COMPLETE")}
        for path in storage.walk(checkpoint.directory):
            # hidden ones are nobody's: a desktop leaves its `.DS_Store`
            if path not in known and not path.name.startswith("."):
                return f"{path}: not listed in COMPLETE; remove it"
        for file in hashed(paths):
            if file.sha256 != files[file.name][1]:
                return f"{file.path}: missing or not the file that was saved"
        return None

    def begin(self, step: int) -> str:
        """The private folder for this step's files, made if need be; the same for all ranks of this launch. If it comes here again, as
        what it had saved was damaged, that is no checkpoint from now on."""
        folder = self._own(step)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "COMPLETE").exists():
            storage.delete(folder / "COMPLETE")
        return str(folder)

    def commit(self, step: int, facts: Mapping[str, Any], last: int = 2, keep: Sequence[int] = ()) -> None:
        """Rank 0, once every rank has written: hash all files, check the fence, write COMPLETE last, retire older ones.

        The newest `last` up to this step stay and, beside them, those of the steps in `keep` (a best one). So do those of later steps:
        an earlier launch has come further with what this one could not read.
        """
        folder = self._own(step)
        paths = {path.relative_to(folder).as_posix(): path for path in storage.walk(folder) if not path.name.startswith(".")}
        for path in paths.values():
            storage.sync_file(path)
        files = {file.name: [file.bytes, file.sha256] for file in hashed(paths)}
        self.fence.check()
        record = {"step": step, "facts": dict(facts), "files": files}
        storage.create(folder / "COMPLETE", _sealed(record))
        storage.sync_directory(self.directory)
        own = [checkpoint for checkpoint in self.complete() if f".{self.fingerprint}." in os.path.basename(checkpoint.directory)]
        for checkpoint in [checkpoint for checkpoint in own if checkpoint.step <= step][last:]:
            if checkpoint.step not in keep:
                self._remove(Path(checkpoint.directory))

    def sweep(self) -> None:
        """Remove what this driver and older ones of this fingerprint left unfinished; none of its ranks may be running."""
        for name in storage.folders(self.directory):
            match = NAME.fullmatch(name)
            folder = Path(self.directory, name)
            own = match is not None and match["fingerprint"] == self.fingerprint and int(match["epoch"]) <= self.fence.epoch
            if own and not (folder / "COMPLETE").exists():
                self._remove(folder)

    @property
    def stop_request(self) -> Path:
        """The file by whose existence the driver asks its ranks for a checkpoint and an end."""
        return Path(self.directory, f"stop.{self.fingerprint}.{self.fence.epoch}")

    def scratch(self) -> str:
        """The private folder for what a launch needs for a while, made if need be; the same for all its ranks. It removes it itself."""
        folder = Path(self.directory, f"scratch.{self.fingerprint}.{self.fence.epoch}")
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def _own(self, step: int) -> Path:
        return Path(self.directory, f"step-{step}.{self.fingerprint}.{self.fence.epoch}")

    def _remove(self, folder: Path) -> None:
        storage.delete(folder / "COMPLETE")
        storage.remove_tree(folder)


def _sealed(record: Mapping[str, Any]) -> bytes:
    """A record as JSON, and in a last line its sha256: one that was edited is told from one that was written."""
    text = json.dumps(record, sort_keys=True, indent=1).encode()
    return text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n"


def _opened(sealed: bytes) -> dict[str, Any] | None:
    """The record, or None for what was not sealed like that."""
    text, _, seal = sealed.removesuffix(b"\n").rpartition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != seal:
        return None
    record: dict[str, Any] = json.loads(text)
    return record
