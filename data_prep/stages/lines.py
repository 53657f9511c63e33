"""The stage that cuts out lines or paragraphs which other documents have, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from data_prep.stages.duplicates import CompareRun, comparisons, filtered
from pipeline.stage import Counts, Metrics, Shard, ShardResult, StageContext, stage, units_of

LINES_PARTITION = 1_000_000  # documents whose lines are compared by one task


@dataclass(frozen=True)
class LineDedupParams:
    """Which lines or paragraphs count as the same, and where they stay."""

    unit: Annotated[Literal["line", "paragraph"], Meta(description="what is compared")] = "line"
    min_characters: Annotated[int, Meta(ge=1, description="normalised characters; shorter ones are left alone")] = 20
    keep: Annotated[Literal["oldest", "newest"], Meta(description="in the document of which date it stays")] = "oldest"


def pieces_shard(shard: Shard) -> ShardResult:
    """One file of documents to the keys of its lines or paragraphs."""
    from data_prep.dedup.pieces import SUFFIXES, write_pieces
    from data_prep.documents import read_documents

    unit, min_characters = shard.unit.argument
    paths = {suffix: shard.path("pieces", suffix) for suffix in SUFFIXES}
    return ShardResult(records={"pieces": write_pieces(paths, read_documents(shard.unit.paths[0]), unit, min_characters)})


def repeated_shard(shard: Shard) -> ShardResult:
    """One partition of the keys of all files to what is to be cut out of each."""
    import numpy

    from data_prep.dedup.pieces import SUFFIXES, cuts_table, repeated
    from data_prep.dedup.removals import write_found

    partition, partitions, names = shard.unit.argument
    paths, width = shard.unit.paths, len(SUFFIXES)
    files = [dict(zip(SUFFIXES, paths[first : first + width], strict=True)) for first in range(0, len(paths), width)]
    found = {
        name: cuts_table(*cuts) for name, cuts in zip(names, repeated(files, shard.params == "newest", partition, partitions), strict=True)
    }
    write_found(shard.path("found", ".parquet"), found, cuts_table(numpy.zeros(0, numpy.uint32), numpy.zeros(0, numpy.uint64)).schema)
    return ShardResult(records={"found": sum(table.num_rows for table in found.values())})


def cut_shard(shard: Shard) -> ShardResult:
    """One file of documents without what is on its list (the second path, if there is one), and without repetitions of its own."""
    from dataclasses import replace

    from data_prep.dedup.pieces import read_cuts, without
    from data_prep.documents import DocumentWriter, Reject, RejectWriter, read_documents

    path, *lists = shard.unit.paths
    unit, min_characters = shard.unit.argument
    cuts = read_cuts(lists[0]) if lists else {}
    changed = characters = 0
    with DocumentWriter(shard.path("documents", ".parquet")) as kept, RejectWriter(shard.path("rejects", ".parquet")) as rejects:
        for row, document in enumerate(read_documents(path)):
            text = without(document.text, cuts.get(row, set()), unit, min_characters)
            changed += text != document.text
            characters += len(document.text) - len(text)
            if text:
                kept.write(replace(document, text=text))
            else:
                rejects.write(Reject(document.id, document.url, document.source, "duplicate_lines"))
    return ShardResult(
        records={"documents": kept.records, "rejects": rejects.records},
        counts=Counts(
            total=kept.records + rejects.records,
            kept=kept.records,
            rejected={"duplicate_lines": rejects.records} if rejects.records else {},
        ),
        metrics={"documents_changed": changed, "characters_cut": characters},
    )


@stage(version=1, run=CompareRun, reads="corpus", needs=("corpus",))
def line_dedup(ctx: StageContext, params: LineDedupParams) -> Metrics:
    """Leave each line (or paragraph) in one document. A document of which nothing is left is rejected."""
    how = [params.unit, params.min_characters]
    pieces = ctx.map_shards(pieces_shard, units_of(ctx.inputs["corpus"].select("documents"), how))
    found = ctx.map_shards(repeated_shard, comparisons(ctx, pieces.files, LINES_PARTITION), params.keep)
    return filtered(ctx, cut_shard, found.files, how)
