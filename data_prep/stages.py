"""The stages that turn pages into token shards. Each wires parts that work without Ray, Hydra or a disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from data_prep.quality.verdicts import Thresholds
from pipeline.stage import Counts, File, Metrics, Shard, ShardResult, StageContext, Unit, UserError, stage, stem, units_of


@dataclass(frozen=True)
class ScoreParams:
    """Language and quality scores; thresholds are `select`'s."""

    language_characters: Annotated[int, Meta(ge=1, description="how much of the text's start is given to language identification")] = 2_000


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


@stage(version=1, reads="corpus", keeps="scores")
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
                raise UserError(f"select: {scores} scores {row['id']} where {documents} holds {document.id}: score this corpus")
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


@stage(version=1, reads="corpus")
def select(ctx: StageContext, params: Thresholds) -> Metrics:
    """Keep the documents whose scores pass the thresholds. Other thresholds never score again."""
    scores = {stem(file.name): file for file in ctx.inputs["scores"].select("scores")}
    units = []
    for file in ctx.inputs["corpus"].select("documents"):
        name = stem(file.name)
        if name not in scores:
            raise UserError(f"select: needs.scores has no scores of {file.name}: score the corpus that needs.corpus names")
        units.append(Unit(name, _joint_digest(file, scores[name]), None, (file.path, scores[name].path)))
    mapped = ctx.map_shards(select_shard, units, params)
    ctx.publish_shards(mapped)
    return mapped.metrics


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


@stage(version=1, reads="corpus")
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
        units.append(Unit(name, _joint_digest(file, removal_list), None, (file.path, removal_list.path)))
    mapped = ctx.map_shards(remove_shard, units)
    ctx.publish_shards(mapped)
    return mapped.metrics


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


@stage(version=1, reads="corpus")
def scrub(ctx: StageContext, params: ScrubParams) -> Metrics:
    """Replace e-mail and IP addresses by placeholders. Metrics count them by kind; values are kept nowhere."""
    mapped = ctx.map_shards(scrub_shard, units_of(ctx.inputs["corpus"].select("documents")))
    ctx.publish_shards(mapped)
    return mapped.metrics


def _joint_digest(*files: File) -> str:
    """The content of a unit made of several files."""
    from hashlib import sha256

    return sha256("\n".join(file.sha256 for file in files).encode()).hexdigest()


@dataclass(frozen=True)
class TokenizerParams:
    """A byte-pair vocabulary trained on a sample of the corpus."""

    vocab_size: Annotated[int, Meta(ge=300, le=262_144, description="ids, control tokens and bytes included")] = 32_768
    sample_bytes: Annotated[int, Meta(ge=1, description="text to train on, bytes; chosen by the hash of the document's id")] = 100_000_000


@stage(version=1)
def tokenizer(ctx: StageContext, params: TokenizerParams) -> Metrics:
    """Train the tokenizer and publish it as sentencepiece and as Hugging Face files that give the same ids."""
    from data_prep.documents import read_documents
    from data_prep.tokenizer import Tokenizer, check_export, export, sample, train

    files = ctx.inputs["corpus"].select("documents")
    documents = (document for file in files for document in read_documents(file.path))
    texts = sample(((document.id, document.text) for document in documents), params.sample_bytes)
    model = train(texts, params.vocab_size)
    contents = {"tokenizer.model": model, **export(model)}
    checked = check_export(model, contents["tokenizer.json"].decode(), texts)
    for name, content in contents.items():
        with open(ctx.path(name), "wb") as stream:
            stream.write(content)
        ctx.publish(name)
    return {
        "vocab_size": Tokenizer.from_model(model).vocab_size,
        "sample_documents": len(texts),
        "sample_bytes": sum(len(text.encode()) for text in texts),
        "bytes_per_token": round(checked.bytes / checked.tokens, 4),
    }


@dataclass(frozen=True)
class TokenizeParams:
    """Token shards from documents."""

    append_eos: Annotated[bool, Meta(description="end every document with the tokenizer's end-of-document id")] = True
    validation_fraction: Annotated[float, Meta(ge=0, lt=1, description="share of documents held out, by the hash of their ids")] = 0.01


def tokenize_shard(shard: Shard) -> ShardResult:
    """One file of documents to a training and a validation shard, and the index that names their documents."""
    from pathlib import Path

    from data_prep.documents import read_batches
    from data_prep.token_shards import IndexRow, TokenShardWriter, write_index
    from data_prep.tokenizer import Tokenizer, hash_fraction

    params: TokenizeParams = shard.params
    tokenizer = Tokenizer.load(Path(next(iter(shard.side.values())).path).parent)
    end = [tokenizer.eos_id] if params.append_eos else []
    rows: list[IndexRow] = []
    with (
        TokenShardWriter(shard.path("train", ".bin"), tokenizer.vocab_size) as train,
        TokenShardWriter(shard.path("validation", ".bin"), tokenizer.vocab_size) as validation,
    ):
        for path in shard.unit.paths:
            for batch in read_batches(path, ["id", "text"]):
                texts = batch.column("text").to_pylist()
                for identity, text, ids in zip(batch.column("id").to_pylist(), texts, tokenizer.encode_batch(texts), strict=True):
                    held_out = hash_fraction(identity, "validation") < params.validation_fraction
                    ids += end
                    (validation if held_out else train).write(ids)
                    rows.append(IndexRow(identity, "validation" if held_out else "train", len(ids), len(text.encode())))
    write_index(shard.path("index", ".parquet"), rows)
    metrics: dict[str, float] = {"train_tokens": train.tokens, "validation_tokens": validation.tokens}
    for split, writer in (("train", train), ("validation", validation)):
        metrics[f"{split}_documents"] = writer.documents
        metrics[f"{split}_bytes"] = sum(row.bytes for row in rows if row.split == split)
    return ShardResult(
        records={"train": train.documents, "validation": validation.documents, "index": len(rows)},
        counts=Counts(total=len(rows), kept=len(rows)),
        metrics=metrics,
    )


@stage(version=1, reads="corpus", keeps="index")
def tokenize(ctx: StageContext, params: TokenizeParams) -> Metrics:
    """Turn documents into token shards for training and validation."""
    from data_prep.tokenizer import TOKENIZER_FILES

    side = {file.name: file for file in ctx.inputs["tokenizer"].files if file.name in TOKENIZER_FILES}
    if not side:
        raise UserError(
            f"its tokenizer holds none of {', '.join(TOKENIZER_FILES)}: set tokenize.needs.tokenizer to another stage"
        )
    mapped = ctx.map_shards(tokenize_shard, units_of(ctx.inputs["corpus"].select("documents")), params, side)
    ctx.publish_shards(mapped)
    return mapped.metrics
