"""The stage that makes the report of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from pipeline.stage import File, Metrics, Shard, ShardResult, StageContext, joined, stage

if TYPE_CHECKING:
    from data_prep.report.chain import Chain
    from data_prep.report.facts import Facts


@dataclass(frozen=True)
class ReportParams:
    """What the report shows."""

    samples: Annotated[int, Meta(ge=0, le=1_000, description="documents to read of each kind")] = 5
    top: Annotated[int, Meta(ge=1, le=10_000, description="hosts and clusters listed, the largest ones")] = 30
    personal_data: Annotated[
        bool, Meta(description="show texts as they were, those that scrub rejected, too; otherwise personal data is masked")
    ] = False
    crawl_pages: Annotated[int, Meta(ge=1, description="pages of a whole crawl, to say what it would take")] = 2_500_000_000
    cores: Annotated[int, Meta(ge=1, description="cores it would be read with, beside a single one")] = 1_000


def count_shard(shard: Shard) -> ShardResult:
    """All files that speak of the documents of one file to their numbers.

    The unit's argument is the first and the last corpus, then step and folder of each file.
    """
    from data_prep.report.counting import count
    from data_prep.report.tallies import write_tallies

    (samples, personal_data), (first, last, *places) = shard.params, shard.unit.argument
    files = [(step, folder, path) for (step, folder), path in zip(places, shard.unit.paths, strict=True)]
    numbers, tallies = count(files, first, last, samples, personal_data)
    _write(shard.path("statistics", ".json"), numbers)
    return ShardResult(records={"statistics": 1, "tallies": write_tallies(shard.path("tallies", ".parquet"), tallies)})


def tally_shard(shard: Shard) -> ShardResult:
    """One range of keys of all tallies to their numbers and the most frequent ones."""
    from data_prep.report.tallies import count_tallies

    partition, partitions, top = shard.unit.argument
    _write(shard.path("counted", ".json"), count_tallies(shard.unit.paths, partition, partitions, top))
    return ShardResult(records={"counted": 1})


def find_shard(shard: Shard) -> ShardResult:
    """The documents of one file that are to be shown; the unit's argument names the step and the ids wanted of each path."""
    from data_prep.report.samples import Shown, find

    found: dict[str, dict[str, Shown]] = {}
    for (step, ids), path in zip(shard.unit.argument, shard.unit.paths, strict=True):
        found.setdefault(step, {}).update((one.id, one) for one in find(path, ids, shard.params))
    _write(shard.path("shown", ".json"), found)
    return ShardResult(records={"shown": 1})


@stage(version=1, needs=("*",))
def report(ctx: StageContext, params: ReportParams) -> Metrics:
    """Show the corpus: `report.html` is a page of its own, `report.json` holds its numbers. Every input is a stage by its name.

    `report.json` and all other files are the same bytes for the same inputs. Times are not, so they stand in `report.html` alone,
    taken from the manifests of the inputs, and the manifest says `reproducible: false`.
    """
    from pathlib import Path

    from data_prep.report.chain import chain
    from data_prep.report.page import page, summary
    from data_prep.report.timing import timings

    steps = chain(ctx.inputs)
    facts = _facts(ctx, params, steps)
    _write(ctx.path("report.json"), facts)
    contents = {
        "report.html": page(facts, timings(steps), params.crawl_pages, params.cores),
        "summary.txt": summary(facts),
    }
    for name, content in contents.items():
        Path(ctx.path(name)).write_text(content, encoding="utf-8")
    for name in ("report.json", *contents):
        ctx.publish(name)
    ctx.reproducible = False
    return {"records": facts.records, "kept": facts.kept}


def _facts(ctx: StageContext, params: ReportParams, steps: Chain) -> Facts:
    from data_prep.report.chain import groups, wanted
    from data_prep.report.counting import HOSTS, SURVIVORS
    from data_prep.report.facts import Facts, lookups, made, passages, table
    from data_prep.report.samples import Shown
    from data_prep.report.statistics import Numbers, merged
    from data_prep.report.tallies import PARTITION_ROWS, Tally, joined_tallies

    files = groups(steps)
    units = []
    for name, group in files.items():
        read = wanted(steps, group)
        units.append(
            joined(
                name, *(file for _, _, file in read), argument=[steps.first, steps.last, *([step.name, folder] for step, folder, _ in read)]
            )
        )
    measured = ctx.map_shards(count_shard, units, [params.samples, params.personal_data])
    ctx.publish_shards(measured)
    numbers = merged(_decoded(measured.select("statistics"), Numbers), params.samples)

    tables = measured.select("tallies")
    partitions = 1 + sum(file.records for file in tables) // PARTITION_ROWS
    units = [joined(f"range-{one:04}", *tables, argument=[one, partitions, params.top]) for one in range(partitions)]
    tallies = joined_tallies(_decoded(ctx.map_shards(tally_shard, units).files, dict[str, Tally]), params.top)
    clusters = {kind.removeprefix(SURVIVORS): tally for kind, tally in tallies.items() if kind.startswith(SURVIVORS)}

    ids = lookups(steps, numbers, clusters, params.personal_data)
    shown: dict[str, dict[str, Shown]] = {}
    units = []
    for name, group in files.items():
        read = [(step, folder, file) for step, folder, file in group if folder == "documents" and step.name in ids]
        if read:
            units.append(
                joined(name, *(file for _, _, file in read), argument=[[step.name, sorted(ids[step.name])] for step, _, _ in read])
            )
    for part in _decoded(ctx.map_shards(find_shard, units, params.personal_data).files, dict[str, dict[str, Shown]]):
        for step, documents in part.items():
            shown.setdefault(step, {}).update(documents)

    by_kind = {step.kind: step for step in steps.steps}
    return Facts(
        first=steps.first,
        last=steps.last,
        funnel=passages(steps),
        numbers=numbers,
        hosts=tallies.get(HOSTS, Tally()),
        clusters=clusters,
        shown=shown,
        personal_data=params.personal_data,
        made=made(steps),
        reads={step.name: step.reads for step in steps.steps if step.reads},
        pii=table(by_kind.get("scrub"), "report.json"),
        contamination=table(by_kind.get("decontaminate"), "contamination.jsonl"),
        fertility=table(by_kind.get("tokenizer"), "fertility.jsonl"),
    )


def _write(path: str, value: Any) -> None:
    """A value of dataclasses as JSON, the same bytes for equal values."""
    import json
    from pathlib import Path

    import msgspec

    plain = msgspec.to_builtins(value, str_keys=True)
    Path(path).write_text(json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _decoded(files: Sequence[File], kind: Any) -> list[Any]:
    from pathlib import Path

    import msgspec

    return [msgspec.json.decode(Path(file.path).read_bytes(), type=kind) for file in files]
