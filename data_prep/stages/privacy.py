"""The stage that takes personal data out of texts."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.stage import Counts, Metrics, Shard, ShardResult, StageContext, stage, units_of


@dataclass(frozen=True)
class ScrubParams:
    """E-mail addresses and public IP addresses become `[EMAIL]` and `[IP]`; nothing to set."""


def scrub_shard(shard: Shard) -> ShardResult:
    """One file of documents with the personal data in their texts replaced."""
    from dataclasses import replace

    from data_prep.documents import DocumentWriter, RejectWriter, read_documents
    from data_prep.pii.detect import PLACEHOLDERS
    from data_prep.pii.detect import scrub as scrub_text

    found: dict[str, float] = dict.fromkeys(PLACEHOLDERS, 0)
    changed = 0
    # Nothing is rejected here, but every document stage has the same two folders.
    with DocumentWriter(shard.path("documents", ".parquet")) as kept, RejectWriter(shard.path("rejects", ".parquet")):
        for document in read_documents(shard.unit.paths[0]):
            text, spans = scrub_text(document.text)
            kept.write(replace(document, text=text))
            changed += bool(spans)
            for span in spans:
                found[span.kind] += 1
    return ShardResult(
        records={"documents": kept.records, "rejects": 0},
        counts=Counts(total=kept.records, kept=kept.records),
        metrics={**found, "documents_changed": changed},
    )


@stage(version=1, reads="corpus", needs=("corpus",))
def scrub(ctx: StageContext, params: ScrubParams) -> Metrics:
    """Replace e-mail and IP addresses by placeholders. Metrics count them by kind; values are kept nowhere."""
    mapped = ctx.map_shards(scrub_shard, units_of(ctx.inputs["corpus"].select("documents")))
    ctx.publish_shards(mapped)
    return mapped.metrics
