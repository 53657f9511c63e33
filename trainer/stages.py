"""The stages that turn token shards into a chat model. Each wires parts that work without Ray, Hydra or a disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from math import floor
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from pipeline.stage import Metrics, PlanOnly, StageContext, Unit, UserError, stage, stem
from trainer.depth import from_depth
from trainer.engine import Optimization, Schedule, TrainRun, preflight
from trainer.guard import Guard
from trainer.model.config import ModelConfig
from trainer.outlook import plan_alignment, plan_fine_tuning, plan_pretraining
from trainer.planning import Assumptions, count_parameters

if TYPE_CHECKING:
    from data_prep.tokenizer import Tokenizer
    from trainer.data.corpus import Corpus
    from trainer.data.mixture import Mixture

Seed = Annotated[int, Meta(ge=0, lt=2**62, description="of everything random: weights, order of the data, sampling")]


Weights = dict[str, Annotated[float, Meta(ge=0)]]


@dataclass(frozen=True)
class Phase:
    """Other weights of the corpora, from a step on."""

    begin: Annotated[float, Meta(gt=0, lt=1, description="share of max_steps that come before")]
    mixture: Annotated[Weights, Meta(description="role of a corpus: its share of the tokens; not named: none")]


@dataclass(frozen=True)
class Experts:
    """How the load of experts is evened out in training: by a loss (Qwen3-MoE), by a bias on the selection (Glm4Moe)."""

    balance: Annotated[float, Meta(ge=0, description="weight of the balance loss; models with a selection bias need little or none")] = 1e-3
    router_z: Annotated[float, Meta(ge=0, description="weight of the routers' squared log-normaliser (ST-MoE: 1e-3)")] = 0.0
    bias_rate: Annotated[float, Meta(ge=0, description="how far a step moves an expert's selection bias; DeepSeek-V3: 1e-3")] = 1e-3


@dataclass(frozen=True)
class PretrainParams(Optimization):
    """A base model from token shards."""

    model: Annotated[ModelConfig, Meta(description="the transformer's shape")] = field(default_factory=ModelConfig)
    sequence_length: Annotated[int, Meta(ge=8, description="tokens in a row; documents share rows but never see each other")] = 256
    batch_tokens: Annotated[int, Meta(ge=8, description="tokens of a step, over all ranks")] = 8192
    max_steps: Annotated[int, Meta(ge=1, description="steps of the optimizer")] = 150
    validate_every: Annotated[int, Meta(ge=1, description="steps between validations")] = 50
    validation_tokens: Annotated[
        int, Meta(ge=0, description="held-out tokens of each corpus for a validation, rounded up to whole documents; 0: no validation")
    ] = 32_768
    packing: Annotated[
        Literal["concatenate", "best_fit"],
        Meta(
            description="concatenate: documents end to end, cut where a row ends; best_fit: none is cut that fits into a row, "
            "what stays free is padding"
        ),
    ] = field(default="concatenate", metadata={"absent": "concatenate"})
    mixture: Annotated[
        Weights,
        Meta(
            description="role of a corpus: its share of the tokens; not named, or 0: only validated on; "
            "empty: the documents of all corpora mixed as one"
        ),
    ] = field(default_factory=dict, metadata={"absent": {}})
    phases: Annotated[tuple[Phase, ...], Meta(description="from a share of max_steps on another mixture, in order")] = field(
        default=(), metadata={"absent": ()}
    )
    max_questions: Annotated[int, Meta(ge=1, description="of each file of pretrain.sources, asked at every validation")] = field(
        default=200, metadata={"absent": 200}
    )
    z_loss: Annotated[
        float, Meta(ge=0, description="weight of the squared log-normaliser of the logits; keeps them small (PaLM: 1e-4)")
    ] = field(default=0.0, metadata={"absent": 0.0})
    experts: Annotated[Experts, Meta(description="of mixtures of experts: how the load is evened out")] = field(
        default_factory=Experts, metadata={"absent": Experts()}
    )
    guard: Annotated[Guard, Meta(description="what is done about a step that goes wrong")] = field(
        default_factory=Guard, metadata={"absent": Guard(deviations=0.0, rollbacks=0)}
    )
    max_epochs: Annotated[
        dict[str, Annotated[float, Meta(gt=0)]],
        Meta(description="role of a corpus: how often it may be repeated; then it leaves the mixture. Not named: no limit"),
    ] = field(default_factory=dict, metadata={"absent": {}})
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens % self.sequence_length and not self.model.depth:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is no multiple of sequence_length {self.sequence_length}; change one of them"
            )
        if self.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"sequence_length {self.sequence_length} exceeds model.max_position_embeddings {self.model.max_position_embeddings}; "
                "raise the latter"
            )
        for name, mixture in self.mixtures():
            if (mixture or name != "mixture") and not any(mixture.values()):
                raise ValueError(f"{name} gives weight to no corpus; give one more than 0")
        steps = [0, *(step for step, _ in self.changes())]
        for number, (before, step) in enumerate(pairwise(steps)):
            if step <= before:
                raise ValueError(
                    f"phases.{number} begins with step {step} of {self.max_steps}, no later than what comes before it; "
                    "order phases by begin, with a step or more between them"
                )

    @property
    def rows_per_step(self) -> int:
        return self.batch_tokens // self.sequence_length

    def mixtures(self) -> list[tuple[str, Weights]]:
        """All weights, with the name under which they are set."""
        return [("mixture", self.mixture), *((f"phases.{number}.mixture", phase.mixture) for number, phase in enumerate(self.phases))]

    def changes(self) -> list[tuple[int, Weights]]:
        """The steps before which the mixture changes, and to what."""
        return [(floor(round(phase.begin * self.max_steps, 6)), phase.mixture) for phase in self.phases]


QUIZ_TOKENS = 4096  # of a batch of questions
NO_CORPUS = {"tokenizer", "model"}  # roles of pretrain that hold no tokens


def check_pretraining(name: str, params: PretrainParams, run: TrainRun, sources: Sequence[str], roles: Collection[str]) -> None:
    """Refuse a mixture of corpora that are not there, and ranks without a row, before the corpora are built."""
    preflight(name, params, run)
    corpora = sorted({*roles} - NO_CORPUS)
    for key, values in (*params.mixtures(), ("max_epochs", params.max_epochs)):
        if unknown := sorted({*values} - {*corpora}):
            raise UserError(f"{name}.{key}.{unknown[0]}: there is no such corpus in {name}.needs, which has {', '.join(corpora)}")
    if not params.model.trainable:
        raise PlanOnly(f"{name}.model.architecture={params.model.architecture}: can be planned, not trained; choose another model=")
    if params.rows_per_step < run.world_size:
        raise UserError(
            f"{name}.batch_tokens={params.batch_tokens}: makes {params.rows_per_step} rows of sequence_length={params.sequence_length}, "
            f"too few for {run.world_size} ranks; raise it to {run.world_size * params.sequence_length} or lower {name}.run.workers"
        )


@stage(
    version=1,
    run=TrainRun,
    extendable=("max_steps",),
    needs=("corpus", "tokenizer", "model?", "*"),
    check=check_pretraining,
    resolve=from_depth,
    plan=plan_pretraining,
    assumes=Assumptions,
)
def pretrain(ctx: StageContext, params: PretrainParams) -> Metrics:
    """Train a base model on the next token of every document; publish it as a Hugging Face directory. With `needs.model` the
    training goes on from that model, whose shape it has instead of `model`."""
    from data_prep.tokenizer import Tokenizer
    from trainer.launch import NewModel, SavedModel, launch
    from trainer.loop import Plan
    from trainer.tasks.language_model import Beside, Pretraining
    from trainer.tasks.questions import Quiz

    directory = ctx.inputs["tokenizer"].directory
    tokenizer = Tokenizer.load(directory)
    config = shape(ctx, params, tokenizer.vocab_size)
    artifacts = {role: ctx.inputs[role] for role in sorted(ctx.inputs) if role not in NO_CORPUS}
    if not any(file.records for artifact in artifacts.values() for file in artifact.select("train")):
        raise UserError(f"needs.{', needs.'.join(artifacts)}: no document to train on; look at what the stages before it rejected")
    corpora = packed(ctx, params, sound_corpora(ctx, params, config.vocab_size))
    mixture, given = mixed_corpora(params, corpora)
    task = Pretraining(
        corpora=corpora,
        mixture=mixture,
        end_id=tokenizer.eos_id,
        sequence_length=params.sequence_length,
        rows_per_step=params.rows_per_step,
        validation_tokens=params.validation_tokens,
        seed=params.seed,
        tokenizer=directory,
        quiz=Quiz(tuple(ctx.sources), directory, params.max_questions, QUIZ_TOKENS, params.seed) if ctx.sources else None,
        beside=Beside(params.z_loss, config.num_experts > 0, params.experts.balance, params.experts.router_z),
    )
    branch = params.changes()[0][0] if params.phases else 0
    plan = Plan(params.max_steps, params.validate_every, guard=params.guard, bias_rate=params.experts.bias_rate, branch=branch)
    beginning = SavedModel(ctx.inputs["model"].directory) if "model" in ctx.inputs else NewModel(config, params.seed)
    report = launch(ctx, task, plan, params, beginning)
    publish_model(ctx, config, params, directory, tokenizer, "Base model")
    return {**training_metrics(report), **given, "parameters": count_parameters(config).exact}


def shape(ctx: StageContext, params: PretrainParams, vocab_size: int) -> ModelConfig:
    """Of the model that is to be trained: the one among the inputs, or a new one. UserError where the data do not fit it."""
    from trainer.model.hf import load_config

    if "model" not in ctx.inputs:
        try:
            return params.model.resolved(vocab_size)
        except ValueError as error:
            raise UserError(f"pretrain.model: {error}") from None
    config = load_config(ctx.inputs["model"].directory)
    if vocab_size > config.vocab_size:
        raise UserError(
            f"pretrain.needs.model: knows {config.vocab_size} tokens, the tokenizer has {vocab_size}; give needs.tokenizer the model's own"
        )
    if params.sequence_length > config.max_position_embeddings:
        raise UserError(
            f"pretrain.sequence_length={params.sequence_length}: the model reads {config.max_position_embeddings} tokens; lower it"
        )
    return config


def sound_corpora(ctx: StageContext, params: PretrainParams, vocab_size: int) -> tuple[Corpus, ...]:
    """The corpora of the inputs, by role; those that no mixture gives weight have nothing to train on.

    UserError for shards that are not as they were made, ids of another tokenizer, no tokens to train on, and none to validate on.
    """
    from data_prep.token_shards import count_tokens
    from trainer.data.corpus import Corpus, require_ids, require_whole

    corpora = []
    for role, artifact in ((role, ctx.inputs[role]) for role in sorted(ctx.inputs) if role not in NO_CORPUS):
        where = f"pretrain.needs.{role}"
        made_with = artifact.manifest.get("inputs", {}).get("tokenizer", {}).get("digest")
        if made_with not in (None, ctx.inputs["tokenizer"].digest):
            raise UserError(f"{where}: its ids are those of another tokenizer; tokenize it with the one of needs.tokenizer")
        named = [mixture.get(role, 0.0) for _, mixture in params.mixtures() if mixture]
        train = artifact.select("train") if any(named) or not params.mixture else ()
        validation = artifact.select("validation") if params.validation_tokens else ()
        require_whole((*train, *validation, *artifact.select("index")), where)
        for split in (train, validation):
            require_ids(split, vocab_size, where)
        if train and not count_tokens(train):
            raise UserError(f"{where}: its shards hold no token to train on; add text, or leave it out of pretrain.needs")
        if params.validation_tokens and not count_tokens(validation):
            raise UserError(
                f"{where}: has no documents to validate on; raise {artifact.stage}.validation_fraction or set pretrain.validation_tokens=0"
            )
        corpora.append(Corpus(role, train, validation, artifact.select("index")))
    if not any(corpus.train for corpus in corpora):
        raise UserError("pretrain.needs: no corpus has training shards; give one that has")
    return tuple(corpora)


def packed(ctx: StageContext, params: PretrainParams, corpora: tuple[Corpus, ...]) -> tuple[Corpus, ...]:
    """The corpora with the plans of their packing, made shard by shard; as they are where documents are laid end to end."""
    from trainer.data.packing import PackParams, pack_shard

    if params.packing == "concatenate":
        return corpora
    units = []
    for corpus in corpora:
        indexes = {file.name: file for file in corpus.train if file.name.endswith(".idx")}
        for file in corpus.train:
            if file.name.endswith(".bin"):
                index = indexes[file.name.removesuffix(".bin") + ".idx"]  # a plan depends on lengths alone, which stand there
                units.append(Unit(f"{corpus.role}-{stem(file.name)}", index.sha256, None, (file.path, index.path)))
    plans = iter(ctx.map_shards(pack_shard, units, PackParams(params.sequence_length)).files)
    return tuple(replace(corpus, plans=tuple(islice(plans, len(corpus.train) // 2))) for corpus in corpora)


def mixed_corpora(params: PretrainParams, corpora: Sequence[Corpus]) -> tuple[Mixture | None, dict[str, float]]:
    """The mixture of those corpora that are trained on, None where all are read as one; and for the manifest what each gives to the
    training, and the share of padding in its rows.

    UserError for weights that no mixture can hold, and more steps than the caps allow.
    """
    from trainer.data.mixture import Mixture

    trained = [corpus for corpus in corpora if corpus.train]
    length, rows = params.sequence_length, params.max_steps * params.rows_per_step
    tokens = [corpus.tokens() for corpus in trained]
    places = [corpus.places(length) for corpus in trained]
    best_fit = params.packing == "best_fit"
    if not params.mixture and not params.phases and not params.max_epochs:
        return None, {"padding": round(1 - sum(tokens) / sum(places), 6)} if best_fit else {}

    def weights(mixture: Weights) -> list[float]:
        return [mixture.get(corpus.role, 0.0) for corpus in trained] if mixture else [float(number) for number in places]

    limits = [params.max_epochs.get(corpus.role) for corpus in trained]
    max_rows = [None if limit is None else int(limit * number / length) for limit, number in zip(limits, places, strict=True)]
    changes = [(step * params.rows_per_step, weights(mixture)) for step, mixture in params.changes()]
    try:
        mixture = Mixture(weights(params.mixture), max_rows, changes)
    except ValueError as error:
        raise UserError(f"pretrain.mixture: {error}; raise that weight, or set it to 0") from None
    if mixture.rows is not None and mixture.rows < rows:
        steps = mixture.rows // params.rows_per_step
        raise UserError(f"pretrain.max_epochs allow {steps} steps, not max_steps={params.max_steps}: lower that, raise those, or add text")
    given: dict[str, float] = {}
    for corpus, number, held, whole in zip(trained, mixture.counts(rows), tokens, places, strict=True):
        given[f"{corpus.role}_tokens"] = number * length * held // whole
        given[f"{corpus.role}_epochs"] = round(number * length / whole, 4)
        if best_fit:
            given[f"{corpus.role}_padding"] = round(1 - held / whole, 6)
    return mixture, given


@dataclass(frozen=True)
class AdoptParams:
    """A model that others have trained."""


@stage(version=1)
def adopt(ctx: StageContext, params: AdoptParams) -> Metrics:
    """Somebody's Hugging Face directory, its files given as sources, as a model and tokenizer that other stages can need."""
    import shutil
    from pathlib import Path

    from data_prep.tokenizer import Tokenizer
    from trainer.model.hf import load_config

    for file in ctx.sources:
        shutil.copyfile(file.path, ctx.path(Path(file.name).name))
        ctx.fence.check()
    directory = str(Path(ctx.path("config.json")).parent)
    config = load_config(directory)
    Tokenizer.load(directory)
    for file in ctx.sources:
        ctx.publish(Path(file.name).name)
    return {"parameters": count_parameters(config).exact, "vocab_size": config.vocab_size}


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
    if report["skipped"]:
        metrics["skipped"] = report["skipped"]
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


@stage(version=1, run=TrainRun, needs=("model", "preferences?"), check=preflight, plan=plan_alignment, assumes=Assumptions)
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


@stage(version=1, run=TrainRun, needs=("model", "prompts?"), check=preflight, plan=plan_alignment, assumes=Assumptions)
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
