"""Advantages within groups and the clipped token loss."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from assistants import save_assistant
from hypothesis import given
from hypothesis import strategies as st
from worlds import sharded, together, trajectory

from pipeline.progress import Progress
from trainer.engine import Optimization, TrainRun, settling
from trainer.launch import join_alone
from trainer.loop import Outcome, Plan, train
from trainer.model.hf import load_model
from trainer.objectives.answers import answer_log_probs
from trainer.objectives.grpo import clipped_loss, group_advantages, squared_gradient
from trainer.tasks.policy import PolicyTask, RolloutBatch
from trainer.tasks.task import Place

groups = st.lists(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.booleans()), min_size=6, max_size=6), min_size=1, max_size=4)


def tensors(rows):
    rewards = torch.tensor([[reward for reward, _ in row] for row in rows], dtype=torch.float64)
    return rewards, torch.tensor([[scorable for _, scorable in row] for row in rows])


@given(groups, st.booleans())
def test_advantages_of_a_group_sum_to_zero_and_leave_out_the_unscorable(rows, divide_by_std):
    rewards, scorable = tensors(rows)
    advantages = group_advantages(rewards, scorable, divide_by_std=divide_by_std)
    assert torch.allclose(advantages.sum(1), torch.zeros(len(rows), dtype=torch.float64), atol=1e-9)
    assert (advantages[~scorable] == 0).all() and advantages.isfinite().all()


@given(groups, st.booleans())
def test_the_reward_of_an_unscorable_sample_changes_nothing(rows, divide_by_std):
    rewards, scorable = tensors(rows)
    other = torch.where(scorable, rewards, rewards + 7)
    before, after = (group_advantages(values, scorable, divide_by_std=divide_by_std) for values in (rewards, other))
    assert torch.equal(before, after)


def test_a_group_without_contrast_has_no_advantage_at_all():
    rewards = torch.full((2, 7), 0.1)  # a mean of 0.1s is not 0.1 in floating point
    assert (group_advantages(rewards, torch.ones(2, 7, dtype=torch.bool), divide_by_std=True) == 0).all()


def test_advantages_are_the_published_numbers():
    rewards, scorable = torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([[True, True, True, True]])
    assert group_advantages(rewards, scorable, divide_by_std=False).tolist() == [[0.5, -0.5, -0.5, 0.5]]
    assert group_advantages(rewards, scorable, divide_by_std=True).tolist() == [pytest.approx([1, -1, -1, 1], abs=1e-4)]


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=5), st.integers(0, 4))
def test_no_baseline_gives_less_variance_than_the_one_weighted_by_squared_gradients(weights, right):
    """Of a softmax over a few answers, each one token long, of which one is right; variance of the gradient at the drawn logit."""
    probabilities = [weight / sum(weights) for weight in weights]
    rewards = [float(answer == right % len(weights)) for answer in range(len(weights))]
    squares = [squared_gradient([math.log(p)]) for p in probabilities]
    expected = [p * square for p, square in zip(probabilities, squares, strict=True)]

    def second_moment(baseline: float) -> float:  # what a baseline changes of the variance
        return sum(weight * (reward - baseline) ** 2 for weight, reward in zip(expected, rewards, strict=True))

    best = sum(weight * reward for weight, reward in zip(expected, rewards, strict=True)) / sum(expected)
    mean = sum(p * reward for p, reward in zip(probabilities, rewards, strict=True))
    assert all(second_moment(best) <= second_moment(other) + 1e-12 for other in (0.0, mean, best - 0.05, best + 0.05))


def loss_of(log_probs, behaviour, advantages, mask=None, **settings):
    log_probs, behaviour, advantages = torch.tensor(log_probs), torch.tensor(behaviour), torch.tensor(advantages)
    mask = torch.ones_like(log_probs) if mask is None else torch.tensor(mask)
    return clipped_loss(log_probs, behaviour, advantages, mask, **({"clip_low": 0.2, "clip_high": 0.2} | settings))


def test_on_policy_the_loss_is_minus_the_advantage_of_every_token():
    terms = loss_of([[-1.0, -2.0], [-3.0, -0.5]], [[-1.0, -2.0], [-3.0, -0.5]], [1.0, -0.5])
    assert terms.loss.item() == pytest.approx(-1.0) and terms.clipped.item() == 0 and terms.ratio_gap.item() == 0


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "expected", "clipped"),
    [(1.0, 1.0, -1.2, 1), (-1.0, 1.0, -0.3679, 0), (1.0, -1.0, 2.7183, 0), (-1.0, -1.0, 0.8, 1)],
)
def test_the_clip_only_removes_steps_that_go_too_far(log_ratio, advantage, expected, clipped):
    terms = loss_of([[-2.0 + log_ratio]], [[-2.0]], [advantage])
    assert terms.loss.item() == pytest.approx(expected, abs=1e-4) and terms.clipped.item() == clipped


def test_a_clipped_token_has_no_gradient():
    log_probs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    behaviour = torch.tensor([[-2.0, -2.0]])
    clipped_loss(log_probs, behaviour, torch.ones(1), torch.ones(1, 2), clip_low=0.2, clip_high=0.28).loss.backward()
    assert log_probs.grad.tolist() == [[0.0, -1.0]]


def test_masked_tokens_count_for_nothing_whatever_their_values():
    ratio_blown_up = loss_of([[-1.0, 500.0]], [[-1.0, -500.0]], [1.0], [[1.0, 0.0]])
    assert ratio_blown_up.loss.item() == pytest.approx(-1.0)


def test_k3_is_never_negative_and_zero_at_the_reference():
    reference = torch.tensor([[-1.0, -3.0]])
    at_reference = loss_of([[-1.0, -3.0]], [[-1.0, -3.0]], [0.0], kl_weight=0.1, reference_log_probs=reference)
    away = loss_of([[-2.0, -1.0]], [[-2.0, -1.0]], [0.0], kl_weight=0.1, reference_log_probs=reference)
    assert at_reference.kl.item() == 0 and away.kl.item() == pytest.approx((2.71828 - 2) + (0.13534 + 2 - 1), abs=1e-3)
    assert away.loss.item() == pytest.approx(0.1 * away.kl.item())


def test_a_kl_weight_without_a_reference_is_refused():
    with pytest.raises(ValueError, match="reference"):
        loss_of([[-1.0]], [[-1.0]], [1.0], kl_weight=0.1)


class EndsInEven(PolicyTask):
    """Rewards something an untrained model does by chance: an answer of an even number of characters."""

    def start(self, place: Place, model: Any) -> None:
        super().start(place, model)
        self._sampler = replace(self._sampler, verify=lambda text, answer, finished: float(len(text) % 2 == 0) if finished else None)


def policy(directory: Path, **changes: Any) -> PolicyTask:
    """A task on a tiny assistant that is saved in `directory` when it is not there yet."""
    if not (directory / "model.safetensors").exists():
        save_assistant(directory)
        rows = [{"id": f"p{n}", "prompt": [{"role": "user", "content": f"What is {n}+3?"}], "answer": str(n + 3)} for n in range(5)]
        (directory / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"batch": 4, "samples": 8, "temperature": 1.0, "max_new_tokens": 24, "advantage": "standardized"}
    clip = {"clip_low": 0.2, "clip_high": 0.2, "kl_weight": 0.0, "seed": 0}
    paths = {"prompts": (str(directory / "prompts.jsonl"),), "tokenizer": str(directory), "records": str(directory / "rollouts")}
    return EndsInEven(**{**settings, **clip, **paths, **changes})


SETTINGS = Optimization(lr=1e-3, warmup_steps=1, schedule="constant", weight_decay=0.0)


def policy_training(directory: str, name: str, run: TrainRun, **changes: Any) -> Outcome:
    home = Path(directory)
    task = policy(home, records=str(home / name / "rollouts"), **changes)
    (home / name).mkdir(exist_ok=True)
    device = torch.device("cpu")
    with sharded():
        return train(
            load_model(home, settling(SETTINGS, run, device))[0], task, Plan(steps=4, validate_every=2), SETTINGS, run,
            device=device, inputs={}, trajectory=trajectory(home / name, "one"),
            progress=Progress(str(home / name / "events"), "test"),
        )  # fmt: skip


def records(directory: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for path in directory.glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(found, key=lambda row: (row["step"], row["prompt"], row["sample"]))


def test_only_samples_with_an_advantage_are_trained_on_and_their_ids_are_those_drawn(tmp_path: Path) -> None:
    task, place = policy(tmp_path), Place(0, 1, torch.device("cpu"), 6)
    model = load_model(tmp_path)[0]
    task.start(place, model)
    batches: list[RolloutBatch] = task.micro_batches(0, model)
    written = records(tmp_path / "rollouts")
    assert len(written) == 4 * 8 and {row["step"] for row in written} == {0}
    trained = [row for row in written if row["advantage"] != 0]
    assert 0 < len(trained) < len(written) and all(row["finished"] for row in trained)
    assert max(len(batch.ids) for batch in batches) <= 6
    seen = [tuple(ids[mask].tolist()) for batch in batches for ids, mask in zip(batch.ids, batch.mask, strict=True)]
    assert sorted(seen) == sorted(tuple(row["ids"]) for row in trained)
    assert sum(task.counts(batch)["samples"] for batch in batches) == 32


def test_the_baseline_of_least_variance_is_the_mean_reward_weighed_by_squared_gradients(tmp_path: Path) -> None:
    task = policy(tmp_path, advantage="least_variance")
    model = load_model(tmp_path)[0]
    task.start(Place(0, 1, torch.device("cpu"), 64), model)
    task.micro_batches(0, model)
    judged = [row for row in records(tmp_path / "rollouts") if row["reward"] is not None]
    weights = [sum((1 - math.exp(log_prob)) ** 2 for log_prob in row["log_probs"]) for row in judged]
    baseline = sum(weight * row["reward"] for weight, row in zip(weights, judged, strict=True)) / sum(weights)
    assert 0 < baseline < 1
    for row in judged:
        assert row["advantage"] == pytest.approx(row["reward"] - baseline)
    assert all(row["advantage"] == 0 for row in records(tmp_path / "rollouts") if row["reward"] is None)


def test_the_trainers_log_probabilities_are_those_stored_while_sampling(tmp_path: Path) -> None:
    task = policy(tmp_path, temperature=0.8)
    model = load_model(tmp_path)[0]
    task.start(Place(0, 1, torch.device("cpu"), 64), model)
    [batch] = task.micro_batches(3, model)
    with torch.no_grad():
        found = answer_log_probs(model, batch.ids, batch.mask, 0.8)
    torch.testing.assert_close(found, batch.behaviour, atol=1e-4, rtol=0)


def test_a_steps_rollouts_do_not_depend_on_what_was_drawn_before(tmp_path: Path) -> None:
    model = None
    for name, steps in (("resumed", [2]), ("whole", [0, 1, 2])):
        task = policy(tmp_path, records=str(tmp_path / name))
        model = load_model(tmp_path)[0]
        task.start(Place(0, 1, torch.device("cpu"), 8), model)
        for step in steps:
            task.micro_batches(step, model)
    last = "step-000002.rank-0000.jsonl"
    assert (tmp_path / "resumed" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


@pytest.mark.parametrize("advantage", ["standardized", "least_variance"])
def test_a_step_without_contrast_moves_nothing(tmp_path: Path, advantage: str) -> None:
    join_alone()
    before = save_assistant(tmp_path)[0].state_dict()
    policy(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"id": "p", "prompt": [{"role": "user", "content": "1+1?"}], "answer": "2"}) + "\n")
    outcome = policy_training(str(tmp_path), "flat", TrainRun(workers=1), max_new_tokens=1, advantage=advantage)
    assert outcome.weights is not None
    assert all(torch.equal(outcome.weights[name], tensor) for name, tensor in before.items())
    assert outcome.state.history[-1]["train"]["uniform"] == 1 and outcome.state.history[-1]["train"]["unscorable"] > 0.5


SHARED = {"kl_weight": 0.01, "advantage": "least_variance"}  # a baseline that all ranks agree on


def rank_cases(directory: str) -> dict[str, Any]:
    found = {}
    for zero in (1, 3):
        outcome = policy_training(directory, f"zero-{zero}", TrainRun(zero=zero, micro_batch=5), **SHARED)
        found[f"zero-{zero}"] = None if outcome.weights is None else dict(outcome.weights)
    return found


def test_ranks_and_zero_stages_draw_the_same_rollouts_and_learn_the_same(tmp_path: Path) -> None:
    join_alone()
    policy(tmp_path)
    alone = policy_training(str(tmp_path), "alone", TrainRun(workers=1, zero=1, micro_batch=64), **SHARED)
    first = together(2, tmp_path, rank_cases, str(tmp_path))[0]
    drawn = [records(tmp_path / name / "rollouts") for name in ("alone", "zero-1", "zero-3")]
    texts = [[(row["prompt"], row["sample"], row["ids"]) for row in rows] for rows in drawn]
    assert len(texts[0]) == 4 * 4 * 8 and texts[0] == texts[1] == texts[2]
    assert alone.weights is not None
    for name, tensor in alone.weights.items():
        torch.testing.assert_close(tensor, first["zero-1"][name], atol=1e-4, rtol=0)
        torch.testing.assert_close(first["zero-3"][name], first["zero-1"][name], atol=1e-4, rtol=0)
