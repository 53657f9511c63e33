"""Artifacts on disk: where they stand, whether they are whole, and how one is published.

<root>/store/<stage>/shards/<shard key>/…  record.json (last)        the pool of finished shards, see shards.py
<root>/store/<stage>/trajectories/<key>/…                            training checkpoints, see trajectory.py
<root>/store/<stage>/<fingerprint>/  spec.json  lease-<epoch>.json  files-<epoch>/…  error.json  manifest.json (last)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.errors import UserError
from pipeline.files import File
from pipeline.identity import digest_of_files
from pipeline.lease import Fence, LeaseLost

RESERVED = {"shards", "trajectories"}
MANIFEST = {"digest", "directory", "files", "inputs", "counts", "metrics", "trajectory", "provenance", "started", "elapsed_s"}


@dataclass(frozen=True)
class Artifact:
    """A published artifact: immutable files under one fingerprint."""

    stage: str
    fingerprint: str
    digest: str
    directory: str  # holds the artifact's own files under their names
    files: tuple[File, ...]
    manifest: Mapping[str, Any]

    def select(self, folder: str) -> tuple[File, ...]:
        """The files whose name starts with `<folder>/`, in the manifest's order."""
        return tuple(file for file in self.files if file.name.startswith(folder + "/"))

    def file(self, name: str) -> File:
        """The file of this name; UserError where the artifact has none."""
        for file in self.files:
            if file.name == name:
                return file
        raise UserError(f"{self.stage} {self.fingerprint[:12]}: holds no file {name!r}")


@dataclass(frozen=True)
class Store:
    """The store under `<root>/store`."""

    root: Path

    def stage_directory(self, stage: str) -> Path:
        return self.root / "store" / stage

    def directory(self, stage: str, fingerprint: str) -> Path:
        return self.stage_directory(stage) / fingerprint

    def pool(self, stage: str) -> Path:
        return self.stage_directory(stage) / "shards"

    def trajectory(self, stage: str, key: str) -> Path:
        return self.stage_directory(stage) / "trajectories" / key

    def stages(self) -> list[str]:
        return storage.folders(self.root / "store")

    def fingerprints(self, stage: str) -> list[str]:
        """Every fingerprint of a stage that was ever begun."""
        return [name for name in storage.folders(self.stage_directory(stage)) if name not in RESERVED]

    def manifests(self, stage: str) -> list[dict[str, Any]]:
        """Of the stage's published artifacts, the latest last."""
        found = [manifest for mark in self.fingerprints(stage) if (manifest := self.manifest(stage, mark))]
        return sorted(found, key=lambda manifest: str(manifest["started"]))

    def manifest(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        """The artifact's manifest, or None while it has none."""
        path = self.directory(stage, fingerprint) / "manifest.json"
        manifest = storage.read_json(path)
        if manifest is not None and not manifest.keys() >= MANIFEST:
            raise storage.damaged(path)
        return manifest

    def spec(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        """What the fingerprint is made of: stage, version, params, inputs, sources."""
        return storage.read_json(self.directory(stage, fingerprint) / "spec.json")

    def error(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        """Why the last try failed, or None."""
        return storage.read_json(self.directory(stage, fingerprint) / "error.json")

    def artifact(self, stage: str, fingerprint: str) -> Artifact | None:
        """The published artifact, or None while it has no manifest."""
        manifest = self.manifest(stage, fingerprint)
        if manifest is None:
            return None
        files = tuple(
            File(entry["name"], str(self.root / entry["path"]), entry["records"], entry["bytes"], entry["sha256"])
            for entry in manifest["files"]
        )
        return Artifact(stage, fingerprint, manifest["digest"], str(self.root / manifest["directory"]), files, manifest)

    def own_files(self, stage: str, fingerprint: str, epoch: int) -> Path:
        """The folder for the artifact's own files: a folder for each epoch, so that no driver writes over another's."""
        return self.directory(stage, fingerprint) / f"files-{epoch}"

    def publish(self, fence: Fence, manifest: Mapping[str, Any], files: Sequence[File]) -> None:
        """Write the manifest, which makes the artifact exist. LeaseLost where another driver took it over.

        The candidate bears the epoch: who takes over removes older candidates after taking the lease, so that a driver
        which froze between its check and the promotion finds its candidate gone.
        """
        directory = Path(fence.directory)
        own = [Path(file.path) for file in files if Path(file.path).is_relative_to(directory)]
        folders = {folder for path in own for folder in path.parents if folder.is_relative_to(directory)}
        for path in (*own, *sorted(folders)):
            storage.sync_file(path)
        entries = [
            {
                "name": file.name,
                "path": Path(file.path).relative_to(self.root).as_posix(),
                "records": file.records,
                "bytes": file.bytes,
                "sha256": file.sha256,
            }
            for file in files
        ]
        whole = {
            **manifest,
            "digest": digest_of_files((file.name, file.sha256) for file in files),
            "directory": (directory / f"files-{fence.epoch}").relative_to(self.root).as_posix(),
            "files": entries,
        }
        candidate = directory / f"candidate-{fence.epoch}.json"
        storage.put(candidate, json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False).encode())
        fence.check()
        if not storage.promote(candidate, directory / "manifest.json"):
            fence.check()
            raise LeaseLost(f"{directory}: the manifest of this driver was swept by a later one; nothing of it is published")
        storage.delete(directory / "error.json")

    def sweep(self, fence: Fence) -> None:
        """Remove what drivers of older epochs left unpublished: first their candidates, then their files."""
        directory = Path(fence.directory)
        for name in storage.names(directory):
            if name.startswith("candidate-") and int(name[10:-5]) < fence.epoch:
                storage.delete(directory / name)
        manifest = storage.read_json(directory / "manifest.json")  # after the candidates: from here on only this epoch can publish
        published = Path(manifest["directory"]).name if manifest else ""
        for name in storage.names(directory):
            if name.startswith("files-") and int(name[6:]) < fence.epoch and name != published:
                storage.remove_tree(directory / name)
