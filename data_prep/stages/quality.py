"""Stages that judge documents: every score first, then the thresholds; and the classifier that one of the scores can come from."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from data_prep.quality.verdicts import Thresholds
from pipeline.stage import Counts, File, MapRun, Metrics, Shard, ShardResult, StageContext, UserError, joined, stage, stem, units_of

if TYPE_CHECKING:
    from data_prep.documents import DocumentWriter


@dataclass(frozen=True)
class ClassifierParams:
    """A linear classifier of documents like the positives against documents like the negatives."""

    examples: Annotated[int, Meta(ge=1, description="at most so many of each, those with the smallest hashes")] = 50_000
    words: Annotated[int, Meta(ge=1, description="of each example only the first so many")] = 1_000
    epochs: Annotated[int, Meta(ge=1, description="passes over the examples")] = 10
    rate: Annotated[float, Meta(gt=0, description="length of the steps; they are averaged")] = 1.0
    penalty: Annotated[float, Meta(gt=0, description="weight of the squared weights")] = 1e-5
    seed: Annotated[int, Meta(ge=0, description="another seed is another order of the examples")] = 0


@stage(version=1, needs=("positives", "negatives"))
def classifier(ctx: StageContext, params: ClassifierParams) -> Metrics:
    """Train a classifier of documents: like those of `positives`, or like those of `negatives`."""
    from data_prep.documents import read_batches
    from data_prep.quality import classifier as linear

    def texts(role: str) -> Any:
        for file in ctx.inputs[role].select("documents"):
            for batch in read_batches(file.path, ["text"]):
                ctx.fence.check()
                yield from batch.column("text").to_pylist()

    training = linear.Training(params.examples, params.words, params.epochs, params.rate, params.penalty, params.seed)
    weights = linear.train(texts("positives"), texts("negatives"), training)
    linear.save(ctx.path("classifier.npy"), weights)
    ctx.publish("classifier.npy")
    return {}


@dataclass(frozen=True)
class ScoreParams:
    """Language and quality scores; thresholds are `select`'s."""

    language_characters: Annotated[int, Meta(ge=1, description="how much of the text's start the language model reads")] = 2_000
    paragraphs: Annotated[bool, Meta(description="identify the language of every paragraph, too")] = False
    splitter: Annotated[Literal["unicode"], Meta(description="how words and lines are cut: see data_prep/segment.py")] = "unicode"
    measures: Annotated[Literal["fineweb"], Meta(description="whose definitions of the measures: see data_prep/quality")] = "fineweb"


def score_shard(shard: Shard) -> ShardResult:
    """One file of documents to a table of their scores and a table of their lines (`data_prep.quality.tables`)."""
    import pyarrow

    from data_prep.documents import read_documents
    from data_prep.quality.classifier import load
    from data_prep.quality.measure import measure
    from data_prep.quality.tables import TableWriter, line_schema, line_table, score_schema
    from data_prep.segment import batches

    params: ScoreParams = shard.params
    weights = load(shard.side["classifier"].path) if "classifier" in shard.side else None
    languages: dict[str, int] = {}
    with (
        TableWriter(shard.path("scores", ".parquet"), score_schema()) as scores,
        TableWriter(shard.path("lines", ".parquet"), line_schema()) as lines,
    ):
        for batch in batches(read_documents(shard.unit.paths[0]), lambda document: document.text):
            ids = [document.id for document in batch]
            measured = measure([document.text for document in batch], params.language_characters, params.paragraphs, weights)
            for code in measured.languages:
                languages[code] = languages.get(code, 0) + 1
            scores.write(pyarrow.table({"id": ids, "language": measured.languages, **measured.scores}, schema=score_schema()))
            lines.write(line_table(ids, measured.lines))
    return ShardResult(
        records={"scores": scores.records, "lines": lines.records},
        counts=Counts(total=scores.records, kept=scores.records),
        metrics={f"language_{code}": number for code, number in sorted(languages.items())},
    )


@stage(version=2, reads="corpus", keeps="scores", needs=("corpus", "classifier?"))
def score(ctx: StageContext, params: ScoreParams) -> Metrics:
    """Identify every document's language and measure its quality, by a classifier, too, if one is among the inputs; nothing is
    decided yet."""
    side = {"classifier": ctx.inputs["classifier"].files[0]} if "classifier" in ctx.inputs else {}
    mapped = ctx.map_shards(score_shard, units_of(ctx.inputs["corpus"].select("documents")), params, side)
    ctx.publish_shards(mapped)
    return mapped.metrics


NO_SCORES = "classifier.top_fraction: needs.scores names a stage without a classifier; set its needs.classifier, as recipe=classified does"


def rank_shard(shard: Shard) -> ShardResult:
    """One file's tables to the ranks of the classifier's scores of the documents that pass all thresholds."""
    import pyarrow
    import pyarrow.parquet

    from data_prep.quality.classifier import rank
    from data_prep.quality.tables import Judge, read

    judge = Judge(shard.params)
    ranks: list[int] = []
    for rows in read(*shard.unit.paths):
        for reason, odds in zip(judge(rows).reasons, rows.scores["classifier_score"], strict=True):
            if reason is None:
                if math.isnan(odds):
                    raise UserError(NO_SCORES)
                ranks.append(rank(odds))
    table = pyarrow.table({"rank": pyarrow.array(ranks, pyarrow.int32())})
    pyarrow.parquet.write_table(table, shard.path("ranks", ".parquet"), compression="zstd", use_dictionary=False, write_statistics=False)
    return ShardResult(records={"ranks": len(ranks)})


def select_shard(shard: Shard) -> ShardResult:
    """One file of documents and its tables to the documents that pass all thresholds, without the lines that the rules cut.

    The unit's argument is the least rank of a score that `classifier.top_fraction` leaves, if it is asked for.
    """
    from contextlib import ExitStack
    from itertools import islice

    import pyarrow

    from data_prep.documents import DocumentWriter, Reject, RejectWriter, read_documents
    from data_prep.quality.classifier import rank, score_of
    from data_prep.quality.lines import SCORES, cut
    from data_prep.quality.tables import Judge, TableWriter, read, score_schema

    path, scores_path, lines_path = shard.unit.paths
    params: Thresholds = shard.params
    judge, documents = Judge(params), read_documents(path)
    schema = score_schema(SCORES, language=False)
    rejected: dict[str, int] = {}
    kept: dict[str, DocumentWriter] = {}
    total = cut_characters = 0

    def writer(language: str) -> DocumentWriter:
        folder, ending = (f"documents/{language}", f"-{language}") if params.language.buckets else ("documents", "")
        if folder not in kept:
            kept[folder] = stack.enter_context(DocumentWriter(shard.path(folder, f"{ending}.parquet")))
        return kept[folder]

    with ExitStack() as stack:
        rejects = stack.enter_context(RejectWriter(shard.path("rejects", ".parquet")))
        left = stack.enter_context(TableWriter(shard.path("scores", ".parquet"), schema))
        if not params.language.buckets:
            writer("")
        for rows in read(scores_path, lines_path):
            verdicts = judge(rows)
            left.write(pyarrow.table({"id": rows.ids, **verdicts.scores}, schema=schema))
            for number, document in enumerate(islice(documents, len(rows.ids))):
                total += 1
                if rows.ids[number] != document.id:
                    raise UserError(f"{scores_path} scores {rows.ids[number]} where {path} holds {document.id}: score this corpus")
                verdict = verdicts.reasons[number]
                odds = rows.scores["classifier_score"][number]
                if verdict is None and shard.unit.argument is not None and rank(odds) < shard.unit.argument:
                    verdict = "classifier_top_fraction", f"{odds:g} < {score_of(shard.unit.argument):g}"
                own = slice(rows.lines.texts[number], rows.lines.texts[number + 1])
                text = document.text
                if verdict is None and judge.cuts(rows.languages[number]):
                    text = cut(text, verdicts.stays[own].tolist())
                    if not text:
                        verdict = "no_lines", "all lines were cut"
                if verdict is None:
                    cut_characters += len(document.text) - len(text)
                    writer(rows.languages[number]).write(replace(document, text=text))
                    continue
                reason, detail = verdict
                rejects.write(Reject(document.id, document.url, document.source, reason, detail))
                rejected[reason] = rejected.get(reason, 0) + 1
        if next(documents, None) is not None:
            raise UserError(f"{path} has more documents than {scores_path}: score this corpus")
    records = {folder: one.records for folder, one in kept.items()}
    return ShardResult(
        records={**records, "rejects": rejects.records, "scores": left.records},
        counts=Counts(total=total, kept=sum(records.values()), rejected=rejected),
        metrics={"cut_characters": cut_characters},
    )


def check_select(name: str, params: Thresholds, run: MapRun, sources: Sequence[str], roles: Mapping[str, Collection[str]]) -> None:
    """Refuse to choose by scores of a classifier that is not there."""
    if params.classifier.top_fraction < 1 and "classifier" not in roles["scores"]:
        raise UserError(f"{name}.{NO_SCORES}")


@stage(version=2, reads="corpus", needs=("corpus", "scores"), check=check_select)
def select(ctx: StageContext, params: Thresholds) -> Metrics:
    """Keep the documents whose scores pass the thresholds, and of these the lines that the rules leave. Other thresholds or rules
    never score again."""
    tables = {folder: {stem(file.name): file for file in ctx.inputs["scores"].select(folder)} for folder in ("scores", "lines")}
    corpus = ctx.inputs["corpus"].select("documents")
    for file in corpus:
        if any(stem(file.name) not in known for known in tables.values()):
            raise UserError(f"needs.scores has no scores of {file.name}: score the corpus that needs.corpus names")
    least = None
    if params.classifier.top_fraction < 1:
        units = [joined(stem(file.name), *(known[stem(file.name)] for known in tables.values())) for file in corpus]
        ranked = ctx.map_shards(rank_shard, units, params)
        ctx.publish_shards(ranked)
        least = _least(ranked.files, params.classifier.top_fraction)
    units = [joined(stem(file.name), file, *(known[stem(file.name)] for known in tables.values()), argument=least) for file in corpus]
    mapped = ctx.map_shards(select_shard, units, params)
    ctx.publish_shards(mapped)
    return mapped.metrics


def _least(files: tuple[File, ...], fraction: float) -> int:
    """The lowest of the highest `fraction` of all ranks; a number for each possible rank is all it holds."""
    import numpy
    import pyarrow.parquet

    from data_prep.quality.classifier import MOST

    numbers = numpy.zeros(MOST + 1, numpy.int64)
    for file in files:
        ranks = pyarrow.parquet.read_table(file.path, use_threads=False).column("rank").to_numpy()
        numbers += numpy.bincount(ranks, minlength=len(numbers))
    wanted = math.ceil(fraction * int(numbers.sum()))
    above = numpy.cumsum(numbers[::-1])
    return len(numbers) - 1 - int(numpy.searchsorted(above, wanted))
