"""The stages from pages to token shards. Each wires parts that work without Ray, Hydra or a disk."""

from data_prep.stages.decontamination import DecontaminateParams, decontaminate, decontaminate_shard
from data_prep.stages.duplicates import DedupParams, DedupUrlParams, NearDedupParams, dedup, dedup_url, hash_shard, near_dedup, remove_shard
from data_prep.stages.lines import LineDedupParams, line_dedup
from data_prep.stages.pages import DemoParams, IngestParams, UrlRules, compile_shard, demo, ingest, ingest_shard
from data_prep.stages.privacy import ScrubParams, scrub, scrub_shard
from data_prep.stages.quality import ClassifierParams, ScoreParams, classifier, score, score_shard, select, select_shard
from data_prep.stages.reporting import ReportParams, count_shard, find_shard, report, tally_shard
from data_prep.stages.tokens import (
    TokenizeParams,
    TokenizerParams,
    draw_shard,
    measure_shard,
    tokenize,
    tokenize_shard,
    tokenizer,
)

__all__ = [
    "ClassifierParams",
    "DecontaminateParams",
    "DedupParams",
    "DedupUrlParams",
    "DemoParams",
    "IngestParams",
    "LineDedupParams",
    "NearDedupParams",
    "ReportParams",
    "ScoreParams",
    "ScrubParams",
    "TokenizeParams",
    "TokenizerParams",
    "UrlRules",
    "classifier",
    "compile_shard",
    "count_shard",
    "decontaminate",
    "decontaminate_shard",
    "dedup",
    "dedup_url",
    "demo",
    "draw_shard",
    "find_shard",
    "hash_shard",
    "ingest",
    "ingest_shard",
    "line_dedup",
    "measure_shard",
    "near_dedup",
    "remove_shard",
    "report",
    "score",
    "score_shard",
    "scrub",
    "scrub_shard",
    "select",
    "select_shard",
    "tally_shard",
    "tokenize",
    "tokenize_shard",
    "tokenizer",
]
