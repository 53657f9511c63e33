"""Models measured side by side, and what their losses say of larger ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from pipeline.stage import MapRun, Metrics, StageContext, Unit, UserError, stage, stem
from trainer.outlook import plan_evaluation
from trainer.stages.publishing import Seed


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


@stage(version=1, needs=("corpus", "*"), plan=plan_evaluation)
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


@dataclass(frozen=True)
class Size:
    """Of a training."""

    parameters: Annotated[float, Meta(gt=0, description="that a token is multiplied with, as ladder.json counts them")]
    tokens: Annotated[float, Meta(gt=0, description="trained on")]


@dataclass(frozen=True)
class LadderParams:
    """How loss falls with parameters and tokens."""

    held_out: Annotated[
        tuple[str, ...], Meta(description="roles of trainings that the law is not fitted to, to compare them with what it predicts")
    ] = ()
    predict: Annotated[tuple[Size, ...], Meta(description="trainings that are not run, to say what loss they would come to")] = ()
    confidence: Annotated[float, Meta(gt=0, lt=1, description="probability that an interval holds the value")] = 0.8
    seed: Annotated[int, Meta(ge=0, lt=2**62, description="of the draws")] = 0


LEAST_RUNGS = 6  # for the five numbers of the law, and how far rungs are from it


def check_ladder(name: str, params: LadderParams, run: MapRun, sources: Sequence[str], roles: Collection[str]) -> None:
    """Refuse before the rungs are trained what could not be fitted whatever they come to."""
    for role in params.held_out:
        if role not in roles:
            raise UserError(f"{name}.held_out={role}: there is no such role in {name}.needs, which has {', '.join(roles)}")
    if len(fitted := {*roles} - {*params.held_out}) < LEAST_RUNGS:
        raise UserError(f"{name}.needs: {len(fitted)} trainings are too few to fit, {LEAST_RUNGS} the least; name more, or hold out fewer")


@stage(version=1, needs=("*",), check=check_ladder)
def ladder(ctx: StageContext, params: LadderParams) -> Metrics:
    """Fit loss = E + A / N^a + B / D^b to trainings on one corpus; publish the law, a plot, and what it says of others."""
    import json
    from pathlib import Path

    from trainer.ladder import climb, read_rungs, words
    from trainer.ladder_plot import plot

    rungs = read_rungs(ctx.inputs, params.held_out)
    found = climb(rungs, [(size.parameters, size.tokens) for size in params.predict], params.confidence, params.seed)
    contents = {"ladder.json": json.dumps(found.plain(), indent=2) + "\n", "ladder.svg": plot(found), "summary.txt": words(found)}
    for name, content in contents.items():
        Path(ctx.path(name)).write_text(content, encoding="utf-8")
        ctx.publish(name)
    return found.metrics()
