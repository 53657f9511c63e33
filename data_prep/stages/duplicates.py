"""The stage that keeps one of many alike."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.stage import Counts, File, Metrics, Shard, ShardResult, StageContext, Unit, joined, stage, stem, units_of


@dataclass(frozen=True)
class DedupParams:
    """Exact duplicates by normalised text; nothing to set."""


def hash_shard(shard: Shard) -> ShardResult:
    """One file of documents to the table of its text hashes."""
    from data_prep.dedup.exact import write_hashes
    from data_prep.documents import read_documents

    return ShardResult(records={"hashes": write_hashes(shard.path("hashes", ".parquet"), read_documents(shard.unit.paths[0]))})


def remove_shard(shard: Shard) -> ShardResult:
    """One file of documents without those on its removal list (the second path, if there is one)."""
    from data_prep.dedup.exact import read_removals
    from data_prep.documents import DocumentWriter, Reject, RejectWriter, read_documents

    documents, *lists = shard.unit.paths
    removals = {row: removal for path in lists for row, removal in read_removals(path).items()}
    total = 0
    with DocumentWriter(shard.path("documents", ".parquet")) as kept, RejectWriter(shard.path("rejects", ".parquet")) as rejects:
        for row, document in enumerate(read_documents(documents)):
            total += 1
            removal = removals.get(row)
            if removal is None:
                kept.write(document)
            else:
                rejects.write(Reject(document.id, document.url, document.source, "duplicate", removal.survivor))
    return ShardResult(
        records={"documents": kept.records, "rejects": rejects.records},
        counts=Counts(total=total, kept=kept.records, rejected={"duplicate": rejects.records} if rejects.records else {}),
    )


@stage(version=1, reads="corpus", needs=("corpus",))
def dedup(ctx: StageContext, params: DedupParams) -> Metrics:
    """Keep one of all documents with the same text. A file is rewritten only when its own removal list has changed."""
    from data_prep.dedup.exact import removals, write_removals

    corpus = ctx.inputs["corpus"].select("documents")
    hashed = ctx.map_shards(hash_shard, units_of(corpus))
    ctx.publish_shards(hashed)
    units = []
    for file, entries in zip(corpus, removals([table.path for table in hashed.files]), strict=True):
        name = stem(file.name)
        if not entries:
            units.append(Unit(name, file.sha256, None, (file.path,)))
            continue
        own_name = f"removals/{name}.parquet"
        write_removals(ctx.path(own_name), entries)
        ctx.publish(own_name, len(entries))
        removal_list = File.of(own_name, ctx.path(own_name))
        units.append(joined(name, file, removal_list))
    mapped = ctx.map_shards(remove_shard, units)
    ctx.publish_shards(mapped)
    return mapped.metrics
