"""The adapter to lm-evaluation-harness: it finds what the project's own evaluation finds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from assistants import save_assistant
from transformers import AutoModelForCausalLM

pytest.importorskip("lm_eval", reason="needs the extra lm-eval")

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from trainer.data.questions import Question
from trainer.inference.harness import HarnessModel
from trainer.multiple_choice import answer, encode_questions

WORDS = ["The user asks", "5", "6", "What is", "the assistant says 8", "1+2"]
ROWS = [
    {"query": f"What is {a}+{b}?", "choices": [WORDS[(a + at * (b + 1)) % 6] for at in (0, 1, 3)], "gold": (a * b) % 3}
    for a in range(6)
    for b in range(4)
]  # fmt: skip
TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: query
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_bytes}}]
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_assistant(path, seed=3)
    return path


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=values) for values in arguments]


def test_the_harness_finds_the_accuracies_of_the_own_evaluation(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [row for row in ROWS if len({*row["choices"]}) == 3]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(TASK.format(path=tmp_path / "sums.jsonl"))
    found = simple_evaluate(
        model="crawl2chat", model_args=f"pretrained={directory},batch_size=2", tasks=["sums"], bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
    )  # fmt: skip
    model = HarnessModel(str(directory))
    encoded = encode_questions(model.tokenizer, [Question.from_row(row, "") for row in rows], model.max_length)
    verdicts = answer(model.model, encoded, 256)
    ours = {"acc,none": sum(v.right for v in verdicts), "acc_bytes,none": sum(bool(v.per_byte) for v in verdicts)}
    assert {name: found["results"]["sums"][name] * len(rows) for name in ours} == pytest.approx(ours)
    assert 0 < ours["acc,none"] < len(rows)


def test_log_probabilities_are_those_of_transformers(directory: Path) -> None:
    model, theirs = HarnessModel(str(directory)), AutoModelForCausalLM.from_pretrained(directory).eval()
    pairs = [("What is 2+3?", " The user asks"), ("", "What is"), ("The user ", "says 5."), ("What", "")]
    for (context, text), (log_prob, likeliest) in zip(pairs, model.loglikelihood(requests(*pairs)), strict=True):
        before, ids = (model.tokenizer.encode(words) for words in (context.rstrip(), context + text))
        with torch.no_grad():
            logits = theirs(torch.tensor([[model.tokenizer.eos_id, *ids]])).logits[0, len(before) : -1]
        targets = torch.tensor(ids[len(before) :], dtype=torch.long)
        assert log_prob == pytest.approx(logits.log_softmax(-1).gather(1, targets[:, None]).sum().item(), abs=1e-5)
        assert likeliest == bool((logits.argmax(-1) == targets).all())


def test_a_long_text_is_read_in_windows_that_predict_each_token_once(directory: Path) -> None:
    model = HarnessModel(str(directory), max_length=16)
    text = "What is 2+3? The user asks and the assistant says 5.\n" * 3
    ids = model.tokenizer.encode(text)
    windows = model._windows(ids)
    assert [token for window in windows for token in window.targets] == ids
    assert {len(window.inputs) for window in windows} == {16}  # the last one reads as far back as the others
    (found,) = model.loglikelihood_rolling(requests((text,)))
    assert found == pytest.approx(sum(value for value, _ in model._score(windows)))
    short = "What is 2+3?"
    assert model.loglikelihood_rolling(requests((short,))) == [model.loglikelihood(requests(("", short)))[0][0]]


def test_generation_is_greedy_and_ends_at_the_texts_that_end_it(directory: Path) -> None:
    model = HarnessModel(str(directory))
    (whole,) = model.generate_until(requests(("What is", {"until": [], "max_gen_toks": 12})))
    assert whole
    middle = whole[len(whole) // 2]
    found = model.generate_until(requests(("What is", {"until": [middle], "max_gen_toks": 12}), ("The", {"until": "", "max_gen_toks": 3})))
    assert found[0] == whole.split(middle)[0] and len(model.tokenizer.encode(found[1])) <= 3
