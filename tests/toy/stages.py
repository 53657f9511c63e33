"""A small house of map stages over text files, to try the kernel on."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from pipeline.stage import Counts, Metrics, Shard, ShardResult, StageContext, UserError, stage, units_of


@dataclass(frozen=True)
class CleanParams:
    shorter_than: Annotated[int, Meta(ge=1, le=1000, description="words longer than this are rejected")] = 8
    sleep_s: float = field(default=0.0, metadata={"absent": 0.0})


@dataclass(frozen=True)
class ShoutParams:
    mark: str = "!"
    case: Literal["upper", "lower"] = "upper"
    sleep_s: Annotated[float, Meta(ge=0)] = 0.0
    fail_on: str = ""
    refuse: Annotated[str, Meta(description="name of the error with which the disk refuses every attempt")] = ""
    attempts: Annotated[str, Meta(description="file that gets a line for each attempt refused")] = ""
    enough_gb: Annotated[float, Meta(description="memory with whose reservation an attempt is not refused")] = 1e9


@dataclass(frozen=True)
class JoinParams:
    separator: str = " "


def clean_shard(shard: Shard) -> ShardResult:
    words = Path(shard.unit.paths[0]).read_text().split()
    time.sleep(shard.params.sleep_s)
    kept = [word for word in words if len(word) < shard.params.shorter_than]
    Path(shard.path("documents", ".txt")).write_text("\n".join(kept))
    counts = Counts(len(words), len(kept), {"too_long": len(words) - len(kept)} if len(words) > len(kept) else {}, 0)
    return ShardResult({"documents": len(kept)}, counts, {"letters": sum(map(len, kept))})


@stage(version=1)
def clean(ctx: StageContext, params: CleanParams) -> Metrics:
    mapped = ctx.map_shards(clean_shard, units_of(ctx.files("text")), params)
    ctx.publish_shards(mapped)
    return mapped.metrics


@stage(version=1)
def vocabulary(ctx: StageContext, params: JoinParams) -> Metrics:
    words = {word for file in ctx.inputs["corpus"].select("documents") for word in Path(file.path).read_text().split()}
    Path(ctx.path("vocabulary.txt")).write_text("\n".join(sorted(words)))
    ctx.publish("vocabulary.txt", len(words))
    return {"words": len(words)}


def _reserved_gb() -> float:
    import ray

    return float(ray.get_runtime_context().get_assigned_resources().get("memory", 0)) / 2**30


def shout_shard(shard: Shard) -> ShardResult:
    text = Path(shard.unit.paths[0]).read_text()
    if shard.params.fail_on and shard.params.fail_on in text:
        raise UserError(f"{shard.unit.name}: holds {shard.params.fail_on!r}; remove it")
    if shard.params.refuse and _reserved_gb() < shard.params.enough_gb:
        with open(shard.params.attempts, "a") as stream:
            stream.write("again\n")
        if shard.params.refuse == "SIGKILL":  # as the kernel ends a process for memory
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, shard.params.refuse)
        raise OSError(number, os.strerror(number))
    time.sleep(shard.params.sleep_s)
    known = set(Path(shard.side["vocabulary"].path).read_text().split())
    words = [getattr(word, shard.params.case)() + shard.params.mark for word in text.split() if word in known]
    Path(shard.path("documents", ".txt")).write_text("\n".join(words))
    unknown = len(text.split()) - len(words)
    counts = Counts(len(text.split()), len(words), {"unknown": unknown} if unknown else {})
    return ShardResult({"documents": len(words)}, counts)


@stage(version=1, reads="corpus")
def shout(ctx: StageContext, params: ShoutParams) -> Metrics:
    units = units_of(ctx.inputs["corpus"].select("documents"))
    mapped = ctx.map_shards(shout_shard, units, params, {"vocabulary": ctx.inputs["vocabulary"].file("vocabulary.txt")})
    ctx.publish_shards(mapped)
    return {}


@stage(version=1, needs=("corpus",))
def join(ctx: StageContext, params: JoinParams) -> Metrics:
    texts = [Path(file.path).read_text() for file in ctx.inputs["corpus"].select("documents")]
    Path(ctx.path("text/all.txt")).write_text(params.separator.join(texts))
    ctx.publish("text/all.txt", len(texts))
    return {"characters": sum(map(len, texts))}
