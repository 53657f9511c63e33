"""Models that others begin from: somebody's, taken in as it is, and a dense one turned into a mixture of experts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from pipeline.stage import Metrics, StageContext, UserError, stage
from trainer.model.upcycling import Sparse
from trainer.outlook import collision, plan_adoption, plan_upcycling
from trainer.planning import count_parameters
from trainer.stages.publishing import Seed, publish_model


@dataclass(frozen=True)
class AdoptParams:
    """A model that others have trained."""


@stage(version=1, plan=plan_adoption)
def adopt(ctx: StageContext, params: AdoptParams) -> Metrics:
    """Somebody's Hugging Face directory, its files given as sources, as a model and tokenizer that other stages can need."""
    import shutil
    from pathlib import Path

    from data_prep.tokenizer import Tokenizer
    from data_prep.tokenizer.control import chat_marks
    from trainer.model.hf import require_model

    if wrong := collision([file.name for file in ctx.sources]):
        raise UserError(f"{ctx.name}.{wrong}")
    for file in ctx.sources:
        shutil.copyfile(file.path, ctx.path(Path(file.name).name))
        ctx.fence.check()
    directory = str(Path(ctx.path("config.json")).parent)
    try:
        config = require_model(directory)
        tokenizer = Tokenizer.load(directory)
    except UserError as error:  # of the user's files, not of the copy
        raise UserError(f"{ctx.name}.sources: {str(error).replace(f'{directory}/', '').replace(directory, 'the model')}") from None
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{ctx.name}.sources: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}; give files of one model"
        )
    for file in ctx.sources:
        ctx.publish(Path(file.name).name)
    marks = chat_marks(tokenizer)
    metrics = {"parameters": count_parameters(config).exact, "vocab_size": config.vocab_size}
    return {**metrics, "chat_format": marks.name if marks else "none"}


@dataclass(frozen=True)
class UpcycleParams:
    """A mixture of experts out of a dense model: what is not said here is as in that one."""

    model: Annotated[Sparse, Meta(description="its experts")] = field(default_factory=Sparse)
    seed: Seed = 0


@stage(version=1, needs=("model",), plan=plan_upcycling)
def upcycle(ctx: StageContext, params: UpcycleParams) -> Metrics:
    """A mixture of experts that computes what the dense model does, every expert a copy of its feed-forward network; to be
    trained on by a stage that needs it as its model."""
    from data_prep.tokenizer import Tokenizer
    from trainer.model import upcycling
    from trainer.model.hf import load_config, load_model, save_weights

    directory = ctx.inputs["model"].directory
    try:
        sparse = params.model.shape(load_config(directory))
    except ValueError as error:
        raise UserError(f"{ctx.name}.model: {error}") from None
    model, dense = load_model(directory)
    save_weights(upcycling.upcycle(model.state_dict(), dense, sparse, params.seed), sparse, ctx.directory)
    publish_model(ctx, sparse, "fp32", directory, Tokenizer.load(directory), "Upcycled model")
    parameters = count_parameters(sparse)
    return {"parameters": parameters.exact, "active_parameters": parameters.active}
