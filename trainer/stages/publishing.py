"""What the training stages share: their seed, the files they are given, the model and the metrics they publish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from pipeline.stage import StageContext, UserError, stem
from trainer.model.config import ModelConfig

if TYPE_CHECKING:
    from data_prep.tokenizer import Tokenizer


Seed = Annotated[int, Meta(ge=0, lt=2**62, description="of everything random: weights, order of the data, sampling")]


def publish_model(
    ctx: StageContext, config: ModelConfig, precision: str, tokenizer_directory: str, tokenizer: Tokenizer, title: str
) -> None:
    """Complete the directory around the weights that were left there, and publish all of its files."""
    from data_prep.tokenizer.control import chat_marks
    from trainer.model.hf import complete_model, model_card

    marks = chat_marks(tokenizer)
    ends = [tokenizer.eos_id, *([tokenizer.control[marks.end]] if marks else [])]
    names = complete_model(
        ctx.directory,
        config,
        dtype={"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision],
        tokenizer=tokenizer_directory,
        template=marks.template() if marks else None,
        end_ids=tuple(dict.fromkeys(ends)),  # of some, one token ends both
        pad_id=tokenizer.eos_id,
        card=model_card(f"{title} ({ctx.stage.name})", config, lineage(ctx)),
    )
    for name in names:
        ctx.publish(name)


def lineage(ctx: StageContext) -> Mapping[str, str]:
    """Name → digest of what an artifact was made from: its inputs, and the sources as far as manifests tell."""
    made_from = {file.name: file.sha256 for file in ctx.sources}
    for role in sorted(ctx.inputs):
        artifact = ctx.inputs[role]
        made_from |= artifact.manifest["lineage"]
        made_from[artifact.stage] = artifact.digest
    return made_from


def training_metrics(report: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's metrics of a training: first, best and last validation, totals, throughput, and the whole curve."""
    history = report["history"]
    validated = [entry for entry in history if entry["validation"]]
    metrics: dict[str, Any] = {"steps": report["steps"], **report["totals"], **report["throughput"]}
    metrics |= {name: value for entry in history[-1:] for name, value in entry["train"].items()}
    for label, entries in (("first", validated[:1]), ("last", validated[-1:])):
        metrics |= {f"{label}_validation_{name}": value for entry in entries for name, value in entry["validation"].items()}
    if report["skipped"]:
        metrics["skipped"] = report["skipped"]
    if report["best_step"]:
        metrics["best_step"] = report["best_step"]
        best = next(entry for entry in validated if entry["step"] == report["best_step"])
        metrics |= {f"best_validation_{name}": value for name, value in best["validation"].items()}
    return {**metrics, "history": history}


def named_apart(ctx: StageContext, role: str, *held_out: str) -> dict[str, tuple[str, ...]]:
    """The role's files by set: those with one of the words `held_out` in their name, and the others as `train`."""
    files = ctx.files(role)
    found = {word: tuple(file.path for file in files if word in stem(file.name)) for word in held_out}
    found["train"] = tuple(file.path for file in files if not any(word in stem(file.name) for word in held_out))
    if not found["train"]:
        raise UserError(f"{ctx.name}: no file to train on; its {role} are {', '.join(file.name for file in files) or 'none'}")
    return found
