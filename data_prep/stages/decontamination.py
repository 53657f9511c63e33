"""The stage that keeps evaluation data out of the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from pipeline.stage import Counts, File, Metrics, Shard, ShardResult, StageContext, UserError, stage, units_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_prep.decontaminate import Evaluation

INDEX = "evaluations.arrow"
REPORT = "contamination.jsonl"
SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class DecontaminateParams:
    """Documents that share a run of words with an evaluation record. What a word and a record's text are: data_prep/decontaminate."""

    ngram: Annotated[int, Meta(ge=2, le=64, description="words in a row that both hold")] = 13
    min_words: Annotated[int, Meta(ge=1, description="an evaluation text of fewer words than `ngram` is searched whole from here on")] = 8
    fields: Annotated[tuple[str, ...], Meta(description="fields of the records to search; none: all that hold strings")] = ()
    action: Annotated[Literal["drop", "cut"], Meta(description="reject the document, or cut out the overlap")] = "drop"
    margin: Annotated[int, Meta(ge=0, description="cut: characters that go on both sides of an overlap")] = 200
    max_cuts: Annotated[int, Meta(ge=1, description="cut: a document with more cuts is rejected")] = 10
    min_characters: Annotated[int, Meta(ge=1, description="cut: a shorter remainder between cuts goes, too")] = 200

    def __post_init__(self) -> None:
        if self.min_words > self.ngram:
            raise ValueError(f"min_words {self.min_words} exceeds ngram {self.ngram}; set it to at most that")


def decontaminate_shard(shard: Shard) -> ShardResult:
    """One file of documents without evaluation data, and the table of all overlaps that were found."""
    from dataclasses import replace

    import pyarrow
    import pyarrow.parquet

    from data_prep.decontaminate import Index, Removal, reason, remove
    from data_prep.documents import DocumentWriter, Reject, RejectWriter, read_documents

    params: DecontaminateParams = shard.params
    removal = Removal(params.margin, params.max_cuts, params.min_characters)
    index = Index.open(shard.side["index"].path)
    schema = pyarrow.schema(
        [(name, pyarrow.string()) for name in ("id", "evaluation")]
        + [(name, pyarrow.int64()) for name in ("row", "words", "start", "end")]
        + [("text", pyarrow.string())]
    )
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    rejected: dict[str, int] = {}
    total = cut_documents = cut_characters = 0
    with DocumentWriter(shard.path("documents", ".parquet")) as kept, RejectWriter(shard.path("rejects", ".parquet")) as rejects:
        for document in read_documents(shard.unit.paths[0]):
            total += 1
            overlaps = index.find(document.text)
            if not overlaps:
                kept.write(document)
                continue
            for overlap in overlaps:
                shown = document.text[overlap.start : min(overlap.end, overlap.start + SHOWN_CHARACTERS)]
                row = (document.id, overlap.evaluation, overlap.row, overlap.words, overlap.start, overlap.end, shown)
                for name, value in zip(schema.names, row, strict=True):
                    columns[name].append(value)
            text = remove(document.text, index, removal)[0] if params.action == "cut" else ""
            if text:
                kept.write(replace(document, text=text))
                cut_documents += 1
                cut_characters += len(document.text) - len(text)
                continue
            word = reason(overlaps)
            rejected[word] = rejected.get(word, 0) + 1
            found = "; ".join(sorted({f"{overlap.evaluation}, row {overlap.row}" for overlap in overlaps}))
            rejects.write(Reject(document.id, document.url, document.source, word, found[:SHOWN_CHARACTERS]))
    table = pyarrow.table(columns, schema=schema)
    pyarrow.parquet.write_table(table, shard.path("overlaps", ".parquet"), compression="zstd", write_statistics=False)
    return ShardResult(
        records={"documents": kept.records, "rejects": rejects.records, "overlaps": table.num_rows},
        counts=Counts(total=total, kept=kept.records, rejected=dict(sorted(rejected.items()))),
        metrics={"documents_cut": cut_documents, "characters_cut": cut_characters},
    )


@stage(version=1, reads="corpus", needs=("corpus",))
def decontaminate(ctx: StageContext, params: DecontaminateParams) -> Metrics:
    """Reject documents that hold evaluation data, or cut it out; with no evaluation sets all documents stay as they are."""
    import json

    from data_prep.decontaminate import Index, read_evaluation

    files = ctx.files("evaluations")
    names = _set_names([file.name for file in files])
    sets = {name: read_evaluation(file.path, file.name) for name, file in zip(names, files, strict=True)}
    index = Index.of(sets, params.ngram, params.min_words, params.fields)
    for evaluation in index.evaluations:
        if not evaluation.ngrams:
            wanted = f"the fields {', '.join(params.fields)}" if params.fields else "strings"
            raise UserError(
                f"decontaminate: none of the {evaluation.records} records of {evaluation.name} has {wanted} of {params.min_words} words; "
                "lower decontaminate.min_words, set decontaminate.fields, or leave the set out"
            )
    index.write(ctx.path(INDEX))
    ctx.publish(INDEX, sum(evaluation.ngrams for evaluation in index.evaluations))
    units = units_of(ctx.inputs["corpus"].select("documents"))
    mapped = ctx.map_shards(decontaminate_shard, units, params, {"index": File.of(INDEX, ctx.path(INDEX))})
    ctx.publish_shards(mapped)
    report = _report(index.evaluations, [file.path for file in mapped.select("overlaps")])
    with open(ctx.path(REPORT), "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in report)
    ctx.publish(REPORT, len(report))
    found = {f"{row['evaluation']}_records_found": row["records_found"] for row in report if row["records_found"]}
    return {"evaluation_sets": len(report), **mapped.metrics, **found}


def _report(evaluations: Sequence[Evaluation], overlaps: Sequence[str]) -> list[dict[str, Any]]:
    """For each set what was searched for and what was found, from the tables of overlaps: no text, no document's name."""
    from dataclasses import asdict

    import pyarrow.parquet

    found: dict[str, dict[str, Any]] = {one.name: {"records": set(), "documents": set(), "overlaps": 0, "words": 0} for one in evaluations}
    for path in overlaps:
        table = pyarrow.parquet.read_table(path, columns=["id", "evaluation", "row", "words"], use_threads=False)
        for identity, name, row, words in zip(*(table[column].to_pylist() for column in table.column_names), strict=True):
            found[name]["records"].add(row)
            found[name]["documents"].add(identity)
            found[name]["overlaps"] += 1
            found[name]["words"] += words
    return [
        {"evaluation" if key == "name" else key: value for key, value in asdict(one).items()}
        | {
            "records_found": len(found[one.name]["records"]),
            "documents": len(found[one.name]["documents"]),
            "overlaps": found[one.name]["overlaps"],
            "words": found[one.name]["words"],
        }
        for one in evaluations
    ]


def _set_names(files: Sequence[str]) -> list[str]:
    """The names of the sets: those of their files without folders and endings, or with folders where two would be the same."""
    from pipeline.stage import stem

    stems = [stem(name) for name in files]
    return stems if len({*stems}) == len(stems) else [*files]
