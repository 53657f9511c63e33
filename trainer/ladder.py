"""Trainings of several sizes on one corpus, the law fitted to them, and what it says of those that it was not fitted to.

N counts the parameters a token is multiplied with (`Parameters.multiplied`): layers and output layer, without a lookup that is nothing
else. It is what 6·N·D counts, and what small models of different width can be compared by: most of what an untied one holds is its
embedding, which a token reads one row of. D counts the tokens trained on, repeated ones as often as they were read. Losses are
nats a token of the validation documents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from pipeline.stage import Artifact, UserError
from trainer.model.hf import load_config
from trainer.outlook import counted
from trainer.planning import count_parameters
from trainer.scaling import NO_FLOOR, Fit, Law, Run, fit

SHARED = ("sequence_length", "validation_tokens", "seed")  # what decides which tokens are validated on, and how much of a text is seen


@dataclass(frozen=True)
class Rung:
    """One training of the ladder. The law is not fitted to one that is held out."""

    name: str
    run: Run
    held_out: bool = False


@dataclass(frozen=True)
class Estimate:
    """A value, and the ends of its interval."""

    value: float
    low: float
    high: float

    def plain(self) -> dict[str, float]:
        return {name: significant(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Prediction:
    """The loss of a size that the law was not fitted to, and of a held-out rung what was measured."""

    name: str
    parameters: float
    tokens: float
    loss: Estimate
    measured: float | None = None

    @property
    def inside(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.measured is not None and self.loss.low <= self.measured <= self.loss.high

    @property
    def error(self) -> float:
        """How far the prediction is above what was measured, as a share of it."""
        return self.loss.value / self.measured - 1 if self.measured else 0.0

    def plain(self) -> dict[str, Any]:
        found = {"parameters": self.parameters, "tokens": self.tokens, "predicted": self.loss.plain()}
        if self.measured is not None:
            found |= {"measured": significant(self.measured), "error": significant(self.error), "inside": self.inside}
        return found


@dataclass(frozen=True)
class Ladder:
    """Rungs by parameters and tokens, their fit, and what it predicts, held-out rungs first."""

    rungs: tuple[Rung, ...]
    fit: Fit
    confidence: float
    predictions: tuple[Prediction, ...]

    @property
    def law(self) -> dict[str, Estimate]:
        """The law's numbers, with the interval of those of the draws."""
        found = {}
        for name in (field.name for field in fields(Law)):
            drawn = [getattr(law, name) for law in self.fit.draws]
            low, high = np.quantile(drawn, [(1 - self.confidence) / 2, (1 + self.confidence) / 2])
            found[name] = Estimate(getattr(self.fit.law, name), float(low), float(high))
        return found

    @property
    def farthest(self) -> float:
        """The largest relative difference of the law from a rung it was fitted to."""
        fitted = [rung.run for rung in self.rungs if not rung.held_out]
        return max(abs(self.fit.law.loss(run.parameters, run.tokens) / run.loss - 1) for run in fitted)

    def plain(self) -> dict[str, Any]:
        rungs = {
            rung.name: {
                **asdict(rung.run),
                "loss": significant(rung.run.loss),
                "law": significant(self.fit.law.loss(rung.run.parameters, rung.run.tokens)),
                "held_out": rung.held_out,
            }
            for rung in self.rungs
        }
        return {
            "law": {name: estimate.plain() for name, estimate in self.law.items()},
            "confidence": self.confidence,
            "scatter": significant(self.fit.scatter),
            "farthest": significant(self.farthest),
            "rungs": rungs,
            "predictions": {prediction.name: prediction.plain() for prediction in self.predictions},
        }

    def metrics(self) -> dict[str, float]:
        """What the manifest says: the law, how close it is to its rungs, and how wrong about the others."""
        found = {name: significant(value) for name, value in asdict(self.fit.law).items()}
        errors = {f"{one.name}_error": significant(one.error) for one in self.predictions if one.measured is not None}
        return {**found, "scatter": significant(self.fit.scatter), "farthest": significant(self.farthest), **errors}


def read_rungs(inputs: Mapping[str, Artifact], held_out: Collection[str] = ()) -> list[Rung]:
    """The trainings among the inputs, by parameters and tokens.

    UserError for an input that is no pretraining, has no validation loss, or was not trained and validated on what the others were.
    """
    rungs = []
    for role, artifact in inputs.items():
        metrics = artifact.manifest["metrics"]
        if artifact.stage != "pretrain":
            raise UserError(f"needs.{role}: is made by {artifact.stage}; a ladder's rungs are made by pretrain")
        if "last_validation_loss" not in metrics:
            raise UserError(f"needs.{role}: was validated on nothing; set {role}.validation_tokens above 0")
        parameters = count_parameters(load_config(artifact.directory)).multiplied
        rungs.append(Rung(role, Run(float(parameters), metrics["tokens"], metrics["last_validation_loss"]), role in held_out))
    first, *others = inputs.items()
    for other in others:
        require_comparable(*other, *first)
    return sorted(rungs, key=lambda rung: (rung.run.parameters, rung.run.tokens, rung.name))


def require_comparable(role: str, artifact: Artifact, first_role: str, first: Artifact) -> None:
    """UserError where two trainings' losses are not of the same tokens."""
    read, expected = ({name: one["digest"] for name, one in found.manifest["inputs"].items()} for found in (artifact, first))
    for name in {**read, **expected}:
        if read.get(name) != expected.get(name):
            raise UserError(f"needs.{role}: its {name} is not that of {first_role}; give all rungs one, in their needs.{name}")
    for key in SHARED:
        here, there = (found.manifest["params"][key] for found in (artifact, first))
        if here != there:
            raise UserError(f"{role}.{key}={here}: {first_role} has {there}; give all rungs the same")


def climb(rungs: Sequence[Rung], sizes: Sequence[tuple[float, float]], confidence: float = 0.8, seed: int = 0) -> Ladder:
    """Fit the law to the rungs that are not held out, and predict those that are and `sizes` (parameters, tokens).

    UserError where the rungs cannot tell the law.
    """
    try:
        found = fit([rung.run for rung in rungs if not rung.held_out], seed=seed)
    except ValueError as error:
        raise UserError(f"needs: {error}") from None

    def predicted(name: str, parameters: float, tokens: float, measured: float | None = None) -> Prediction:
        return Prediction(name, parameters, tokens, Estimate(*found.predict(parameters, tokens, confidence)), measured)

    checked = [predicted(rung.name, rung.run.parameters, rung.run.tokens, rung.run.loss) for rung in rungs if rung.held_out]
    asked = [predicted(f"{counted(parameters)} on {counted(tokens)}", parameters, tokens) for parameters, tokens in sizes]
    return Ladder(tuple(rungs), found, confidence, (*checked, *asked))


def significant(value: float) -> float:
    """Six digits: more than any training repeats on another machine."""
    return float(f"{value:.6g}") if abs(value) > 1e-12 else 0.0


def words(found: Ladder) -> str:
    """The ladder in a few lines: each rung beside the law, the law's numbers, and the predictions."""
    law, share = found.fit.law, f"{found.confidence:.0%}"
    lines = [f"{'':<12}{'parameters':>12}{'tokens':>14}{'loss':>9}{'law':>9}"]
    for rung in found.rungs:
        run = rung.run
        said = law.loss(run.parameters, run.tokens)
        lines.append(f"{rung.name:<12}{run.parameters:>12,.0f}{run.tokens:>14,.0f}{run.loss:>9.4f}{said:>9.4f}")
        if rung.held_out:
            lines[-1] += "   held out"
    lines += ["", f"{formula(law)}; rungs stray by {found.fit.scatter:.1%} around it, {found.farthest:.1%} at most"]
    ends = {
        name: (f"{one.low:.4f} to {one.high:.4f}" if name == "E" else f"{one.low:.3g} to {one.high:.3g}") for name, one in found.law.items()
    }
    lines.append(f"{share} intervals: " + ", ".join(f"{name} {text}" for name, text in ends.items()))
    if min(rung.run.loss for rung in found.rungs) * NO_FLOOR > law.E:
        lines.append("E is 0: these rungs do not tell where the loss would end; train longer before you trust a far prediction")
    for one in found.predictions:
        text = f"{one.name}: {one.loss.value:.4f} predicted, {share} interval {one.loss.low:.4f} to {one.loss.high:.4f}"
        if one.measured is not None:
            text += f"; measured {one.measured:.4f}, {'inside' if one.inside else 'outside'}, the prediction is off by {one.error:+.1%}"
        lines.append(text)
    return "\n".join([*lines, "to look at: ladder.svg, beside this file"]) + "\n"


def formula(law: Law) -> str:
    return f"loss = {law.E:.4f} + {law.A:.4g} / N^{law.a:.3g} + {law.B:.4g} / D^{law.b:.3g}"
