"""The stages that turn token shards into a chat model. Each wires parts that work without Ray, Hydra or a disk."""

from trainer.stages.beginnings import AdoptParams, UpcycleParams, adopt, upcycle
from trainer.stages.measuring import EvaluateParams, LadderParams, Size, check_ladder, evaluate, flat, ladder
from trainer.stages.pretraining import (
    Experts,
    Phase,
    PretrainParams,
    check_pretraining,
    mixed_corpora,
    packed,
    pretrain,
    sound_corpora,
)
from trainer.stages.tuning import DpoParams, GrpoParams, SftParams, dpo, grpo, sft

__all__ = [
    "AdoptParams",
    "DpoParams",
    "EvaluateParams",
    "Experts",
    "GrpoParams",
    "LadderParams",
    "Phase",
    "PretrainParams",
    "SftParams",
    "Size",
    "UpcycleParams",
    "adopt",
    "check_ladder",
    "check_pretraining",
    "dpo",
    "evaluate",
    "flat",
    "grpo",
    "ladder",
    "mixed_corpora",
    "packed",
    "pretrain",
    "sft",
    "sound_corpora",
    "upcycle",
]
