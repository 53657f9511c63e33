"""What a stage is: the whole of the kernel that `data_prep` and `trainer` may import.

A stage is a function of a `StageContext` and its params (a frozen dataclass). It reads the files of its inputs,
writes files of its own, publishes them, and returns metrics:

    @dataclass(frozen=True)
    class ShoutParams:
        mark: str = "!"

    def shout_shard(shard: Shard) -> ShardResult:
        text = Path(shard.unit.paths[0]).read_text()
        Path(shard.path("text", ".txt")).write_text(text.upper() + shard.params.mark)
        return ShardResult(records={"text": 1})

    @stage(version=1)
    def shout(ctx: StageContext, params: ShoutParams) -> Metrics:
        mapped = ctx.map_shards(shout_shard, units_of(ctx.files("text")), params)
        ctx.publish_shards(mapped)
        return mapped.metrics
"""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, is_dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from msgspec import Meta

from pipeline.errors import PlanOnly, UserError
from pipeline.files import File, hashed
from pipeline.lease import Fence
from pipeline.progress import Progress
from pipeline.store import Artifact
from pipeline.trajectory import Checkpoint, Trajectory

__all__ = [
    "Artifact", "Checkpoint", "Counts", "Fence", "File", "MapRun", "Mapped", "Metrics", "Outlook", "PlanOnly", "Progress", "Prospect",
    "Shard", "ShardResult", "Stage", "StageContext", "Trajectory", "Unit", "Upstream", "UserError", "hashed", "joined",
    "stage", "stem", "units_of",
]  # fmt: skip

Metrics = Mapping[str, Any]  # plain JSON values, by name


@dataclass(frozen=True)
class MapRun:
    """How a stage that maps over shards is run. Never part of identity."""

    in_flight: Annotated[int, Meta(ge=0, description="shards submitted at once; 0: twice the cluster's CPUs")] = 0
    cpus: Annotated[float, Meta(gt=0, description="CPUs a shard's task reserves")] = 1.0
    gpus: Annotated[float, Meta(ge=0, description="GPUs a shard's task reserves")] = 0.0
    memory_gb: Annotated[float, Meta(ge=0, description="memory a shard's task reserves, GB; 0: none")] = 0.0
    retries: Annotated[int, Meta(ge=0, description="new tries after a lost worker or an OSError that may pass")] = 3
    error_budget: Annotated[float, Meta(ge=0, le=1, description="share of records that may be errored")] = 0.05

    def require_room(self, name: str, *nodes: Mapping[str, float]) -> None:
        """Raise UserError where a shard's task could never be placed on one of these nodes, each what it has, as Ray names it: it would
        wait for ever."""
        if any(map(self.fits, nodes)):
            return
        for key, (amount, kind, unit) in self._wanted.items():
            if amount > (most := max((node.get(kind, 0.0) / unit for node in nodes), default=0.0)):
                raise UserError(f"{name}.run.{key}={amount:g}: the largest node has {most:.4g}; set at most that, or add nodes")
        wanted = " and ".join(f"{key}={amount:g}" for key, (amount, _, _) in self._wanted.items() if amount)
        raise UserError(f"{name}.run: no single node has {wanted}; lower one of them, or add nodes")

    def fits(self, node: Mapping[str, float]) -> bool:
        """Whether a shard's task can be placed on a node that has this."""
        return all(amount <= node.get(kind, 0.0) / unit for amount, kind, unit in self._wanted.values())

    @property
    def _wanted(self) -> dict[str, tuple[float, str, int]]:
        return {"cpus": (self.cpus, "CPU", 1), "gpus": (self.gpus, "GPU", 1), "memory_gb": (self.memory_gb, "memory", 2**30)}


@dataclass(frozen=True)
class Counts:
    """What became of the records a document stage read: total = kept + rejected + errored, or publishing fails."""

    total: int = 0
    kept: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)  # by reason
    errored: int = 0

    @property
    def balanced(self) -> bool:
        return self.total == self.kept + sum(self.rejected.values()) + self.errored

    def __add__(self, other: Counts) -> Counts:
        rejected = dict(self.rejected)
        for reason, number in other.rejected.items():
            rejected[reason] = rejected.get(reason, 0) + number
        return Counts(self.total + other.total, self.kept + other.kept, rejected, self.errored + other.errored)


@dataclass(frozen=True)
class Unit:
    """One piece of work: what a shard is computed from.

    `name` names the output files; `content` is the digest of everything in `paths`; `argument` is any further plain
    value the function reads. `paths` say where the content is found today and are no part of the shard's key.
    """

    name: str
    content: str
    argument: Any = None
    paths: tuple[str, ...] = ()


def units_of(files: Sequence[File], argument: Any = None) -> list[Unit]:
    """A unit for each file, named by the file's own name without its folder and extensions."""
    return [Unit(stem(file.name), file.sha256, argument, (file.path,)) for file in files]


def joined(name: str, *files: File, argument: Any = None) -> Unit:
    """A unit made of several files: its content is theirs, in this order."""
    digest = sha256("\n".join(file.sha256 for file in files).encode()).hexdigest()
    return Unit(name, digest, argument, tuple(file.path for file in files))


def stem(name: str) -> str:
    """The name's last part without extensions: `documents/pages-00.parquet` → `pages-00`."""
    return PurePosixPath(name).name.split(".")[0]


@dataclass(frozen=True)
class Shard:
    """A unit inside its task. `path` gives the private temporary file of one output."""

    unit: Unit
    params: Any
    side: Mapping[str, File]
    directory: str

    def path(self, folder: str, suffix: str) -> str:
        """Where to write the output that will be published as `<folder>/<unit name><suffix>`."""
        path = Path(self.directory, folder, self.unit.name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)


@dataclass(frozen=True)
class ShardResult:
    """What a shard's function reports: rows by output folder, counts (document stages), metrics to be summed.

    Where a folder has several files, their rows are told apart by their suffixes: `{"train-0000.bin": 7, "train-0001.bin": 2}`.

    `reproducible` is False when a clock decided about any record: the stage's manifest then says so. `errors` names the first
    errored records, `where: what is wrong`.
    """

    records: Mapping[str, int] = field(default_factory=dict)
    counts: Counts | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reproducible: bool = True
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mapped:
    """All shards of one `map_shards`: their files in the order of the units, counts and summed metrics."""

    files: tuple[File, ...]
    counts: Counts | None
    metrics: Mapping[str, float]
    reproducible: bool = True
    errors: tuple[str, ...] = ()

    def select(self, folder: str) -> tuple[File, ...]:
        """The files under one output folder, in the order of the units."""
        return tuple(file for file in self.files if file.name.startswith(folder + "/"))


class StageContext:
    """What the kernel gives a running stage.

    `name`        of the stage in the recipe, with which the keys of its settings begin
    `inputs`      upstream artifacts by role
    `sources`     the files the `sources` patterns matched, hashed
    `stamps`      path → stamp of the sources: one that has changed since it was hashed fails the stage
    `forced`      True where all is to be computed again, whatever the pool holds
    `run`         the stage's run settings (workers, memory …), an instance of the stage's `run` dataclass
    `trajectory`  checkpoints that survive a crash, pooled by what decides the training
    `fence`       picklable; `fence.check()` raises once another driver has taken this artifact over
    `progress`    picklable; `progress(done, total, loss=…)` from any process that sees the run's folder
    `connect()`   starts or joins Ray (map_shards does so by itself)
    `directory`   folder for the artifact's own files (a model directory, a tokenizer); written by this driver only
    """

    def __init__(
        self,
        *,
        stage: Stage,
        fingerprint: str,
        inputs: Mapping[str, Artifact],
        sources: Sequence[File],
        run: Any,
        directory: str,
        pool: Path,
        fence: Fence,
        trajectory: Trajectory,
        progress: Progress,
        connect: Callable[[], None],
        stamps: Mapping[str, str] | None = None,
        forced: bool = False,
    ) -> None:
        self.stage, self.fingerprint = stage, fingerprint
        self.inputs, self.sources, self.run = inputs, tuple(sources), run
        self.directory, self.fence, self.trajectory = directory, fence, trajectory
        self.progress = progress
        self.connect = connect
        self.pool = pool
        self.stamps, self.forced = stamps or {}, forced
        self.published: list[File] = []
        self.counts: Counts | None = None
        self.reproducible = True
        self.errors: tuple[str, ...] = ()
        self.shards_computed = self.shards_reused = 0
        self.cpus = 0.0  # of the cluster that computed shards

    @property
    def name(self) -> str:
        return self.progress.stage

    def files(self, role: str) -> tuple[File, ...]:
        """What the stage reads in this role: the input artifact's files under the folder `<role>/` (all of its files
        where it has no such folder), or, without such an input, the stage's sources."""
        if role not in self.inputs:
            return self.sources
        artifact = self.inputs[role]
        return artifact.select(role) or artifact.files

    def map_shards(
        self,
        function: Callable[[Shard], ShardResult],
        units: Sequence[Unit],
        params: Any = None,
        side_inputs: Mapping[str, File] | None = None,
    ) -> Mapped:
        """Run `function` (importable by name) over all units as Ray tasks, reusing every shard the pool has.

        A shard's key is the hash of stage, version, function, params, unit content and argument, and the digest of
        every side input. Bad shards do not stop the others; they are raised together at the end.
        """
        from pipeline.shards import map_shards

        return map_shards(self, function, units, params, side_inputs or {})

    def path(self, name: str) -> str:
        """Where to write an own file of this artifact, before `publish(name)`."""
        path = os.path.join(self.directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def publish(self, name: str, records: int = 0) -> None:
        """Add the own file written at `path(name)` to the artifact."""
        self.published.append(File.of(name, self.path(name), records))

    def publish_shards(self, mapped: Mapped) -> None:
        """Add the pool's files of a `map_shards` (and their counts) to the artifact."""
        self.published.extend(mapped.files)
        if mapped.counts is not None:
            self.counts = mapped.counts if self.counts is None else self.counts + mapped.counts
        self.reproducible &= mapped.reproducible
        self.errors += mapped.errors


@dataclass(frozen=True)
class Outlook:
    """What a stage will need, worked out before anything is there.

    figures  plain JSON: further keys of the stage's entry in `plan format=json`
    lines    the same for people, few
    seconds  how long it will take; None: what `plan` knows otherwise
    hands    what the outlooks of the stages that read this one may need, a model's shape for example
    """

    figures: Mapping[str, Any]
    lines: tuple[str, ...] = ()
    seconds: float | None = None
    hands: Any = None


@dataclass(frozen=True)
class Upstream:
    """What an outlook knows of an input that may not be there yet: its stage's params, None where it is pinned, and what that one's outlook
    hands on."""

    params: Any
    hands: Any = None


@dataclass(frozen=True)
class Prospect:
    """What an outlook is worked out from: a stage's settings, and what is known of what it will read.

    params       as the recipe and the command line have them
    run          settings of how it is run
    assumptions  under `planning`, of the stage's `assumes`; None if it has none
    inputs       by role
    sources      paths of its source files
    manifests    of this stage's artifacts, the latest last
    """

    params: Any
    run: Any
    assumptions: Any
    inputs: Mapping[str, Upstream]
    sources: Sequence[str] = ()
    manifests: Sequence[Mapping[str, Any]] = ()


ANY = "*"
Check = Callable[[str, Any, Any, Sequence[str], Mapping[str, Collection[str]]], None]
Resolve = Callable[[Any, Set[str]], tuple[Any, Sequence[str]]]
Plan = Callable[[Prospect], Outlook | None]


@dataclass(frozen=True)
class Stage:
    """A stage function with everything the kernel must know of it before it runs."""

    name: str
    version: int
    function: Callable[[StageContext, Any], Metrics]
    params: type
    run: type
    reads: str | None = None
    keeps: str = "documents"
    extendable: tuple[str, ...] = ()
    needs: tuple[str, ...] = (ANY,)
    check: Check | None = None
    resolve: Resolve | None = None
    plan: Plan | None = None
    assumes: type | None = None

    def __call__(self, ctx: StageContext, params: Any) -> Metrics:
        return self.function(ctx, params)


def stage(
    *,
    version: int,
    run: type = MapRun,
    reads: str | None = None,
    keeps: str = "documents",
    extendable: tuple[str, ...] = (),
    needs: tuple[str, ...] = (ANY,),
    check: Check | None = None,
    resolve: Resolve | None = None,
    plan: Plan | None = None,
    assumes: type | None = None,
) -> Callable[[Callable[[StageContext, Any], Metrics]], Stage]:
    """Declare a stage.

    run         frozen dataclass of the settings that never change the output; a method `require_room(name, *nodes)` of it, if there is
                one, refuses before anything starts what the cluster has no room for
    version     raise it when the same params must give another output
    reads       role of the document stage it reads: its records in must equal what that input kept
    keeps       folder whose rows are the records it kept
    extendable  params that may grow without leaving the trajectory of checkpoints (`max_steps`)
    needs       roles it reads; one that ends in `?` may be absent, `*` allows any others
    check       called before anything starts with the stage's name in the recipe, params, run settings, the names of its sources and
                the roles of its needs, each with the roles of the stage that it names; raises UserError,
                or PlanOnly where a plan can still be made
    resolve     called with the params and the keys that the command line sets: gives the params with those filled in that follow from
                others, and a line for each; what comes out is the identity
    plan        called by `plan` and before a run; gives an Outlook, or raises PlanOnly where what the stage is to read will not do,
                beginning with a key of its own
    assumes     dataclass of the assumptions, set under `planning`; never identity
    """

    def declare(function: Callable[[StageContext, Any], Metrics]) -> Stage:
        hints = typing.get_type_hints(function)
        names = list(inspect.signature(function).parameters)
        params = hints.get(names[1]) if len(names) == 2 else None
        if params is None or not is_dataclass(params) or not params.__dataclass_params__.frozen:  # type: ignore[union-attr]
            raise TypeError(f"stage {function.__name__}: its second argument must be typed with a frozen dataclass, its params")
        return Stage(function.__name__, version, function, params, run, reads, keeps, extendable, needs, check, resolve, plan, assumes)

    return declare
