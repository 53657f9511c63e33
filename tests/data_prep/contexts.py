"""Artifacts of documents, and contexts in which a stage runs without the runner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_prep.documents import Document, DocumentWriter
from pipeline.lease import acquire
from pipeline.progress import Progress
from pipeline.stage import Artifact, File, MapRun, Stage, StageContext, Trajectory


def write_documents(path: Path, documents: Sequence[Document]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with DocumentWriter(path) as writer:
        for document in documents:
            writer.write(document)
    return path


def corpus(directory: Path, *parts: Sequence[Document]) -> Artifact:
    files = []
    for number, part in enumerate(parts):
        path = write_documents(directory / f"part-{number}.parquet", part)
        files.append(File.of(f"documents/part-{number}.parquet", path, len(part)))
    return Artifact("scrub", "f" * 64, "d" * 64, str(directory), tuple(files), {})


def context(stage: Stage, root: Path, sources: Sequence[File] = (), **inputs: Artifact) -> StageContext:
    """A context over a folder, as the runner makes one. Only a stage that maps over shards starts Ray."""

    def connect() -> None:
        from pipeline.cluster import ClusterConfig, connect

        connect(ClusterConfig(cpus=1))

    own = root / "own"
    own.mkdir(parents=True)
    lease = acquire(root / "lease", lambda owner: None)
    lease.release()
    return StageContext(
        stage=stage,
        fingerprint="a" * 64,
        inputs=inputs,
        sources=sources,
        run=MapRun(),
        directory=str(own),
        pool=root / "pool",
        fence=lease.fence,
        trajectory=Trajectory(str(root / "trajectory"), "a" * 16, lease.fence),
        progress=Progress(str(root / "events.jsonl"), stage.name),
        connect=connect,
    )


def published(ctx: StageContext) -> Artifact:
    return Artifact(ctx.stage.name, ctx.fingerprint, "d" * 64, ctx.directory, tuple(ctx.published), {})
