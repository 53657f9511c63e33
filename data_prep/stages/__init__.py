"""The stages from pages to token shards. Each wires parts that work without Ray, Hydra or a disk."""

from data_prep.stages.decontamination import DecontaminateParams, decontaminate, decontaminate_shard
from data_prep.stages.duplicates import DedupParams, dedup, hash_shard, remove_shard
from data_prep.stages.pages import DemoParams, IngestParams, demo, ingest, ingest_shard
from data_prep.stages.privacy import ScrubParams, scrub, scrub_shard
from data_prep.stages.quality import ScoreParams, score, score_shard, select, select_shard
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
    "DecontaminateParams",
    "DedupParams",
    "DemoParams",
    "IngestParams",
    "ScoreParams",
    "ScrubParams",
    "TokenizeParams",
    "TokenizerParams",
    "decontaminate",
    "decontaminate_shard",
    "dedup",
    "demo",
    "draw_shard",
    "hash_shard",
    "ingest",
    "ingest_shard",
    "measure_shard",
    "remove_shard",
    "score",
    "score_shard",
    "scrub",
    "scrub_shard",
    "select",
    "select_shard",
    "tokenize",
    "tokenize_shard",
    "tokenizer",
]
