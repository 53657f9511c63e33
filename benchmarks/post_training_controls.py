"""What preference and policy training add over their controls, on finished runs of the demo recipe (one for each seed).

    python -m benchmarks.post_training_controls out/runs/seed-0 out/runs/seed-1 out/runs/seed-2

DPO stands beside the same steps on the same chosen answers without the preference term. GRPO stands beside three others that
have what it had, the same model to begin with and as many samples or as much compute:

- more SFT: the conversations again, for as much arithmetic or until validation has stopped improving, with the best weights;
- rejection sampling (Yuan et al. 2023): as many answers drawn from the first model; the distinct right ones join the
  conversations, on which the base model is fine-tuned as SFT was, for as many epochs;
- its online form (RAFT, Dong et al. 2023): GRPO's own steps, in which a right sample counts 1 and a wrong one nothing.

Prints one table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch

from data_prep.tokenizer import Tokenizer
from pipeline.lease import Fence
from pipeline.progress import Progress
from pipeline.trajectory import Trajectory
from trainer.data.chat import ChatFormat
from trainer.data.preferences import Preference
from trainer.data.prompts import Prompt
from trainer.data.records import read_records
from trainer.engine import Optimization, TrainRun
from trainer.evaluation import Examiner, table
from trainer.launch import join_alone
from trainer.loop import Outcome, Plan, train
from trainer.model.hf import load_model
from trainer.model.transformer import Transformer
from trainer.rollout.local import Rollout
from trainer.rollout.verifiers import exact_answer
from trainer.stages import DpoParams, EvaluateParams, GrpoParams, SftParams
from trainer.tasks.language_model import FineTuning
from trainer.tasks.policy import PolicyTask
from trainer.tasks.preference import PreferenceTask
from trainer.tasks.task import Place, Task

Params = TypeVar("Params")


@dataclass(frozen=True)
class Run:
    """A finished run: its stages' artifacts."""

    directory: Path

    def stage(self, name: str) -> Path:
        return (self.directory / "stages" / name).resolve()

    def params(self, name: str, kind: type[Params]) -> Params:
        return msgspec.convert(json.loads((self.stage(name) / "manifest.json").read_text())["params"], kind)

    def metrics(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads((self.stage(name) / "manifest.json").read_text())["metrics"]
        return found

    def demo(self, folder: str, split: str) -> str:
        return str(self.stage("demo") / folder / f"{split}.jsonl")


class OnlineRejectionSampling(PolicyTask):
    """Right samples have advantage 1 and all others 0: the gradient is that of fine-tuning on the right ones."""

    def advantages(self, groups: Sequence[Sequence[Rollout]]) -> list[list[float]]:
        return [[rollout.reward or 0.0 for rollout in group] for group in groups]


def trained(task: Task, plan: Plan, settings: Optimization, start: Path, home: Path) -> tuple[Transformer, Outcome]:
    """Train the model at `start` in this process, as the stages do on their ranks."""
    (home / "lease").mkdir(parents=True)
    trajectory = Trajectory(str(home / "steps"), "control", Fence(str(home / "lease"), 1))
    Path(trajectory.directory).mkdir()
    run = TrainRun(workers=0, micro_batch=32, checkpoint_every=plan.steps).as_it_runs(settings.precision)
    progress = Progress(str(home / "events.jsonl"), "control")
    model = load_model(start)[0]
    outcome = train(model, task, plan, settings, run, device=torch.device("cpu"), inputs={}, trajectory=trajectory, progress=progress)
    finished = load_model(start)[0]
    assert outcome.weights is not None
    finished.load_state_dict(outcome.weights)
    return finished, outcome


def without_preference(run: Run, home: Path) -> Transformer:
    params = replace(run.params("dpo", DpoParams), preference_weight=0.0)
    task = PreferenceTask(
        (run.demo("preferences", "train"),), (run.demo("preferences", "validation"),), str(run.stage("sft")),
        params.batch, 0.0, params.beta, params.nll_weight or 1.0, params.seed,
    )  # fmt: skip
    return trained(task, Plan(params.max_steps, params.validate_every), params, run.stage("sft"), home)[0]


def policy_task(kind: type[PolicyTask], run: Run, params: GrpoParams, home: Path) -> PolicyTask:
    return kind(
        (run.demo("prompts", "train"),), str(run.stage("dpo")), params.batch, params.samples, params.temperature,
        params.max_new_tokens, params.advantage, params.clip_low, params.clip_high, 0.0, params.seed, str(home / "rollouts"),
    )  # fmt: skip


def online_rejection_sampling(run: Run, home: Path) -> Transformer:
    params = run.params("grpo", GrpoParams)
    task = policy_task(OnlineRejectionSampling, run, params, home)
    return trained(task, Plan(params.max_steps, params.report_every), params, run.stage("dpo"), home)[0]


def rejection_sampling(run: Run, home: Path) -> Transformer:
    drawn, params, first = run.params("grpo", GrpoParams), run.params("sft", SftParams), run.metrics("sft")
    model = load_model(run.stage("dpo"))[0]
    drawing = policy_task(PolicyTask, run, drawn, home)
    drawing.start(Place(0, 1, torch.device("cpu"), drawn.batch), model)
    for step in range(drawn.max_steps):
        drawing.micro_batches(step, model)
    asked = {row["id"]: row["prompt"] for row in read_records([run.demo("prompts", "train")], ["id"])}
    records = [json.loads(line) for path in sorted((home / "rollouts").iterdir()) for line in path.read_text().splitlines()]
    right = dict.fromkeys((row["prompt"], row["text"]) for row in records if row["reward"] == 1)
    rows = [row["messages"] for row in read_records([run.demo("conversations", "train")], ["messages"])]
    steps = round(first["steps"] * (len(rows) + len(right)) / len(rows))  # as many epochs
    rows += [[*asked[prompt], {"role": "assistant", "content": text}] for prompt, text in right]
    kept = home / "kept.jsonl"
    kept.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    task = FineTuning(
        (str(kept),), (run.demo("conversations", "validation"),), str(run.stage("pretrain")),
        params.sequence_length, params.batch, params.seed,
    )  # fmt: skip
    return trained(task, Plan(steps, params.validate_every, keep_best="loss"), params, run.stage("pretrain"), home)[0]


def continued_fine_tuning(run: Run, home: Path) -> Transformer:
    """At most as much arithmetic as GRPO's (a drawn token costs a forward pass, a trained one three times that); it ends where
    SFT itself would, once validation has not improved for its patience."""
    params, spent, first = run.params("sft", SftParams), run.metrics("grpo"), run.metrics("sft")
    steps = round((spent["drawn_tokens"] / 3 + spent["tokens"]) / (first["tokens"] / first["steps"]))
    task = FineTuning(
        (run.demo("conversations", "train"),), (run.demo("conversations", "validation"),), str(run.stage("dpo")),
        params.sequence_length, params.batch, params.seed + 1,
    )  # fmt: skip
    plan = Plan(steps, params.validate_every, keep_best="loss", patience=params.patience)
    return trained(task, plan, replace(params, lr=run.params("grpo", GrpoParams).lr), run.stage("dpo"), home)[0]


def measured(model: Transformer, run: Run) -> dict[str, Any]:
    """The evaluation's shares for one more model."""
    params = run.params("evaluate", EvaluateParams)
    tokenizer = Tokenizer.load(run.stage("sft"))
    examiner = Examiner(model.eval(), tokenizer, ChatFormat(tokenizer), params.seed, params.max_new_tokens)
    asked = read_records([run.demo("prompts", "test")], ["answer"])[: params.max_prompts]
    prompts = [Prompt.from_row(row, f"prompt {number}") for number, row in enumerate(asked)]
    paired = read_records([run.demo("preferences", "test")], ["chosen"])[: params.max_preferences]
    preferences = [Preference.from_row(row, f"preference {number}") for number, row in enumerate(paired)]
    style, _ = examiner.style_and_facts(preferences, params.temperature)
    return {
        "greedy": examiner.accuracy(prompts, 0.0, exact_answer).plain(),
        "sampled": examiner.accuracy(prompts, params.temperature, exact_answer).plain(),
        "style": style.plain(),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("runs", nargs="+", type=Path, help="folders of finished runs of the demo recipe")
    directories: list[Path] = arguments.parse_args().runs
    join_alone()
    torch.set_num_threads(1)
    controls = {
        "dpo, likelihood only": without_preference,
        "dpo, then more SFT": continued_fine_tuning,
        "dpo, then rejection sampling": rejection_sampling,
        "dpo, then rejection sampling online": online_rejection_sampling,
    }
    rows: dict[str, Mapping[str, Any]] = {}
    for run in map(Run, directories):
        reports = json.loads((run.stage("evaluate") / "evaluation.json").read_text())
        for name in ("sft", "dpo", "grpo"):
            rows[f"{run.directory.name}: {name}"] = {**reports[name], "bits_per_byte": None}
        for name, control in controls.items():
            with tempfile.TemporaryDirectory() as home:
                rows[f"{run.directory.name}: {name}"] = measured(control(run, Path(home)), run)
        start, end = (reports[name]["sampled"]["value"] for name in ("sft", "grpo"))
        print(f"{run.directory.name}: GRPO closes {(end - start) / (1 - start):.0%} of the gap that SFT left", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
