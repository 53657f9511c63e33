"""Intervals, style, and the table of models side by side."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from assistants import save_assistant
from hypothesis import given
from hypothesis import strategies as st

from data_prep.token_shards import IndexRow, TokenShardWriter, write_index
from pipeline.stage import File, Shard, Unit, UserError
from trainer.data.preferences import Preference
from trainer.evaluation import Share, cell, has_style, table
from trainer.examination import examine_shard
from trainer.rollout.records import merge_records, write_records
from trainer.stages import EvaluateParams, flat


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (500, 1000, 0.4691, 0.5309)],
)
def test_the_interval_is_wilsons(successes, total, low, high):
    assert Share(successes, total).interval == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_value_and_mirrors_failures(counts):
    successes, total = counts
    low, high = Share(successes, total).interval
    assert 0 <= low <= successes / total <= high <= 1 and low < high
    other_low, other_high = Share(total - successes, total).interval
    assert (1 - other_high, 1 - other_low) == pytest.approx((low, high), abs=1e-9)


def test_more_trials_make_the_interval_narrower():
    widths = [high - low for low, high in (Share(n // 4, n).interval for n in (40, 400, 4000))]
    assert widths == sorted(widths, reverse=True)


def test_style_is_the_rows_pattern_or_the_chosen_answer_itself():
    prompt = ({"role": "user", "content": "Which colour?"},)
    by_pattern = Preference("1", prompt, "The gate is red.", "red", r"^[A-Z]\S*( \S+){2,}\.$")
    assert has_style("Its colour is green.", by_pattern) and not has_style("red", by_pattern)
    without = Preference("1", prompt, "The gate is red.", "red")
    assert has_style(" The gate is red.", without) and not has_style("The gate is green.", without)


def test_the_table_has_a_row_for_each_model_and_a_column_for_what_was_measured():
    reports = {
        "pretrain": {"bits_per_byte": 0.8123, "greedy": None, "style": None},
        "grpo": {"bits_per_byte": 0.9, "greedy": Share(613, 1000).plain(), "style": None},
    }
    header, rule, first, second = table(reports).splitlines()
    assert header.split("|")[1:-1] == [" model    ", " bits per byte ", " right answers, greedy "]
    assert set(rule) == {"|", "-"} and len({len(line) for line in (header, rule, first, second)}) == 1
    assert "0.812" in first and "61.3 % (58.2–64.3)" in second


def test_a_cell_without_a_measurement_is_empty():
    assert cell(None) == "" and cell(0.5) == "0.500"


def jsonl(path: Path, rows: list[dict[str, object]]) -> File:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return File.of(path.name, str(path), len(rows))


def examined(directory: Path, home: Path, given: tuple[str, ...] = ("prompts", "preferences", "questions")) -> dict[str, Any]:
    """The report of an untrained assistant on three prompts, two preferences, two sets of questions and a held-out document."""
    tokenizer = save_assistant(directory)[1]
    asked = [[{"role": "user", "content": f"What is {number}+3?"}] for number in range(3)]
    prompts = [{"id": str(n), "prompt": prompt, "answer": str(n + 3)} for n, prompt in enumerate(asked)]
    pairs = [{"id": str(n), "prompt": prompt, "chosen": "The user asks.", "rejected": "no"} for n, prompt in enumerate(asked[:2])]
    text = "What is 2+3? The user asks and the assistant says 5.\n"
    ids = [*tokenizer.encode(text), tokenizer.eos_id]
    for folder in ("validation", "index"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    with TokenShardWriter(home / "validation" / "a.bin", tokenizer.vocab_size) as writer:
        writer.write(ids)
    write_index(home / "index" / "a.parquet", [IndexRow("doc", "validation", len(ids), len(text.encode()))])
    sums = [{"query": "What is 2+3?", "choices": ["5", "6", "the user asks", "8"], "gold": number % 4} for number in range(8)]
    sentences = [{"good": "What is 2+3?", "bad": "What 2+3 is?"}] * 3
    side = {"prompts/test.jsonl": jsonl(home / "prompts.jsonl", prompts), "preferences/test.jsonl": jsonl(home / "pairs.jsonl", pairs)}
    side |= {f"questions/{name}.jsonl": jsonl(home / f"{name}.jsonl", rows) for name, rows in (("sums", sums), ("order", sentences))}
    side = {name: file for name, file in side.items() if name.split("/")[0] in given}
    for name in ("validation/a.bin", "validation/a.idx", "index/a.parquet"):
        side[f"corpus/{name}"] = File.of(name, str(home / name))
    unit = Unit("sft", "digest", None, tuple(str(path) for path in directory.iterdir() if path.is_file()))
    result = examine_shard(Shard(unit, EvaluateParams(max_new_tokens=8), side, str(home / "out")))
    assert result.records == {"reports": 1}
    report: dict[str, Any] = json.loads((home / "out" / "reports" / "sft.json").read_text())
    return report


def test_a_model_is_examined_on_everything_and_twice_alike(tmp_path: Path) -> None:
    first, second = (examined(tmp_path / f"model-{number}", tmp_path / f"home-{number}") for number in range(2))
    assert first == second
    assert list(first) == ["bits_per_byte", "greedy", "sampled", "facts", "style", "questions"]
    sums, order = first["questions"]["sums"], first["questions"]["order"]
    # whatever it answers, the same answer is right to two of eight
    assert (sums["accuracy"]["value"], sums["accuracy_per_byte"]["value"], sums["accuracy"]["n"], sums["chance"]) == (0.25, 0.25, 8, 0.25)
    assert order["accuracy"]["value"] in (0.0, 1.0) and order["chance"] == 0.5 and list(order) == ["accuracy", "chance"]
    assert first["greedy"]["n"] == first["sampled"]["n"] == 3 and first["style"]["n"] == 2
    # an untrained model spends about log2(vocabulary) bits on a token
    assert 1 < first["bits_per_byte"] < 9


def test_what_is_not_given_is_not_measured(tmp_path: Path) -> None:
    assert list(examined(tmp_path / "model", tmp_path / "home", ("questions",))) == ["bits_per_byte", "questions"]
    with pytest.raises(UserError, match="no held-out prompts and no questions"):
        examined(tmp_path / "other", tmp_path / "nothing", ())


def test_sets_of_questions_have_a_table_of_their_own() -> None:
    asked = {"accuracy": Share(30, 40).plain(), "accuracy_per_byte": Share(20, 40).plain(), "chance": 0.25}
    reports = {"pretrain": {"bits_per_byte": 0.8, "questions": {"arc": asked}}, "sft": {"bits_per_byte": 0.9}}
    models, questions = table(reports).split("\n\n")
    assert len(models.splitlines()) == 4 and "questions" not in models
    rows = [[text.strip() for text in line.split("|")[1:-1]] for line in questions.splitlines()]
    assert rows[0] == ["questions", "n", "chance", "pretrain", "sft"]
    assert rows[2] == ["arc", "40", "25.0 %", "75.0 % (59.8–85.8)", ""]
    assert rows[3] == ["arc, per byte", "40", "25.0 %", "50.0 % (35.2–64.8)", ""]
    assert flat(reports["pretrain"]) == {"bits_per_byte": 0.8, "arc_accuracy": 0.75, "arc_accuracy_per_byte": 0.5}


def test_rollout_records_become_one_table_in_order(tmp_path: Path) -> None:
    drawn = {"ids": [7, 1], "log_probs": [-0.5, -0.1], "finished": True}
    row = {"sample": 0, "text": "5", "answer": "5", "reward": 1.0, "advantage": 0.5, **drawn}
    two_rows = [{"step": 1, "prompt": "b", **row}, {"step": 1, "prompt": "a", **row, "reward": None}]
    write_records(tmp_path, 1, 1, 2, two_rows[1:])  # drawn again below, by one rank alone
    write_records(tmp_path, 1, 0, 1, two_rows)
    write_records(tmp_path, 0, 1, 2, [{"step": 0, "prompt": "c", **row}])
    (tmp_path / "step-000002.rank-0000.7.tmp").write_text('{"cut')  # what a kill leaves behind
    assert merge_records(tmp_path, str(tmp_path / "first.parquet")) == 3
    found = pq.read_table(tmp_path / "first.parquet").to_pylist()
    assert [(one["step"], one["prompt"]) for one in found] == [(0, "c"), (1, "a"), (1, "b")]
    assert [one["reward"] for one in found] == [1.0, None, 1.0] and found[0]["ids"] == [7, 1]
    merge_records(tmp_path, str(tmp_path / "second.parquet"))
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()
