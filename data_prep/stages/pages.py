"""Stages that give documents: the pages of a crawl, and the invented crawl of the demo."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from msgspec import Meta

from pipeline.stage import Counts, File, Metrics, Shard, ShardResult, StageContext, UserError, joined, stage


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


@stage(version=1, needs=())
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
    publish("blocklists/spam.domains.txt", web.blocklist().encode(), 0)
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
class UrlRules:
    """Which URLs are rejected, besides those on the lists that are given."""

    own_lists: Annotated[bool, Meta(description="the short lists of hosts and words that come with data_prep apply too")] = True
    soft_words: Annotated[int, Meta(ge=1, description="different soft words that are one too many for a URL")] = 2


@dataclass(frozen=True)
class IngestParams:
    """Pages to documents. The limits decide which pages are refused, whatever machine reads them."""

    extractor: Annotated[
        Literal["cascade", "blocks", "resiliparse", "trafilatura"],
        Meta(description="whose main text: see data_prep/extract; cascade is blocks, and trafilatura where that is doubtful"),
    ] = "cascade"
    max_doubt: Annotated[float, Meta(ge=0, le=1, description="share of a page's text that cascade may leave out undoubted")] = 0.95
    markdown: Annotated[bool, Meta(description="keep headings, lists, code and tables as Markdown")] = False
    max_record_bytes: Annotated[int, Meta(ge=1, description="largest record and decoded page, bytes")] = 32 << 20
    max_characters: Annotated[int, Meta(ge=1, description="longest text, characters; the stages behind take up to 5 s for a million")] = (
        4_000_000
    )
    max_tags: Annotated[int, Meta(ge=1, description="most start tags of a page, and most end tags")] = 30_000
    max_depth: Annotated[int, Meta(ge=4, le=5_000, description="deepest nesting of a page's elements")] = 512
    urls: UrlRules = UrlRules()
    split_bytes: Annotated[int, Meta(ge=0, description="larger files are divided into parts of about this size, bytes; 0: none are")] = (
        128 << 20
    )
    paths_prefix: Annotated[str, Meta(description="what stands before the lines of lists of paths")] = "https://data.commoncrawl.org/"


def compile_shard(shard: Shard) -> ShardResult:
    """All lists of hosts, URLs and words to one file that the other shards map into memory."""
    from data_prep.urls import compile_lists

    blocklist = compile_lists(zip(shard.unit.argument, shard.unit.paths, strict=True))
    blocklist.save(shard.path("blocklist", ".safetensors"))
    return ShardResult(records={"blocklist": blocklist.facts.distinct})


def ingest_shard(shard: Shard) -> ShardResult:
    """One file of pages, or a part of one, to documents and rejects."""
    from data_prep.documents import DocumentWriter, RejectWriter
    from data_prep.extract import Limits
    from data_prep.ingest import Settings, ingest_records
    from data_prep.sources.units import open_unit
    from data_prep.urls import UrlFilter

    params: IngestParams = shard.params
    urls = UrlFilter.load(shard.side["blocklist"].path, params.urls.soft_words)
    limits = Limits(params.max_tags, params.max_depth)
    settings = Settings(params.extractor, limits, params.max_doubt, params.markdown, params.max_characters)
    paths = shard.path("documents", ".parquet"), shard.path("rejects", ".parquet")
    with DocumentWriter(paths[0]) as documents, RejectWriter(paths[1]) as rejects:
        name, records = open_unit(shard.unit.argument, shard.unit.paths, params.max_record_bytes)
        done = ingest_records(name, records, urls, settings, documents, rejects)
    return ShardResult(
        records={"documents": documents.records, "rejects": rejects.records},
        counts=Counts(done.total, done.kept, dict(sorted(done.rejected.items())), done.errored),
        metrics={
            "other_records": done.other,
            "characters": done.characters,
            "killed_by_backstop": done.killed,
            **{f"by_{name}": number for name, number in sorted(done.extractors.items())},
        },
        reproducible=not done.killed,
        errors=tuple(done.errors),
    )


@stage(version=3, needs=("pages?",))
def ingest(ctx: StageContext, params: IngestParams) -> Metrics:
    """Main text of web pages (WARC, HTML) and ready texts (WET, JSONL, Parquet, data sets) as documents; lists stand beside them."""
    from data_prep.sources.units import KINDS, plan_units
    from data_prep.urls import OWN_LISTS, list_kind

    files = ctx.files("pages")
    blocklists = [file for file in files if list_kind(file.name)]
    pages = [file for file in files if not list_kind(file.name)]
    if "pages" in ctx.inputs:
        blocklists.extend(ctx.inputs["pages"].select("blocklists"))
    if not pages:
        raise UserError(f"ingest: no pages among its {len(files)} files; give files ending in {', '.join(KINDS)}")
    named = [replace(file, name=file.name.removeprefix("pages/")) for file in pages]
    units = plan_units(named, params.split_bytes, params.paths_prefix)
    if params.urls.own_lists:
        blocklists.extend(File.of(f"own/{os.path.basename(path)}", path) for path in OWN_LISTS)
    blocklists.sort(key=lambda file: (file.name, file.sha256))
    lists = joined("blocklist", *blocklists, argument=[file.name for file in blocklists])
    compiled = ctx.map_shards(compile_shard, [lists])
    ctx.publish_shards(compiled)
    # a shard knows its part by its argument: another way of dividing files changes nothing for those that stay whole
    mapped = ctx.map_shards(ingest_shard, units, replace(params, split_bytes=0, paths_prefix=""), {"blocklist": compiled.files[0]})
    ctx.publish_shards(mapped)
    return mapped.metrics
