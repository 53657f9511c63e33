"""Stages that turn documents into a vocabulary and into token shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from pipeline.stage import Counts, Metrics, Shard, ShardResult, StageContext, UserError, stage, units_of


@dataclass(frozen=True)
class TokenizerParams:
    """A byte-pair vocabulary trained on a sample of the corpus."""

    vocab_size: Annotated[int, Meta(ge=300, le=262_144, description="ids, control tokens and bytes included")] = 32_768
    sample_bytes: Annotated[int, Meta(ge=1, description="text to train on, bytes; chosen by the hash of the document's id")] = 100_000_000


@stage(version=1, needs=("corpus",))
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


@stage(version=1, reads="corpus", keeps="index", needs=("corpus", "tokenizer"))
def tokenize(ctx: StageContext, params: TokenizeParams) -> Metrics:
    """Turn documents into token shards for training and validation."""
    from data_prep.tokenizer import TOKENIZER_FILES

    side = {file.name: file for file in ctx.inputs["tokenizer"].files if file.name in TOKENIZER_FILES}
    if not side:
        raise UserError(f"its tokenizer holds none of {', '.join(TOKENIZER_FILES)}: set tokenize.needs.tokenizer to another stage")
    mapped = ctx.map_shards(tokenize_shard, units_of(ctx.inputs["corpus"].select("documents")), params, side)
    ctx.publish_shards(mapped)
    return mapped.metrics
