"""What the stages took, as their manifests tell it, and what a whole crawl would take at that pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.report.chain import CORPUS_ROLES, Chain, Step


@dataclass(frozen=True)
class Timing:
    """One stage's run.

    seconds   from its start to its end, starting the cluster included where it was the first
    cores     that can have worked at once: the cluster's CPUs, or the shards' where these were fewer
    share     of its shards that were computed in this time; the others were there already
    records, bytes   it read; None where it reads no corpus, or it is not known
    """

    step: str
    seconds: float
    cores: float
    share: float
    records: int | None
    bytes: int | None

    @property
    def core_seconds(self) -> float | None:
        """Seconds one core would have taken for all shards, at most; None where none was computed."""
        return self.seconds * self.cores / self.share if self.share else None


def timings(chain: Chain) -> list[Timing]:
    """The steps that have a time, in their order."""
    return [_timing(step, chain) for step in chain.steps if "elapsed_s" in step.artifact.manifest]


def _timing(step: Step, chain: Chain) -> Timing:
    manifest = step.artifact.manifest
    shards = manifest.get("shards", {"computed": 0, "reused": 0})
    number = shards["computed"] + shards["reused"]
    cpus = manifest.get("cpus") or 1.0
    cores = max(1.0, min(cpus, shards["computed"] * manifest.get("run", {}).get("cpus", 1.0)))
    records = step.counts["in"] if step.counts else None
    read = _bytes(step, chain) if step.counts else None
    return Timing(step.name, manifest["elapsed_s"], cores, shards["computed"] / number if number else 1.0, records, read)


def _bytes(step: Step, chain: Chain) -> int | None:
    """Bytes of the files it read, as they are stored."""
    roles = [role for role in CORPUS_ROLES if role in step.artifact.manifest.get("inputs", {})]
    if step.reads:
        source = chain[step.reads].artifact
        return sum(file.bytes for file in source.select("documents") or source.select("pages"))
    if roles:
        return None
    return sum(size for _, size, _ in step.artifact.manifest.get("sources") or ()) or None


@dataclass(frozen=True)
class Forecast:
    """What a crawl of `pages` would take: core-hours of each step (None: not known), their sum, and what comes out."""

    pages: int
    core_hours: dict[str, float | None]
    total_core_hours: float


def forecast(found: Sequence[Timing], records: int, pages: int) -> Forecast:
    """Every step's time grown as the pages are, from the `records` that came in; steps that read no corpus take what they took."""
    hours: dict[str, float | None] = {}
    for timing in found:
        seconds = timing.core_seconds
        grown = pages / records if timing.records is not None and records else 1.0
        hours[timing.step] = None if seconds is None else seconds * grown / 3600
    return Forecast(pages, hours, sum(value for value in hours.values() if value is not None))
