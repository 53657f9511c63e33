"""From a base model to a chat model: fine-tuning on conversations, preferences, verified samples."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from pipeline.stage import Metrics, StageContext, UserError, stage, stem
from trainer.engine import Optimization, Schedule, TrainRun, preflight
from trainer.outlook import misfit, plan_fine_tuning, plan_preferences, plan_reinforcement, too_narrow
from trainer.planning import Assumptions
from trainer.stages.publishing import Seed, named_apart, publish_model, training_metrics


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


def check_fine_tuning(name: str, params: SftParams, run: TrainRun, sources: Sequence[str], roles: Collection[str]) -> None:
    """Refuse conversations without a set to train on or one to validate on before the base model is trained for them."""
    preflight(name, params, run)
    require_nothing_to_show(name, run)
    require_a_share(name, params.batch, run)
    if sources:
        require_both_sets(name, sources)


def require_nothing_to_show(name: str, run: TrainRun) -> None:
    if run.show_every:
        raise UserError(f"{name}.run.show_every={run.show_every}: only pretraining shows what its model writes; set it to 0")


def require_a_share(name: str, batch: int, run: TrainRun) -> None:
    if batch < run.world_size:
        raise UserError(
            f"{name}.batch={batch}: too few for {run.world_size} ranks; raise it to {run.world_size} or lower {name}.run.workers"
        )


def require_both_sets(name: str, files: Sequence[str]) -> None:
    held_out = [file for file in files if "validation" in stem(file)]
    if not held_out or len(held_out) == len(files):
        there = ", ".join(files) or "none"
        raise UserError(f"{name}: needs conversations to train on and others whose file has 'validation' in its name; there are {there}")


@stage(
    version=1,
    run=TrainRun,
    extendable=("max_steps",),
    needs=("model", "conversations?"),
    check=check_fine_tuning,
    plan=plan_fine_tuning,
    assumes=Assumptions,
)
def sft(ctx: StageContext, params: SftParams) -> Metrics:
    """Train a model to answer: only the assistant's turns and their end are trained."""
    from data_prep.tokenizer import Tokenizer
    from trainer.launch import SavedModel, launch
    from trainer.loop import Plan
    from trainer.model.hf import load_config
    from trainer.tasks.language_model import FineTuning

    directory = ctx.inputs["model"].directory
    config = load_config(directory)
    if wrong := misfit(config, params.sequence_length) or too_narrow(config, ctx.run):
        raise UserError(f"{ctx.name}.{wrong}")
    files = ctx.files("conversations")
    task = FineTuning(
        train=tuple(file.path for file in files if "validation" not in stem(file.name)),
        validation=tuple(file.path for file in files if "validation" in stem(file.name)),
        tokenizer=directory,
        sequence_length=params.sequence_length,
        batch=params.batch,
        seed=params.seed,
    )
    require_both_sets("sft", [file.name for file in files])
    plan = Plan(params.max_steps, params.validate_every, keep_best="loss", patience=params.patience)
    report = launch(ctx, task, plan, params, SavedModel(directory))
    publish_model(ctx, config, params.precision, directory, Tokenizer.load(directory), "Chat model")
    return training_metrics(report)


@dataclass(frozen=True)
class DpoParams(Optimization):
    """A chat model that answers in the preferred way: sigmoid DPO against the model it begins with."""

    lr: Annotated[float, Meta(gt=0, le=1, description="peak learning rate")] = 1e-4
    warmup_steps: Annotated[int, Meta(ge=0, description="steps of linear warm-up")] = 10
    weight_decay: Annotated[float, Meta(ge=0, le=1, description="of matrices; norms have none")] = 0.0
    batch: Annotated[int, Meta(ge=1, description="pairs of a step, over all ranks")] = 32
    max_steps: Annotated[int, Meta(ge=1, description="steps of the optimizer")] = 60
    beta: Annotated[float, Meta(gt=0, description="how strongly the reference holds the policy, per nat")] = 0.1
    preference_weight: Annotated[float, Meta(ge=0, description="of the preference loss; 0: fine-tune on the chosen answers alone")] = 1.0
    nll_weight: Annotated[float, Meta(ge=0, description="of the chosen answers' likelihood, per token; holds off displacement")] = 1.0
    validate_every: Annotated[int, Meta(ge=1, description="steps between validations")] = 20
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preference_weight == self.nll_weight == 0:
            raise ValueError("preference_weight and nll_weight are both 0, which trains nothing; set one of them above 0")


def check_preferences(name: str, params: DpoParams | GrpoParams, run: TrainRun, sources: Sequence[str], roles: Collection[str]) -> None:
    """Refuse what needs a loss of held-out text, or text to go on from: neither this stage nor `grpo` has any."""
    preflight(name, params, run)
    require_nothing_to_show(name, run)
    require_a_share(name, params.batch, run)
    if run.keep_best:
        raise UserError(f"{name}.run.keep_best={run.keep_best}: no validation of this stage tells which are the best; set it to 0")


@stage(version=1, run=TrainRun, needs=("model", "preferences?"), check=check_preferences, plan=plan_preferences, assumes=Assumptions)
def dpo(ctx: StageContext, params: DpoParams) -> Metrics:
    """Train a model to prefer the chosen of two answers."""
    from data_prep.tokenizer import Tokenizer
    from trainer.launch import SavedModel, launch
    from trainer.loop import Plan
    from trainer.model.hf import load_config
    from trainer.tasks.preference import PreferenceTask

    directory = ctx.inputs["model"].directory
    files = named_apart(ctx, "preferences", "validation", "test")
    task = PreferenceTask(
        train=files["train"],
        validation=files["validation"],
        tokenizer=directory,
        batch=params.batch,
        preference_weight=params.preference_weight,
        beta=params.beta,
        nll_weight=params.nll_weight,
        seed=params.seed,
    )
    report = launch(ctx, task, Plan(params.max_steps, params.validate_every), params, SavedModel(directory))
    publish_model(ctx, load_config(directory), params.precision, directory, Tokenizer.load(directory), "Chat model")
    return training_metrics(report)


@dataclass(frozen=True)
class GrpoParams(Optimization):
    """A chat model that finds right answers more often: trained on its own, verified samples."""

    lr: Annotated[float, Meta(gt=0, le=1, description="peak learning rate")] = 1e-4
    schedule: Schedule = "constant"
    warmup_steps: Annotated[int, Meta(ge=0, description="steps of linear warm-up")] = 10
    weight_decay: Annotated[float, Meta(ge=0, le=1, description="of matrices; norms have none")] = 0.0
    batch: Annotated[int, Meta(ge=1, description="prompts of a step, over all ranks")] = 32
    samples: Annotated[int, Meta(ge=2, description="answers sampled to each prompt: its group")] = 8
    max_steps: Annotated[int, Meta(ge=1, description="steps of the optimizer")] = 150
    temperature: Annotated[float, Meta(gt=0, description="of sampling")] = 1.0
    max_new_tokens: Annotated[int, Meta(ge=1, description="longest answer; a longer one has no verdict")] = 24
    advantage: Annotated[
        Literal["standardized", "centred", "least_variance"],
        Meta(
            description="reward minus the group's mean, divided by its standard deviation (standardized) or not (centred), "
            "or minus the baseline that gives the batch's gradient the least variance"
        ),
    ] = "standardized"
    clip_low: Annotated[float, Meta(gt=0, lt=1, description="how far a token's probability may fall in a step")] = 0.2
    clip_high: Annotated[float, Meta(gt=0, description="how far a token's probability may rise in a step")] = 0.2
    kl_weight: Annotated[float, Meta(ge=0, description="of the k3 estimate of the divergence from the first weights; 0: none")] = 0.0
    report_every: Annotated[int, Meta(ge=1, description="steps whose means make one entry of the history")] = 10
    seed: Seed = 0


def check_reinforcement(name: str, params: GrpoParams, run: TrainRun, sources: Sequence[str], roles: Collection[str]) -> None:
    """Refuse what `dpo` refuses, and what no GPU can do."""
    check_preferences(name, params, run, sources, roles)
    if run.deterministic and run.gpus_per_worker:
        raise UserError(f"{name}.run.deterministic=true: GPUs add up probabilities in any order when tokens are drawn; set it to false")


@stage(version=1, run=TrainRun, needs=("model", "prompts?"), check=check_reinforcement, plan=plan_reinforcement, assumes=Assumptions)
def grpo(ctx: StageContext, params: GrpoParams) -> Metrics:
    """Train a model by reinforcement on prompts whose answers can be checked; publish its rollouts beside it."""
    from data_prep.tokenizer import Tokenizer
    from trainer.launch import SavedModel, launch
    from trainer.loop import Plan
    from trainer.model.hf import load_config
    from trainer.rollout.records import merge_records, records_directory
    from trainer.tasks.policy import PolicyTask

    directory = ctx.inputs["model"].directory
    records = records_directory(ctx.trajectory.directory, ctx.fingerprint)
    task = PolicyTask(
        prompts=named_apart(ctx, "prompts", "validation", "test")["train"],
        tokenizer=directory,
        batch=params.batch,
        samples=params.samples,
        temperature=params.temperature,
        max_new_tokens=params.max_new_tokens,
        advantage=params.advantage,
        clip_low=params.clip_low,
        clip_high=params.clip_high,
        kl_weight=params.kl_weight,
        seed=params.seed,
        records=str(records),
    )
    report = launch(ctx, task, Plan(params.max_steps, params.report_every), params, SavedModel(directory))
    publish_model(ctx, load_config(directory), params.precision, directory, Tokenizer.load(directory), "Chat model")
    rows = merge_records(records, ctx.path("rollouts/rollouts.parquet"))
    ctx.publish("rollouts/rollouts.parquet", rows)
    return training_metrics(report)
