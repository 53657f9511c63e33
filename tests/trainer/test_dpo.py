"""The preference loss."""

import json
import math
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from assistants import save_assistant
from hypothesis import given
from hypothesis import strategies as st
from worlds import sharded, together, trajectory

from pipeline.progress import Progress
from pipeline.stage import UserError
from trainer.data.preferences import PairIds, Preference, answer_rows
from trainer.engine import Optimization, TrainRun, settling
from trainer.launch import join_alone
from trainer.loop import Outcome, Plan, train
from trainer.model.hf import load_model
from trainer.objectives.dpo import PairLogProbs, likelihood_loss, margins, preference_loss
from trainer.tasks import preference
from trainer.tasks.preference import PreferenceTask, within
from trainer.tasks.task import Place

log_probs = st.lists(st.floats(-60, -0.01), min_size=4, max_size=4)


def pairs(chosen, rejected, reference_chosen, reference_rejected, tokens=(1,)):
    values = [torch.tensor(value, dtype=torch.float64) for value in (chosen, rejected, reference_chosen, reference_rejected, tokens)]
    return PairLogProbs(*values)


@given(st.lists(st.integers(3, 60), max_size=30), st.integers(1, 300))
def test_the_reference_reads_every_pair_once_and_no_more_tokens_at_once_than_allowed(lengths, tokens):
    known = [PairIds((0,), (1,) * (length - 1), (1,)) for length in lengths]
    parts = list(within(tokens, known))
    assert [pair for part in parts for pair in part] == known and all(parts)
    assert all(len(part) == 1 or 2 * len(part) * max(pair.length for pair in part) <= tokens for part in parts)


def test_the_loss_is_log_two_while_the_policy_is_its_reference():
    same = pairs([-3.0], [-5.0], [-3.0], [-5.0])
    assert preference_loss(same, beta=0.1).item() == pytest.approx(math.log(2))


def test_the_loss_is_the_published_formula():
    moved = pairs([-2.0], [-6.0], [-3.0], [-5.0], [4])
    assert preference_loss(moved, beta=0.3).item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.3 * 2.0))))
    assert likelihood_loss(moved).item() == pytest.approx(2.0 / 4)


@given(log_probs, st.floats(0.01, 1.0))
def test_swapping_the_answers_mirrors_the_margin(values, beta):
    a, b, c, d = values
    there, back = pairs([a], [b], [c], [d]), pairs([b], [a], [d], [c])
    assert margins(there).item() == pytest.approx(-margins(back).item())
    difference = preference_loss(there, beta) - preference_loss(back, beta)
    assert difference.item() == pytest.approx(-beta * margins(there).item(), abs=1e-9)


def test_gradients_raise_the_chosen_answer_and_lower_the_rejected_one():
    chosen, rejected = torch.tensor([-3.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)
    preference_loss(PairLogProbs(chosen, rejected, chosen.detach(), rejected.detach(), torch.ones(1)), beta=0.1).sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.05) and rejected.grad.item() == pytest.approx(0.05)


def test_an_answer_row_masks_its_prompt_and_its_padding():
    ids, mask = answer_rows([((1, 2), (3, 4)), ((1,), (5,))], pad_id=0)
    assert ids.tolist() == [[1, 2, 3, 4], [1, 5, 0, 0]]
    assert mask.tolist() == [[False, False, True, True], [False, True, False, False]]


ASSISTANT_LAST = [{"role": "assistant", "content": "hi"}]


@pytest.mark.parametrize("change", [{"chosen": ""}, {"rejected": "yes"}, {"prompt": []}, {"prompt": ASSISTANT_LAST}])
def test_a_broken_preference_is_one_line_that_names_the_row(change):
    row = {"id": "1", "prompt": [{"role": "user", "content": "hi"}], "chosen": "yes", "rejected": "no"} | change
    with pytest.raises(UserError, match=r"^pairs, row 7: "):
        Preference.from_row(row, "pairs, row 7")


def write_preferences(path: Path, numbers: range) -> str:
    questions = {number: [{"role": "user", "content": f"What is {number}+3?"}] for number in numbers}
    rows = [{"id": str(n), "prompt": q, "chosen": f"The user asks {n + 3}.", "rejected": f"{n + 3}"} for n, q in questions.items()]
    if not path.exists():  # several ranks come here
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def preference_task(directory: Path, name: str, **changes: float) -> PreferenceTask:
    return PreferenceTask(
        train=(write_preferences(directory / "train.jsonl", range(9)),),
        validation=(write_preferences(directory / "validation.jsonl", range(9, 12)),),
        tokenizer=str(directory / name),
        **{"batch": 4, "preference_weight": 1.0, "beta": 0.3, "nll_weight": 0.5, "seed": 0} | changes,
    )


def preference_training(directory: Path, name: str, run: TrainRun, **changes: float) -> Outcome:
    if not (directory / name).exists():
        save_assistant(directory / name)
    task = preference_task(directory, name, **changes)
    join_alone()
    settings, device = Optimization(lr=3e-3, warmup_steps=2, schedule="constant"), torch.device("cpu")
    with sharded():
        return train(
            load_model(directory / name, settling(settings, run, device))[0], task, Plan(steps=8, validate_every=4), settings, run,
            device=device, inputs={}, trajectory=trajectory(directory, name),
            progress=Progress(str(directory / "events.jsonl"), "test"),
        )  # fmt: skip


def test_training_prefers_the_chosen_answers_of_held_out_pairs(tmp_path: Path) -> None:
    first, _, last = preference_training(tmp_path, "both", TrainRun(workers=1)).state.history
    assert first["validation"]["preference"] == pytest.approx(math.log(2)) and first["validation"]["margin"] == 0
    assert last["validation"]["preference"] < first["validation"]["preference"] and last["validation"]["accuracy"] == 1
    assert last["validation"]["chosen_drift"] > 0


def test_neither_micro_batches_nor_sharded_weights_change_what_is_learned(tmp_path: Path) -> None:
    runs = [TrainRun(workers=1, micro_batch=size, zero=zero) for size, zero in ((1, 1), (4, 1), (2, 3))]
    first, *others = [preference_training(tmp_path, f"run-{number}", run) for number, run in enumerate(runs)]
    for name, tensor in first.weights.items():
        for other in others:
            torch.testing.assert_close(tensor, other.weights[name], atol=2e-5, rtol=0)


def test_without_the_preference_term_only_the_chosen_answers_are_learned(tmp_path: Path) -> None:
    outcome = preference_training(tmp_path, "nll", TrainRun(workers=1), preference_weight=0.0, nll_weight=1.0)
    first, _, last = outcome.state.history
    assert last["validation"]["nll"] < first["validation"]["nll"] and last["validation"]["chosen_drift"] > 0


@pytest.mark.parametrize(("micro_batch", "zero"), [(1, 1), (2, 3)])
def test_two_ranks_validate_on_the_pairs_of_one(tmp_path: Path, micro_batch: int, zero: int) -> None:
    alone = validated(str(tmp_path), "alone", micro_batch, zero)
    save_assistant(tmp_path / "ranks")
    for ranks in together(2, tmp_path, validated, str(tmp_path), "ranks", micro_batch, zero):
        assert ranks == pytest.approx(alone, abs=1e-5)


def validated(directory: str, name: str, micro_batch: int, zero: int) -> dict[str, float]:
    """What these ranks find on the three pairs held out, before the first step."""
    outcome = preference_training(Path(directory), name, TrainRun(zero=zero, micro_batch=micro_batch))
    found: dict[str, float] = outcome.state.history[0]["validation"]
    return found


def references(directory: str) -> dict[str, torch.Tensor]:
    """What a rank knows of the reference, read three pairs at once."""
    folder, world = Path(directory), torch.distributed.get_world_size()
    known = preference_task(folder, "assistant")
    place = Place(torch.distributed.get_rank(), world, torch.device("cpu"), 2)
    with patch.object(preference, "REFERENCE_TOKENS", 200):
        known.start(place, load_model(folder / "assistant")[0])
    return known._reference


def test_ranks_share_the_work_of_the_reference_and_all_know_it(tmp_path: Path) -> None:
    save_assistant(tmp_path / "assistant")
    join_alone()
    alone = references(str(tmp_path))
    assert alone["train"].shape == (9, 2) and bool((alone["train"] < 0).all())
    for ranks in together(2, tmp_path, references, str(tmp_path)):
        assert all(torch.equal(ranks[name], alone[name]) for name in ("train", "validation"))
