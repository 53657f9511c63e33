"""A run's folder: its configuration, plan and events, and a view of each stage's files under their names.

<root>/runs/<name>/  config.yaml  overrides.txt  plan.json  events.jsonl  stages/<stage>/{manifest.json, files …} → the store
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.identity import digest
from pipeline.progress import parsed
from pipeline.states import Status, Survey
from pipeline.store import Artifact, Store


@dataclass(frozen=True)
class Run:
    """Where one run keeps what it says of itself. Derived from the store; only `plan.json` is truth, for `gc`, `chat` and `explain`."""

    directory: Path

    @classmethod
    def of(cls, config: Config) -> Run:
        settings = config.settings
        name = settings.name or settings.recipe_name.replace("/", "-")  # a folder right under runs/, where gc looks
        if settings.sweep_job and settings.name is None:
            name += "-" + digest(settings.sweep_job)[:8]
        return cls(config.root / "runs" / name)

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def events(self) -> Path:
        return self.directory / "events.jsonl"

    def planned(self) -> list[dict[str, str]]:
        """The stages of the run's plan in order: `stage`, `kind` (whose store it is in), `fingerprint`. Empty before a run."""
        path = self.directory / "plan.json"
        try:
            return [{key: str(entry[key]) for key in ("stage", "kind", "fingerprint")} for entry in json.loads(storage.read(path) or b"[]")]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: damaged; run the command of this run again, which writes it anew") from None

    def begin(self, survey: Survey, overrides: Sequence[str]) -> None:
        """Write down what is asked for, before anything is built, and show what is done already.

        Stages that are not asked for keep their place in the plan: what an earlier command of this run made is still its own.
        """
        from omegaconf import OmegaConf

        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError) as error:
            raise UserError(
                f"{self.directory}: cannot be created ({error.strerror}); is root={survey.config.settings.root} mounted?"
            ) from None
        earlier: dict[str, dict[str, str]] = {}
        with contextlib.suppress(UserError):  # a damaged plan is written anew
            earlier = {entry["stage"]: entry for entry in self.planned()}
        _put_if_other(self.directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(survey.config.values))))
        _put_if_other(self.directory / "overrides.txt", "".join(f"{override}\n" for override in overrides))
        plan = []
        for name, status in survey.statuses.items():
            asked = {"stage": name, "kind": status.node.stage.name, "fingerprint": status.fingerprint}
            entry = asked if name in survey.closure else earlier.get(name, asked)
            plan += [entry] if entry["fingerprint"] else []
        _put_if_other(self.directory / "plan.json", json.dumps(plan, indent=1))
        for name in survey.closure:
            self.show(survey, name)

    def show(self, survey: Survey, name: str) -> None:
        """Bring the view of a stage up to date if it is done."""
        status = survey.statuses[name]
        if status.state == "DONE":
            artifact = survey.store.artifact(status.node.stage.name, str(status.fingerprint))
            if artifact is not None:
                self._view(survey.store, status, artifact)

    def _view(self, store: Store, status: Status, artifact: Artifact) -> None:
        """Relative links to the artifact's files under their names; the manifest's link comes last."""
        view = self.directory / "stages" / status.node.name
        manifest = store.directory(artifact.stage, artifact.fingerprint) / "manifest.json"
        marker = view / "manifest.json"
        stamp = view / ".digest"
        if marker.is_symlink() and marker.resolve() == manifest.resolve() and _text(stamp) == artifact.digest:
            return
        fresh = view.with_name(f".{view.name}.{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        for file in artifact.files:
            link = fresh / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(file.path, view / Path(file.name).parent))
        fresh.mkdir(parents=True, exist_ok=True)
        (fresh / ".digest").write_text(artifact.digest)
        (fresh / "manifest.json").symlink_to(os.path.relpath(manifest, view))
        replace_folder(fresh, view)


def used(root: Path) -> Iterator[tuple[str, str, str]]:
    """(run, stage, fingerprint) of all that a run plans, or shows from an earlier plan of the same name."""
    for name in storage.folders(root / "runs"):
        run = Run(root / "runs" / name)
        for entry in run.planned():
            yield name, entry["kind"], entry["fingerprint"]
        for marker in (run.directory / "stages").glob("*/manifest.json"):
            artifact = marker.resolve().parent
            yield name, artifact.parent.name, artifact.name


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put a folder in the place of another; of two that do so at once, the later stays."""
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.replace(fresh, folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def last_events(path: Path) -> dict[str, dict[str, Any]]:
    """The newest event of each stage."""
    latest: dict[str, dict[str, Any]] = {}
    for line in (storage.read(path) or b"").splitlines():
        event = parsed(line)
        if event is not None:
            latest[event["stage"]] = event
    return latest


def _text(path: Path) -> str:
    return (storage.read(path) or b"").decode()


def _put_if_other(path: Path, text: str) -> None:
    if _text(path) != text:
        storage.put(path, text.encode())
