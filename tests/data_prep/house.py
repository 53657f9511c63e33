"""A store of its own in which stages are run one by one, as the runner does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.documents import Document, DocumentWriter, read_documents, read_rejects
from pipeline.lease import acquire
from pipeline.progress import Progress
from pipeline.shards import ShardTask, _mapped, compute
from pipeline.stage import Artifact, File, Mapped, Shard, ShardResult, Stage, StageContext, Trajectory, Unit


class Inline(StageContext):
    """Computes shards in this process, every one anew."""

    def map_shards(
        self,
        function: Callable[[Shard], ShardResult],
        units: Sequence[Unit],
        params: Any = None,
        side_inputs: Mapping[str, File] | None = None,
    ) -> Mapped:
        records = []
        for number, unit in enumerate(units):
            folder = self.pool / f"{function.__name__}-{len(list(self.pool.iterdir())) if self.pool.exists() else 0}-{number}"
            task = ShardTask(function, unit, params, side_inputs or {}, str(folder), "inline", {}, False)
            records.append((str(folder), compute(task)))
        return _mapped(Path("/"), units, [folder for folder, _ in records], dict(records))


@dataclass
class House:
    """Stages share their pools, every artifact is a new folder. `computed` says how many shards the last run of a stage had to compute."""

    root: Path
    context: type[StageContext] = StageContext
    computed: dict[str, int] = field(default_factory=dict)

    def corpus(self, **parts: Sequence[Document]) -> Artifact:
        folder = self.root / f"corpus-{len(list(self.root.iterdir()))}"
        files = []
        for name, part in parts.items():
            path = folder / f"{name}.parquet"
            path.parent.mkdir(exist_ok=True)
            with DocumentWriter(path) as writer:
                for one in part:
                    writer.write(one)
            files.append(File.of(f"documents/{name}.parquet", path, len(part)))
        return self.artifact("ingest", folder, files)

    def artifact(self, stage: str, folder: Path, files: Sequence[File], **manifest: Any) -> Artifact:
        return Artifact(stage, folder.name.ljust(64, "0"), "d" * 64, str(folder), tuple(files), manifest)

    def run(self, stage: Stage, params: Any, run: Any = None, sources: Sequence[File] = (), **inputs: Artifact) -> Artifact:
        """Run a stage as the runner does, check that it lost no record, and note how many shards it had to compute."""

        def connect() -> None:
            from pipeline.cluster import ClusterConfig, connect

            connect(ClusterConfig(cpus=1))

        own = self.root / f"{stage.name}-{len(list(self.root.iterdir()))}"
        own.mkdir()
        lease = acquire(own / "lease", lambda owner: None)
        lease.release()
        ctx = self.context(
            stage=stage,
            fingerprint=own.name.ljust(64, "0"),
            inputs=inputs,
            sources=sources,
            run=run or stage.run(),
            directory=str(own),
            pool=self.root / "pools" / stage.name,
            fence=lease.fence,
            trajectory=Trajectory(str(own / "trajectory"), "a" * 16, lease.fence),
            progress=Progress(str(own / "events.jsonl"), stage.name),
            connect=connect,
        )
        metrics = stage(ctx, params)
        if "corpus" in inputs:
            assert ctx.counts is not None and ctx.counts.balanced
            assert ctx.counts.total == sum(file.records for file in inputs["corpus"].select("documents"))
            assert ctx.counts.kept == sum(file.records for file in ctx.published if file.name.startswith(stage.keeps + "/"))
        self.computed[stage.name] = ctx.shards_computed
        return self.artifact(stage.name, own, ctx.published, params=asdict(params), metrics=dict(metrics))


def documents(artifact: Artifact) -> list[Document]:
    return [one for file in artifact.select("documents") for one in read_documents(file.path)]


def reasons(artifact: Artifact) -> dict[str, tuple[str, str]]:
    """By the last part of a rejected document's URL, why it was rejected."""
    rejects = [reject for file in artifact.select("rejects") for reject in read_rejects(file.path)]
    return {reject.url.rsplit("/", 1)[1]: (reject.reason, reject.detail) for reject in rejects}


def digests(artifact: Artifact) -> dict[str, str]:
    return {file.name: file.sha256 for file in artifact.files}
