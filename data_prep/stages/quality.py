"""Stages that judge documents: every score first, then the thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from data_prep.quality.verdicts import Thresholds
from pipeline.stage import Counts, Metrics, Shard, ShardResult, StageContext, UserError, joined, stage, stem, units_of


@dataclass(frozen=True)
class ScoreParams:
    """Language and quality scores; thresholds are `select`'s."""

    language_characters: Annotated[int, Meta(ge=1, description="how much of the text's start is given to language identification")] = 2_000
    splitter: Annotated[Literal["unicode"], Meta(description="how words and lines are cut: see data_prep/segment.py")] = "unicode"
    measures: Annotated[Literal["fineweb"], Meta(description="whose definitions of Gopher's measures: see data_prep/quality/gopher.py")] = (
        "fineweb"
    )


def score_shard(shard: Shard) -> ShardResult:
    """One file of documents to a table: id, language, language_score and every quality score as float64."""
    import pyarrow
    import pyarrow.parquet

    from data_prep.documents import read_documents
    from data_prep.language import identify
    from data_prep.quality.gopher import SCORES, score
    from data_prep.segment import segment

    params: ScoreParams = shard.params
    schema = pyarrow.schema(
        [("id", pyarrow.string()), ("language", pyarrow.string()), *((name, pyarrow.float64()) for name in ("language_score", *SCORES))]
    )
    languages: dict[str, int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for document in read_documents(shard.unit.paths[0]):
        language, probability = identify(document.text, params.language_characters)
        languages[language] = languages.get(language, 0) + 1
        row = {"id": document.id, "language": language, "language_score": probability} | score(segment(document.text), language)
        for name, value in row.items():
            columns[name].append(value)
    table = pyarrow.table(columns, schema=schema)
    path = shard.path("scores", ".parquet")
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=["language"], write_statistics=False)
    return ShardResult(
        records={"scores": table.num_rows},
        counts=Counts(total=table.num_rows, kept=table.num_rows),
        metrics={f"language_{code}": number for code, number in sorted(languages.items())},
    )


@stage(version=1, reads="corpus", keeps="scores", needs=("corpus",))
def score(ctx: StageContext, params: ScoreParams) -> Metrics:
    """Identify every document's language and measure its quality; nothing is decided yet."""
    mapped = ctx.map_shards(score_shard, units_of(ctx.inputs["corpus"].select("documents")), params)
    ctx.publish_shards(mapped)
    return mapped.metrics


def select_shard(shard: Shard) -> ShardResult:
    """One file of documents and its scores to the documents that pass all thresholds."""
    import pyarrow.parquet

    from data_prep.documents import DocumentWriter, Reject, RejectWriter, read_documents
    from data_prep.quality.verdicts import decide

    documents, scores = shard.unit.paths
    rows = pyarrow.parquet.read_table(scores, use_threads=False).to_pylist()
    rejected: dict[str, int] = {}
    with DocumentWriter(shard.path("documents", ".parquet")) as kept, RejectWriter(shard.path("rejects", ".parquet")) as rejects:
        for document, row in zip(read_documents(documents), rows, strict=True):
            if row["id"] != document.id:
                raise UserError(f"{scores} scores {row['id']} where {documents} holds {document.id}: score this corpus")
            verdict = decide(row["language"], row, shard.params)
            if verdict is None:
                kept.write(document)
                continue
            reason, detail = verdict
            rejects.write(Reject(document.id, document.url, document.source, reason, detail))
            rejected[reason] = rejected.get(reason, 0) + 1
    return ShardResult(
        records={"documents": kept.records, "rejects": rejects.records},
        counts=Counts(total=len(rows), kept=kept.records, rejected=rejected),
    )


@stage(version=1, reads="corpus", needs=("corpus", "scores"))
def select(ctx: StageContext, params: Thresholds) -> Metrics:
    """Keep the documents whose scores pass the thresholds. Other thresholds never score again."""
    scores = {stem(file.name): file for file in ctx.inputs["scores"].select("scores")}
    units = []
    for file in ctx.inputs["corpus"].select("documents"):
        name = stem(file.name)
        if name not in scores:
            raise UserError(f"needs.scores has no scores of {file.name}: score the corpus that needs.corpus names")
        units.append(joined(name, file, scores[name]))
    mapped = ctx.map_shards(select_shard, units, params)
    ctx.publish_shards(mapped)
    return mapped.metrics
