"""The stages that turn token shards into a chat model. Each wires parts that work without Ray, Hydra or a disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from pipeline.stage import Metrics, StageContext, UserError, stage
from trainer.engine import Optimization, TrainRun
from trainer.model.config import ModelConfig

if TYPE_CHECKING:
    from data_prep.tokenizer import Tokenizer

Seed = Annotated[int, Meta(ge=0, lt=2**63, description="of everything random: weights, order of the data, sampling")]


@dataclass(frozen=True)
class PretrainParams(Optimization):
    """A base model from token shards."""

    model: Annotated[ModelConfig, Meta(description="the transformer's shape")] = field(default_factory=ModelConfig)
    sequence_length: Annotated[int, Meta(ge=8, description="tokens in a row; documents share rows but never see each other")] = 256
    batch_tokens: Annotated[int, Meta(ge=8, description="tokens of a step, over all ranks")] = 8192
    max_steps: Annotated[int, Meta(ge=1, description="steps of the optimizer")] = 150
    validate_every: Annotated[int, Meta(ge=1, description="steps between validations")] = 50
    validation_tokens: Annotated[int, Meta(ge=1, description="held-out tokens of a validation, rounded up to whole documents")] = 32_768
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens % self.sequence_length:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is no multiple of sequence_length {self.sequence_length}; change one of them"
            )
        if self.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"sequence_length {self.sequence_length} exceeds model.max_position_embeddings {self.model.max_position_embeddings}; "
                "raise the latter"
            )


@stage(version=1, run=TrainRun, extendable=("max_steps",))
def pretrain(ctx: StageContext, params: PretrainParams) -> Metrics:
    """Train a base model on the next token of every document; publish it as a Hugging Face directory."""
    from data_prep.tokenizer import Tokenizer
    from trainer.launch import NewModel, launch
    from trainer.loop import Plan
    from trainer.tasks.language_model import Pretraining

    corpus, directory = ctx.inputs["corpus"], ctx.inputs["tokenizer"].directory
    tokenizer = Tokenizer.load(directory)
    config = params.model.resolved(tokenizer.vocab_size)
    held_out = [file.path for file in corpus.select("validation") if file.path.endswith(".bin")]
    task = Pretraining(
        train=tuple(file.path for file in corpus.select("train") if file.path.endswith(".bin")),
        validation=tuple(zip(held_out, (file.path for file in corpus.select("index")), strict=True)),
        end_id=tokenizer.eos_id,
        sequence_length=params.sequence_length,
        rows_per_step=params.batch_tokens // params.sequence_length,
        validation_tokens=params.validation_tokens,
        seed=params.seed,
    )
    plan = Plan(params.max_steps, params.validate_every)
    report = launch(ctx, task, plan, params, NewModel(config, params.seed))
    publish_model(ctx, config, params, directory, tokenizer, "Base model")
    return training_metrics(report)


@dataclass(frozen=True)
class SftParams(Optimization):
    """A chat model from conversations: trained until the validation loss has its lowest value, which decides the weights."""

    lr: Annotated[float, Meta(gt=0, le=1, description="peak learning rate")] = 1e-3
    weight_decay: Annotated[float, Meta(ge=0, le=1, description="of matrices; norms have none")] = 0.0
    sequence_length: Annotated[int, Meta(ge=8, description="longest conversation, and row shared by short ones, tokens")] = 256
    batch: Annotated[int, Meta(ge=1, description="conversations of a step, over all ranks")] = 64
    max_steps: Annotated[int, Meta(ge=1, description="steps of the optimizer at most")] = 300
    validate_every: Annotated[int, Meta(ge=1, description="steps between validations")] = 20
    patience: Annotated[int, Meta(ge=0, description="stop after so many validations without a new best; 0: never")] = 4
    seed: Seed = 0


@stage(version=1, run=TrainRun, extendable=("max_steps",))
def sft(ctx: StageContext, params: SftParams) -> Metrics:
    """Train a model to answer: only the assistant's turns and their end are trained."""
    from data_prep.tokenizer import Tokenizer
    from trainer.launch import SavedModel, launch
    from trainer.loop import Plan
    from trainer.model.hf import load_config
    from trainer.tasks.language_model import FineTuning

    directory = ctx.inputs["model"].directory
    config = load_config(directory)
    if params.sequence_length > config.max_position_embeddings:
        raise UserError(f"sft.sequence_length={params.sequence_length}: the model reads {config.max_position_embeddings} tokens; lower it")
    files = ctx.files("conversations")
    task = FineTuning(
        train=tuple(file.path for file in files if "validation" not in file.name),
        validation=tuple(file.path for file in files if "validation" in file.name),
        tokenizer=directory,
        sequence_length=params.sequence_length,
        batch=params.batch,
        seed=params.seed,
    )
    if not task.train or not task.validation:
        names = ", ".join(file.name for file in files) or "none"
        raise UserError(f"sft: needs files to train on and one with 'validation' in its name; its conversations are {names}")
    plan = Plan(params.max_steps, params.validate_every, keep_best="loss", patience=params.patience)
    report = launch(ctx, task, plan, params, SavedModel(directory))
    publish_model(ctx, config, params, directory, Tokenizer.load(directory), "Chat model")
    return training_metrics(report)


def publish_model(
    ctx: StageContext, config: ModelConfig, settings: Optimization, tokenizer_directory: str, tokenizer: Tokenizer, title: str
) -> None:
    """Complete the directory around the weights that the training left, and publish all of its files."""
    from data_prep.tokenizer.control import TURN_END
    from trainer.model.hf import complete_model, model_card

    ends = (tokenizer.eos_id, *(tokenizer.control[name] for name in (TURN_END,) if name in tokenizer.control))
    names = complete_model(
        ctx.directory,
        config,
        dtype="bfloat16" if settings.precision == "bf16" else "float32",
        tokenizer=tokenizer_directory,
        end_ids=ends,
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
        made_from |= artifact.manifest.get("lineage", {})
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
    if report["best_step"]:
        metrics["best_step"] = report["best_step"]
        best = next(entry for entry in validated if entry["step"] == report["best_step"])
        metrics |= {f"best_validation_{name}": value for name, value in best["validation"].items()}
    return {**metrics, "history": history}
