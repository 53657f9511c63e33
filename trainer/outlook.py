"""What `crawl2chat plan` says of the stages that train: their figures as JSON, and a few lines for pretraining."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.stage import Outlook, PlanOnly, Prospect, Upstream, UserError
from trainer.engine import Optimization, TrainRun
from trainer.model.config import ModelConfig
from trainer.model.hf import load_config
from trainer.planning import Estimate, Parameters, Training, chinchilla_ratio, count_parameters, estimate

if TYPE_CHECKING:
    from trainer.stages import DpoParams, GrpoParams, PretrainParams, SftParams, UpcycleParams

SAME_RUN = (
    "workers",
    "zero",
    "micro_batch",
    "cpus_per_worker",
    "gpus_per_worker",
    "threads",
    "offload",
    "recompute",
    "compile",
    "deterministic",
)  # what throughput depends on
NARROWEST_HEAD = 16  # of those that torch's FlexAttention compiles for GPUs


def plan_adoption(prospect: Prospect) -> Outlook | None:
    """The shape that its config.json tells. PlanOnly where there is none that can be run."""
    if wrong := collision(prospect.sources):
        raise PlanOnly(wrong)
    path = next((Path(path) for path in prospect.sources if Path(path).name == "config.json"), None)
    if path is None:
        raise PlanOnly("sources: no config.json is among them; give the files of a Hugging Face model directory")
    try:
        config = load_config(path.parent)
    except UserError as error:
        raise PlanOnly(f"sources: {error}") from None
    parameters = count_parameters(config)
    line = f"{counted(parameters.total)} parameters, {config.vocab_size:,} tokens known, {config.max_position_embeddings:,} read at once"
    return Outlook({"parameters": parameters.plain()}, (line,), hands=config)


def plan_pretraining(prospect: Prospect) -> Outlook | None:
    """The vocabulary is the model's own where it is set, otherwise what the tokenizer is to have; None where neither says, and
    where the model that it goes on from cannot say its shape. PlanOnly for a vocabulary or rows that do not fit the model, heads too narrow
    for GPUs, and a corpus that is to be validated on and will have nothing held out."""
    params: PretrainParams = prospect.params
    run: TrainRun = prospect.run
    if params.validation_tokens:
        require_held_out(prospect.inputs, ", or set its validation_tokens=0")
    given = getattr(prospect.inputs["tokenizer"].params, "vocab_size", 0)
    if params.model:
        try:
            config = params.model.resolved(given if params.model.trainable or not params.model.vocab_size else 0)
        except ValueError as error:
            raise PlanOnly(f"model: {error}") from None
    else:
        config = prospect.inputs["model"].hands
    if not isinstance(config, ModelConfig):
        return None
    if wrong := too_narrow(config, run):
        raise PlanOnly(wrong)
    if not config.vocab_size:
        return None
    if not params.model and (wrong := misfit(config, params.sequence_length, given)):
        raise PlanOnly(wrong)
    before = measured(prospect.manifests, params, run, count_parameters(config))
    training = Training(
        config=config,
        tokens=params.max_steps * params.batch_tokens,
        steps=params.max_steps,
        sequence_length=params.sequence_length,
        tokens_per_second=before["metrics"]["tokens_per_second"] if before else None,
        **how_of(params, run),
    )
    found = estimate(training, prospect.assumptions)
    lines = [*words(found)]
    lines.append(conversion_words(found) if config.trainable else f"{config.architecture} can be planned, not trained")
    # what it took besides its steps, to start and to publish, it will take again
    besides = max(0.0, before["elapsed_s"] - before["metrics"]["tokens"] / before["metrics"]["tokens_per_second"]) if before else 0.0
    return Outlook(found.plain(), tuple(lines), found.cost.time_s + besides, config)


def plan_fine_tuning(prospect: Prospect) -> Outlook | None:
    """How many tokens the conversations have is not known yet: the figures are those of the longest training there can be. PlanOnly for
    rows longer than the model reads, and heads too narrow for GPUs."""
    params: SftParams = prospect.params
    config = prospect.inputs["model"].hands
    if not isinstance(config, ModelConfig):
        return None
    if wrong := misfit(config, params.sequence_length) or too_narrow(config, prospect.run):
        raise PlanOnly(wrong)
    training = Training(
        config=config,
        tokens=params.max_steps * params.batch * params.sequence_length,
        steps=params.max_steps,
        sequence_length=params.sequence_length,
        **how_of(params, prospect.run),
    )
    return Outlook({**estimate(training, prospect.assumptions).plain(), "at_most": True}, hands=config)


def plan_preferences(prospect: Prospect) -> Outlook | None:
    """Of the longest answers there can be: every row as long as the model's context. The reference reads each pair once."""
    params: DpoParams = prospect.params
    config = prospect.inputs["model"].hands
    if not isinstance(config, ModelConfig):
        return None
    length, how = config.max_position_embeddings, how_of(params, prospect.run)
    tokens = params.max_steps * params.batch * 2 * length
    rows = {**how, "micro_batch": 2 * prospect.run.micro_batch}
    figures = estimate(Training(config, tokens, params.max_steps, length, forwards=1, **rows), prospect.assumptions).plain()
    pairs = {stage: rows // 2 for stage, rows in figures["largest_micro_batch"].items()}
    del figures["chinchilla_ratio"]
    return Outlook({**figures, "largest_micro_batch": pairs, "at_most": True}, hands=config)


def plan_reinforcement(prospect: Prospect) -> Outlook | None:
    """Of the longest prompts and answers there can be, together the model's context, when every sample has an advantage. How much memory
    sampling takes is not known."""
    params: GrpoParams = prospect.params
    config = prospect.inputs["model"].hands
    if not isinstance(config, ModelConfig):
        return None
    length = config.max_position_embeddings
    tokens = params.max_steps * params.batch * params.samples * length
    forwards = 2 if params.kl_weight > 0 else 1  # generation, and the reference
    training = Training(config, tokens, params.max_steps, length, forwards=forwards, **how_of(params, prospect.run))
    figures = estimate(training, prospect.assumptions).plain()
    known = {key: value for key, value in figures.items() if not key.startswith(("memory", "largest", "chinchilla"))}
    return Outlook({**known, "at_most": True}, hands=config)


def plan_upcycling(prospect: Prospect) -> Outlook | None:
    """The parameters of the mixture of experts. PlanOnly where there can be none."""
    params: UpcycleParams = prospect.params
    dense = prospect.inputs["model"].hands
    if not isinstance(dense, ModelConfig):
        return None
    try:
        config = params.model.shape(dense)
    except ValueError as error:
        raise PlanOnly(f"model: {error}") from None
    parameters = count_parameters(config)
    line = f"{counted(parameters.total)} parameters ({counted(parameters.active)} active) from {counted(count_parameters(dense).total)}"
    return Outlook({"parameters": parameters.plain()}, (line,), hands=config)


def plan_evaluation(prospect: Prospect) -> Outlook | None:
    """PlanOnly for a corpus that will have nothing held out."""
    require_held_out(prospect.inputs)
    return None


def collision(paths: Sequence[str]) -> str:
    """What is wrong with sources that are to share one folder, beginning with their key; "" if nothing is."""
    for name, times in Counter(Path(path).name for path in paths).items():
        if times > 1:
            return f"sources: {times} files are named {name}; give the files of one folder"
    return ""


def misfit(config: ModelConfig, sequence_length: int, vocab_size: int = 0) -> str:
    """What is wrong with training a model that is there on such rows of ids below `vocab_size`, beginning with a key of the stage; "" if
    nothing is."""
    if vocab_size > config.vocab_size:
        return f"needs.model: knows {config.vocab_size} tokens, needs.tokenizer has {vocab_size}; give it the model's own"
    if sequence_length > config.max_position_embeddings:
        return f"sequence_length={sequence_length}: the model reads {config.max_position_embeddings} tokens; lower it"
    return ""


def too_narrow(config: ModelConfig, run: TrainRun) -> str:
    """What is wrong with training a model on packed documents where it is to run, beginning with a key of the stage; "" if nothing is."""
    if run.gpus_per_worker and config.head_dim < NARROWEST_HEAD:
        return (
            f"run.gpus_per_worker=1: on GPUs attention has no kernel for heads narrower than {NARROWEST_HEAD}, the model's are "
            f"{config.head_dim} wide; set it to 0, or give a model that has wider ones"
        )
    return ""


def require_held_out(inputs: Mapping[str, Upstream], otherwise: str = "") -> None:
    """PlanOnly where an input holds no document back."""
    for role, upstream in inputs.items():
        if getattr(upstream.params, "validation_fraction", None) == 0:
            raise PlanOnly(f"needs.{role}: its validation_fraction=0 leaves no document to measure a model on; raise it{otherwise}")


def how_of(params: Optimization, run: TrainRun) -> dict[str, Any]:
    """How a training is run, as `Training` takes it."""
    return {
        "precision": params.precision,
        "micro_batch": run.micro_batch,
        "world": run.world_size,
        "zero": run.as_it_runs(params.precision).zero,
        "device": "cuda" if run.gpus_per_worker else "cpu",
        "offload": run.offload,
        "recompute": run.recompute == "layer",
    }


def measured(
    manifests: Sequence[Mapping[str, Any]], params: PretrainParams, run: TrainRun, parameters: Parameters
) -> Mapping[str, Any] | None:
    """The manifest of the latest training of the same model, rows and precision on the same ranks; None where there was none. Of a model
    that is another stage's, only the number of its parameters is known to be the same."""
    wanted = {"sequence_length": params.sequence_length, "precision": params.precision}

    def kind(run: TrainRun) -> list[Any]:
        return [getattr(run.as_it_runs(params.precision), key) for key in SAME_RUN]

    for manifest in reversed(manifests):
        metrics = manifest["metrics"]
        if (
            wanted.items() <= manifest["params"].items()
            and kind(msgspec.convert(manifest["run"], TrainRun)) == kind(run)
            and msgspec.convert(manifest["params"]["model"], ModelConfig | None) == params.model
            and metrics.get("parameters") == parameters.exact
            and metrics.get("tokens_per_second")
        ):
            return manifest
    return None


def words(found: Estimate) -> list[str]:
    """The figures a person asks for first."""
    training, assumptions, cost, parameters = found.training, found.assumptions, found.cost, found.parameters
    active = f" ({counted(parameters.active)} active)" if parameters.active < parameters.total else ""
    ratio = chinchilla_ratio(parameters, training.tokens)
    if training.tokens_per_second is None:
        pace = f"{assumptions.mfu:.0%} of {assumptions.tflops(training.precision):g} TFLOP/s in {training.precision}"
    else:
        pace = f"{training.tokens_per_second:,.0f} tokens/s, as measured before"
    return [
        f"{counted(parameters.total)} parameters{active}, {counted(training.tokens)} tokens: {ratio:.2g} of Chinchilla's 20 each",
        f"{found.work.parameters * training.tokens:.3g} FLOPs, attention {found.work.attention * training.tokens:.2g} more, "
        f"on {training.world} × {assumptions.device} at {pace}",
        f"{short(cost.device_hours)} device hours: {dollars(cost.money)} at {dollars(assumptions.price_per_hour)} each, "
        f"{short(cost.energy_kwh)} kWh at {assumptions.watts:g} W and a PUE of {assumptions.pue:g}, "
        f"{short(cost.co2_kg)} kg CO2 at {assumptions.co2_g_per_kwh:g} g/kWh",
        memory_words(found),
        *device_words(found),
    ]


def memory_words(found: Estimate) -> str:
    """Whether a rank's memory suffices."""
    training, usable = found.training, found.assumptions.usable_bytes
    if found.chosen.total <= usable:
        return (
            f"{gigabytes(found.chosen.total)} a rank at ZeRO {training.zero}, {gigabytes(usable)} usable: "
            f"up to {found.micro_batch[training.zero]:,} rows at once, {training.micro_batch} are set"
        )
    others = ", ".join(f"{gigabytes(memory.total)} at {stage}" for stage, memory in found.memory.items() if stage != training.zero)
    return f"does not fit: {gigabytes(found.chosen.total)} a rank at ZeRO {training.zero}, {gigabytes(usable)} usable ({others})"


def device_words(found: Estimate) -> list[str]:
    """That `planning` is of another kind of device than the ranks', by its name, or that 16 bits are slow there."""
    device, on_gpus = found.assumptions.device, found.training.device == "cuda"
    if on_gpus and "CPU" in device:
        return [f"the ranks have GPUs, and {device} is assumed: set planning=h100 or a100, or run.gpus_per_worker=0"]
    if not on_gpus and "CPU" not in device:
        return [f"the ranks have no GPU, and {device} is assumed: set run.gpus_per_worker=1, or planning=cpu"]
    if not on_gpus and found.training.precision != "fp32":
        return [f"{found.training.precision} is slower on most CPUs than fp32, several times: set precision=fp32"]
    return []


def conversion_words(found: Estimate) -> str:
    """What going on with another number of ranks takes."""
    disk, memory = (gigabytes(found.conversion[name]) for name in ("disk_bytes", "memory_bytes"))
    return f"{disk} of disk and {memory} of a host's memory to go on with another number of ranks"


def counted(number: float) -> str:
    """Three digits: 1.06 million."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"


def gigabytes(number: float) -> str:
    return f"{short(number / 1e9)} GB"


def dollars(number: float) -> str:
    return f"${number:,.0f}" if number >= 100 else f"${number:,.2f}"


def short(number: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
