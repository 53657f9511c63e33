"""The stages that turn token shards into a chat model. Each wires parts that work without Ray, Hydra or a disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from pipeline.stage import Artifact, Metrics, StageContext, Unit, UserError, stage, stem
from trainer.engine import Optimization, TrainRun, preflight
from trainer.model.config import ModelConfig

if TYPE_CHECKING:
    from data_prep.tokenizer import Tokenizer
    from trainer.tasks.language_model import Corpus

Seed = Annotated[int, Meta(ge=0, lt=2**62, description="of everything random: weights, order of the data, sampling")]


@dataclass(frozen=True)
class PretrainParams(Optimization):
    """A base model from token shards."""

    model: Annotated[ModelConfig, Meta(description="the transformer's shape")] = field(default_factory=ModelConfig)
    sequence_length: Annotated[int, Meta(ge=8, description="tokens in a row; documents share rows but never see each other")] = 256
    batch_tokens: Annotated[int, Meta(ge=8, description="tokens of a step, over all ranks")] = 8192
    max_steps: Annotated[int, Meta(ge=1, description="steps of the optimizer")] = 150
    validate_every: Annotated[int, Meta(ge=1, description="steps between validations")] = 50
    validation_tokens: Annotated[int, Meta(ge=1, description="held-out tokens of a validation, rounded up to whole documents")] = 32_768
    mixture: Annotated[
        dict[str, Annotated[float, Meta(gt=0)]],
        Meta(description="role of a corpus: its share of the tokens; empty: the documents of all corpora mixed as one"),
    ] = field(default_factory=dict, metadata={"absent": {}})
    max_epochs: Annotated[
        dict[str, Annotated[float, Meta(gt=0)]],
        Meta(description="role of a corpus: how often it may be repeated; then it leaves the mixture. Not named: no limit"),
    ] = field(default_factory=dict, metadata={"absent": {}})
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


def check_pretraining(name: str, params: PretrainParams, run: TrainRun, sources: Sequence[str], roles: Collection[str]) -> None:
    """Refuse a mixture of corpora that are not there before they are built."""
    preflight(name, params, run)
    corpora = sorted({*roles} - {"tokenizer"})
    for key in ("mixture", "max_epochs"):
        if unknown := sorted({*getattr(params, key)} - {*corpora}):
            raise UserError(f"{name}.{key}.{unknown[0]}: there is no such corpus in {name}.needs, which has {', '.join(corpora)}")


@stage(version=1, run=TrainRun, extendable=("max_steps",), needs=("corpus", "tokenizer", "*"), check=check_pretraining)
def pretrain(ctx: StageContext, params: PretrainParams) -> Metrics:
    """Train a base model on the next token of every document; publish it as a Hugging Face directory."""
    from data_prep.tokenizer import Tokenizer
    from trainer.launch import NewModel, launch
    from trainer.loop import Plan
    from trainer.tasks.language_model import Pretraining

    corpora = {role: ctx.inputs[role] for role in sorted(ctx.inputs) if role != "tokenizer"}
    if not any(file.records for corpus in corpora.values() for file in corpus.select("train")):
        raise UserError(f"needs.{', needs.'.join(corpora)}: no document to train on; look at what the stages before it rejected")
    directory = ctx.inputs["tokenizer"].directory
    tokenizer = Tokenizer.load(directory)
    config = params.model.resolved(tokenizer.vocab_size)
    mixed, given = mixed_corpora(ctx, params, corpora)
    task = Pretraining(
        train=() if mixed else tuple(file for corpus in corpora.values() for file in corpus.select("train")),
        corpora=mixed,
        validation=tuple(file for corpus in corpora.values() for file in corpus.select("validation")),
        tables=tuple(file for corpus in corpora.values() for file in corpus.select("index")),
        end_id=tokenizer.eos_id,
        sequence_length=params.sequence_length,
        rows_per_step=params.batch_tokens // params.sequence_length,
        validation_tokens=params.validation_tokens,
        seed=params.seed,
    )
    plan = Plan(params.max_steps, params.validate_every)
    report = launch(ctx, task, plan, params, NewModel(config, params.seed))
    publish_model(ctx, config, params, directory, tokenizer, "Base model")
    return {**training_metrics(report), **given}


def mixed_corpora(
    ctx: StageContext, params: PretrainParams, artifacts: Mapping[str, Artifact]
) -> tuple[tuple[Corpus, ...], dict[str, float]]:
    """The corpora of a mixture, none where all are to be read as one; and what each gives to the training, for the manifest.

    UserError for ids of another tokenizer, and more steps than the caps allow.
    """
    from data_prep.token_shards import count_tokens
    from trainer.tasks.language_model import Corpus, mixture_of

    for role, artifact in artifacts.items():
        made_with = artifact.manifest.get("inputs", {}).get("tokenizer", {}).get("digest")
        if made_with not in (None, ctx.inputs["tokenizer"].digest):
            raise UserError(f"pretrain.needs.{role}: its ids are those of another tokenizer; tokenize it with the one of needs.tokenizer")
    if not params.mixture and not params.max_epochs:
        return (), {}
    tokens = {role: count_tokens(artifact.select("train")) for role, artifact in artifacts.items() if role in (params.mixture or artifacts)}
    weights = params.mixture or tokens
    corpora = tuple(Corpus(artifacts[role].select("train"), weights[role], params.max_epochs.get(role)) for role in tokens)
    rows_per_step = params.batch_tokens // params.sequence_length
    mixture = mixture_of(corpora, params.sequence_length)
    if mixture.rows is not None and mixture.rows < params.max_steps * rows_per_step:
        steps = mixture.rows // rows_per_step
        raise UserError(f"pretrain.max_epochs allow {steps} steps, not max_steps={params.max_steps}: lower that, raise those, or add text")
    given: dict[str, float] = {}
    for role, rows in zip(tokens, mixture.counts(params.max_steps * rows_per_step), strict=True):
        given[f"{role}_tokens"] = rows * params.sequence_length
        given[f"{role}_epochs"] = round(rows * params.sequence_length / tokens[role], 4) if tokens[role] else 0.0
    return corpora, given


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
    if sources:
        require_both_sets(name, sources)


def require_both_sets(name: str, files: Sequence[str]) -> None:
    held_out = [file for file in files if "validation" in stem(file)]
    if not held_out or len(held_out) == len(files):
        there = ", ".join(files) or "none"
        raise UserError(f"{name}: needs conversations to train on and others whose file has 'validation' in its name; there are {there}")


@stage(version=1, run=TrainRun, extendable=("max_steps",), needs=("model", "conversations?"), check=check_fine_tuning)
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
    if report["best_step"]:
        metrics["best_step"] = report["best_step"]
        best = next(entry for entry in validated if entry["step"] == report["best_step"])
        metrics |= {f"best_validation_{name}": value for name, value in best["validation"].items()}
    return {**metrics, "history": history}


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


@stage(version=1, run=TrainRun, needs=("model", "preferences?"), check=preflight)
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
    publish_model(ctx, load_config(directory), params, directory, Tokenizer.load(directory), "Chat model")
    return training_metrics(report)


@dataclass(frozen=True)
class GrpoParams(Optimization):
    """A chat model that finds right answers more often: trained on its own, verified samples."""

    lr: Annotated[float, Meta(gt=0, le=1, description="peak learning rate")] = 1e-4
    schedule: Annotated[Literal["constant", "cosine", "wsd"], Meta(description="wsd: constant, then linear decay at the end")] = "constant"
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


@stage(version=1, run=TrainRun, needs=("model", "prompts?"), check=preflight)
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
    publish_model(ctx, load_config(directory), params, directory, Tokenizer.load(directory), "Chat model")
    rows = merge_records(records, ctx.path("rollouts/rollouts.parquet"))
    ctx.publish("rollouts/rollouts.parquet", rows)
    return training_metrics(report)


def named_apart(ctx: StageContext, role: str, *held_out: str) -> dict[str, tuple[str, ...]]:
    """The role's files by set: those with one of the words `held_out` in their name, and the others as `train`."""
    files = ctx.files(role)
    found = {word: tuple(file.path for file in files if word in stem(file.name)) for word in held_out}
    found["train"] = tuple(file.path for file in files if not any(word in stem(file.name) for word in held_out))
    if not found["train"]:
        raise UserError(f"{ctx.stage.name}: no file to train on; its {role} are {', '.join(file.name for file in files) or 'none'}")
    return found


@dataclass(frozen=True)
class EvaluateParams:
    """What the models are measured on."""

    validation_tokens: Annotated[int, Meta(ge=1, description="held-out tokens for bits per byte, rounded up to whole documents")] = 65_536
    max_prompts: Annotated[int, Meta(ge=1, description="held-out prompts asked, from the first")] = 1200
    max_preferences: Annotated[int, Meta(ge=1, description="held-out preferences whose prompts are asked, from the first")] = 300
    max_questions: Annotated[int, Meta(ge=1, description="multiple-choice questions of each set, drawn by the seed")] = field(
        default=10_000, metadata={"absent": 10_000}
    )
    temperature: Annotated[float, Meta(gt=0, description="of sampled answers")] = 1.0
    max_new_tokens: Annotated[int, Meta(ge=1, description="longest answer; what is cut off counts as wrong")] = 24
    sequence_length: Annotated[int, Meta(ge=8, description="tokens read at once for bits per byte")] = 256
    seed: Seed = 0


@stage(version=1, needs=("corpus", "*"))
def evaluate(ctx: StageContext, params: EvaluateParams) -> Metrics:
    """Measure every model among the inputs on the same held-out data; publish the numbers and a table, side by side.

    A model is one shard, so a model that was measured before is not measured again.
    """
    import json
    from pathlib import Path

    from trainer.data.questions import holds_questions
    from trainer.evaluation import table
    from trainer.examination import examine_shard

    side = {f"corpus/{file.name}": file for file in ctx.inputs["corpus"].files if file.name.split("/")[0] in ("validation", "index")}
    for role in ("prompts", "preferences"):
        if role in ctx.inputs:
            # what a stage made holds the sets of all trainings
            side |= {f"{role}/{file.name}": file for file in ctx.files(role) if "test" in stem(file.name)}
    for file in ctx.sources:
        side[f"{'questions' if holds_questions(file.path) else 'prompts'}/{file.name}"] = file
    models = {role: artifact for role, artifact in ctx.inputs.items() if role not in ("corpus", "prompts", "preferences")}
    units = [
        Unit(role, artifact.digest, None, tuple(file.path for file in artifact.files if "/" not in file.name))
        for role, artifact in models.items()
    ]
    mapped = ctx.map_shards(examine_shard, units, params, side)
    reports = {Path(file.name).stem: json.loads(Path(file.path).read_text()) for file in mapped.select("reports")}
    for name, text in (("evaluation.json", json.dumps(reports, indent=2)), ("summary.txt", table(reports))):
        Path(ctx.path(name)).write_text(text + "\n", encoding="utf-8")
        ctx.publish(name, len(reports))
    return {f"{model}_{name}": value for model, report in reports.items() for name, value in flat(report).items()}


def flat(report: Mapping[str, Any]) -> dict[str, float]:
    """The single numbers of one model's report, those of the sets of questions by their names."""
    numbers = {name: value for name, value in report.items() if name != "questions" and value is not None}
    for name, found in report.get("questions", {}).items():
        numbers |= {f"{name}_{measure}": value for measure, value in found.items() if measure != "chance"}
    return {name: value["value"] if isinstance(value, Mapping) else value for name, value in numbers.items()}
