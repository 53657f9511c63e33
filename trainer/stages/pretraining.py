"""Pretraining on token shards, from new weights or somebody's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from math import floor
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pipeline.stage import Metrics, PlanOnly, StageContext, Unit, UserError, stage, stem
from trainer.depth import from_depth
from trainer.engine import Optimization, TrainRun, preflight
from trainer.guard import Guard
from trainer.model.config import ModelConfig
from trainer.outlook import misfit, plan_pretraining, too_narrow
from trainer.planning import Assumptions, count_parameters
from trainer.stages.publishing import Seed, publish_model, training_metrics

if TYPE_CHECKING:
    from trainer.data.corpus import Corpus
    from trainer.data.mixture import Mixture


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

    model: Annotated[ModelConfig | None, Meta(description="the transformer's shape; null: that of needs.model")] = field(
        default_factory=ModelConfig
    )
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
        if self.batch_tokens % self.sequence_length and not (self.model and self.model.depth):
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is no multiple of sequence_length {self.sequence_length}; change one of them"
            )
        if self.model and self.sequence_length > self.model.max_position_embeddings:
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
    if "model" in roles and params.model:
        raise UserError(f"{name}.model: the model of {name}.needs.model keeps its own shape; set {name}.model=null, or leave out the need")
    if "model" not in roles and not params.model:
        raise UserError(f"{name}.model: null, and there is no {name}.needs.model to take its shape from; set one of them")
    if params.model and not params.model.trainable:
        raise PlanOnly(f"{name}.model.architecture={params.model.architecture}: can be planned, not trained; choose another model=")
    if run.keep_best and not params.validation_tokens:
        raise UserError(
            f"{name}.run.keep_best={run.keep_best}: no validation tells the best; raise {name}.validation_tokens, or set it to 0"
        )
    if run.show_every and not params.validation_tokens:
        raise UserError(
            f"{name}.run.show_every={run.show_every}: no held-out document to go on from; raise {name}.validation_tokens, or set it to 0"
        )
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
    training goes on from that model, whose shape it has; `model` is null then."""
    from data_prep.tokenizer import Tokenizer
    from trainer.launch import NewModel, SavedModel, launch
    from trainer.loop import Plan
    from trainer.tasks.language_model import Beside, Pretraining
    from trainer.tasks.questions import Quiz

    artifacts = {role: ctx.inputs[role] for role in sorted(ctx.inputs) if role not in NO_CORPUS}
    if not any(file.records for artifact in artifacts.values() for file in artifact.select("train")):
        raise UserError(f"{ctx.name}.needs.{', needs.'.join(artifacts)}: no document to train on; look at what was rejected before")
    directory = ctx.inputs["tokenizer"].directory
    tokenizer = Tokenizer.load(directory)
    config = shape(ctx, params, tokenizer.vocab_size)
    corpora = packed(ctx, params, sound_corpora(ctx, params, config.vocab_size))
    mixture, given = mixed_corpora(ctx.name, params, corpora)
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
    publish_model(ctx, config, params.precision, directory, tokenizer, "Base model")
    return {**training_metrics(report), **given, "parameters": count_parameters(config).exact}


def shape(ctx: StageContext, params: PretrainParams, vocab_size: int) -> ModelConfig:
    """Of the model that is to be trained: the one among the inputs, or a new one. UserError where data or ranks do
    not fit it."""
    from trainer.model.hf import load_config

    if params.model:
        try:
            return params.model.resolved(vocab_size)
        except ValueError as error:
            raise UserError(f"{ctx.name}.model: {error}") from None
    config = load_config(ctx.inputs["model"].directory)
    if wrong := misfit(config, params.sequence_length, vocab_size) or too_narrow(config, ctx.run):
        raise UserError(f"{ctx.name}.{wrong}")
    return config


def sound_corpora(ctx: StageContext, params: PretrainParams, vocab_size: int) -> tuple[Corpus, ...]:
    """The corpora of the inputs, by role; those that no mixture gives weight have nothing to train on.

    UserError for shards that are not as they were made, ids of another tokenizer, no tokens to train on, and none to validate on.
    """
    from data_prep.token_shards import count_tokens
    from trainer.data.corpus import Corpus, require_ids, require_whole

    corpora = []
    for role, artifact in ((role, ctx.inputs[role]) for role in sorted(ctx.inputs) if role not in NO_CORPUS):
        where = f"{ctx.name}.needs.{role}"
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
            raise UserError(f"{where}: its shards hold no token to train on; add text, or leave it out of {ctx.name}.needs")
        if params.validation_tokens and not count_tokens(validation):
            raise UserError(
                f"{where}: has none to validate on; raise {artifact.stage}.validation_fraction or set {ctx.name}.validation_tokens=0"
            )
        corpora.append(Corpus(role, train, validation, artifact.select("index")))
    if not any(corpus.train for corpus in corpora):
        raise UserError(f"{ctx.name}.needs: no corpus has training shards; give one that has")
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


def mixed_corpora(name: str, params: PretrainParams, corpora: Sequence[Corpus]) -> tuple[Mixture | None, dict[str, float]]:
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
        raise UserError(f"{name}.mixture: {error}; raise that weight, or set it to 0") from None
    if mixture.rows is not None and (steps := mixture.rows // params.rows_per_step - params.guard.rollbacks) < params.max_steps:
        raise UserError(
            f"{name}.max_epochs allow {max(0, steps)} steps, and {params.guard.rollbacks} that guard.rollbacks may leave out, not "
            f"max_steps={params.max_steps}: lower that, raise those, or add text"
        )
    given: dict[str, float] = {}
    for corpus, number, held, whole in zip(trained, mixture.counts(rows), tokens, places, strict=True):
        given[f"{corpus.role}_tokens"] = number * length * held // whole
        given[f"{corpus.role}_epochs"] = round(number * length / whole, 4)
        if best_fit:
            given[f"{corpus.role}_padding"] = round(1 - held / whole, 6)
    return mixture, given
