"""The stages that turn pages into token shards. Each wires parts that work without Ray, Hydra or a disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from pipeline.stage import Metrics, Shard, ShardResult, StageContext, UserError, stage, units_of
