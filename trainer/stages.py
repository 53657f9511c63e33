"""The stages that turn token shards into a chat model. Each wires parts that work without Ray, Hydra or a disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from pipeline.stage import Metrics, StageContext, UserError, stage
