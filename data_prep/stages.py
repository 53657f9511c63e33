"""The stages that turn pages into token shards. Each wires parts that work without Ray, Hydra or a disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from data_prep.quality.verdicts import Thresholds
from pipeline.stage import Counts, File, Metrics, Shard, ShardResult, StageContext, Unit, UserError, stage, stem, units_of

BLOCKLIST_ENDINGS = (".domains.txt", ".domains.txt.gz", ".domains", ".hosts")


@dataclass(frozen=True)
class IngestParams:
    """Pages to documents. The limits decide which pages are refused, whatever machine reads them."""

    max_record_bytes: Annotated[int, Meta(ge=1, description="largest record and decoded page, bytes")] = 32 << 20
    max_tags: Annotated[int, Meta(ge=1, description="most start tags of a page")] = 30_000
    max_depth: Annotated[int, Meta(ge=4, le=5_000, description="deepest nesting of a page's elements")] = 512


def ingest_shard(shard: Shard) -> ShardResult:
    """One file of pages to documents and rejects."""
    from data_prep.documents import DocumentWriter, RejectWriter
    from data_prep.extract import Limits
    from data_prep.ingest import ingest_file
    from data_prep.urls import OWN_BLOCKLIST, UrlFilter, read_blocklist

    lists = [str(OWN_BLOCKLIST), *(file.path for file in shard.side.values())]
    urls = UrlFilter(host for path in lists for host in read_blocklist(path))
    limits = Limits(shard.params.max_tags, shard.params.max_depth)
    paths = shard.path("documents", ".parquet"), shard.path("rejects", ".parquet")
    with DocumentWriter(paths[0]) as documents, RejectWriter(paths[1]) as rejects:
        done = ingest_file(shard.unit.paths[0], shard.unit.argument, urls, shard.params.max_record_bytes, limits, documents, rejects)
    return ShardResult(
        records={"documents": documents.records, "rejects": rejects.records},
        counts=Counts(done.total, done.kept, dict(sorted(done.rejected.items())), done.errored),
        metrics={"other_records": done.other, "characters": done.characters, "killed_by_backstop": done.killed},
        reproducible=not done.killed,
    )


@stage(version=1)
def ingest(ctx: StageContext, params: IngestParams) -> Metrics:
    """Main text of web pages (WARC) and ready texts (JSONL), as documents; blocklists stand beside the pages."""
    from data_prep.ingest import READERS, kind_of, unit_names

    files = ctx.files("pages")
    blocklists = [file for file in files if file.name.endswith(BLOCKLIST_ENDINGS)]
    pages = [file for file in files if not file.name.endswith(BLOCKLIST_ENDINGS)]
    if "pages" in ctx.inputs:
        blocklists.extend(ctx.inputs["pages"].select("blocklists"))
    for file in pages:
        if kind_of(file.name) is None:
            kinds = ", ".join([*READERS, *BLOCKLIST_ENDINGS])
            raise UserError(f"ingest: {file.name} is no kind of file that is read ({kinds}); leave it out of the sources")
    if not pages:
        raise UserError(f"ingest: no pages among its {len(files)} files; give files ending in {', '.join(READERS)}")
    names = [file.name.removeprefix("pages/") for file in pages]
    units = [Unit(unit, file.sha256, name, (file.path,)) for unit, name, file in zip(unit_names(names), names, pages, strict=True)]
    lists = sorted({file.sha256: file for file in blocklists}.items())
    mapped = ctx.map_shards(ingest_shard, units, params, {f"blocklist {number}": file for number, (_, file) in enumerate(lists)})
    ctx.publish_shards(mapped)
    return mapped.metrics


@dataclass(frozen=True)
class DemoParams:
    """A small invented web with labelled trouble, and the chat sets of the same world."""

    seed: Annotated[int, Meta(ge=0, description="another seed is another world")] = 0
    pages: Annotated[int, Meta(ge=1, le=100_000, description="ordinary pages")] = 3_600
    trouble_pages: Annotated[int, Meta(ge=0, description="pages of every kind of trouble, at most as many as ordinary ones")] = 20
    warc_files: Annotated[int, Meta(ge=1, le=1_000, description="files the crawl is divided into")] = 8
    lesson_share: Annotated[float, Meta(ge=0, le=1, description="share of ordinary pages that teach additions")] = 0.15
    lesson_problems: Annotated[int, Meta(ge=2, le=6, description="additions on such a page")] = 4
    short_form: Annotated[bool, Meta(description="pages with arithmetic show one addition with the chat's short working")] = True
    worked_examples: Annotated[int, Meta(ge=0, description="additions in the conversations")] = 160
    question_forms: Annotated[int, Meta(ge=1, le=4, description="wordings in which they are asked")] = 2
    fact_examples: Annotated[int, Meta(ge=0, description="conversations about facts, as far as there are questions")] = 400
    identity_examples: Annotated[int, Meta(ge=0, description="conversations about the assistant itself")] = 56
    validation_examples: Annotated[int, Meta(ge=0, le=200, description="held-out additions, facts and pairs for validation")] = 64
    preference_pairs: Annotated[int, Meta(ge=0, description="pairs to train preferences on, as far as there are questions")] = 400
    preference_tests: Annotated[int, Meta(ge=0, description="the same with held-out facts")] = 500
    train_prompts: Annotated[int, Meta(ge=0, description="additions to practise, none of which is a worked example")] = 2_000
    test_prompts: Annotated[int, Meta(ge=1, le=1_200, description="held-out additions")] = 1_200

    def __post_init__(self) -> None:
        if self.trouble_pages > self.pages:
            raise ValueError(f"{self.trouble_pages} trouble_pages copy from {self.pages} pages; set trouble_pages <= pages")
        if self.worked_examples + self.train_prompts > 2_600:
            total = f"{self.worked_examples} worked_examples + {self.train_prompts} train_prompts"
            raise ValueError(f"{total}: there are 2,600 additions to train on, set them so that their sum is at most that")


@stage(version=1)
def demo(ctx: StageContext, params: DemoParams) -> Metrics:
    """Invent a small web and pack it as WARC files, with the truth about every page, and write the chat sets."""
    import json

    from data_prep.sources.demo import chats, web
    from data_prep.sources.demo.world import make_world

    def publish(name: str, content: bytes, records: int) -> None:
        with open(ctx.path(name), "wb") as stream:
            stream.write(content)
        ctx.publish(name, records)

    world = make_world(params.seed)
    lessons = web.Lessons(params.lesson_share, params.lesson_problems, params.short_form)
    pages = web.make_pages(world, params.seed, pages=params.pages, trouble_pages=params.trouble_pages, lessons=lessons)
    for name, content, records in web.pack(pages, params.seed, params.warc_files):
        publish(f"pages/{name}", content, records)
    publish("blocklists/demo.domains.txt", web.blocklist().encode(), 0)
    sets = chats.chat_sets(
        world,
        params.seed,
        worked_examples=params.worked_examples,
        fact_examples=params.fact_examples,
        identity_examples=params.identity_examples,
        validation_examples=params.validation_examples,
        question_forms=params.question_forms,
        preference_pairs=params.preference_pairs,
        preference_tests=params.preference_tests,
        train_prompts=params.train_prompts,
        test_prompts=params.test_prompts,
    )
    tables = {"truth/pages.jsonl": list(web.truth(pages, params.seed))} | sets
    for name, rows in tables.items():
        publish(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(), len(rows))
    numbers = {name.removesuffix(".jsonl").replace("/", "_"): len(rows) for name, rows in sets.items()}
    return {"pages": len(pages), "ordinary_pages": params.pages} | numbers


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


@stage(version=1, reads="corpus")
def select(ctx: StageContext, params: Thresholds) -> Metrics:
    """Keep the documents whose scores pass the thresholds. Other thresholds never score again."""
    scores = {stem(file.name): file for file in ctx.inputs["scores"].select("scores")}
    units = []
    for file in ctx.inputs["corpus"].select("documents"):
        name = stem(file.name)
        if name not in scores:
            raise UserError(f"needs.scores has no scores of {file.name}: score the corpus that needs.corpus names")
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
        raise UserError(f"its tokenizer holds none of {', '.join(TOKENIZER_FILES)}: set tokenize.needs.tokenizer to another stage")
    mapped = ctx.map_shards(tokenize_shard, units_of(ctx.inputs["corpus"].select("documents")), params, side)
    ctx.publish_shards(mapped)
    return mapped.metrics
