"""Multiple-choice questions: their forms, their ids, the scores of their choices, and how a training asks them."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from assistants import save_assistant
from transformers import AutoModelForCausalLM

from data_prep.tokenizer import Tokenizer
from pipeline.stage import Artifact, File, UserError
from tests.data_prep.contexts import context
from tests.trainer.worlds import alone, pretraining, together, training
from trainer.data.questions import Choice, Question, holds_questions, load_questions, with_answer_mark
from trainer.engine import TrainRun
from trainer.model.config import ModelConfig
from trainer.model.hf import load_model
from trainer.model.transformer import Transformer
from trainer.multiple_choice import (
    Continuation,
    EncodedQuestion,
    Verdict,
    answer,
    continuations,
    encode_questions,
    judge,
    question_batches,
    scores,
)
from trainer.stages import PretrainParams, pretrain
from trainer.tasks.questions import Quiz, asked_counts, asked_terms
from trainer.tasks.task import Place

ROWS: list[dict[str, Any]] = [
    {"query": "Question: What is 2+3?", "choices": ["The user asks", "5", "6 and the assistant says 7"], "gold": 1},
    {"query": "What is 7+1? The answer is", "choices": ["8", "9"], "gold": 0},
    {"query": "What is 1?\nA. one\nB. two\nAnswer: ", "choices": ["A", "B"], "gold": 0},
    {
        "context_options": ["The user asks the user because the user", "The user asks because the assistant"],
        "continuation": "says 5.",
        "gold": 1,
    },
    {"good": "What is 3+4?", "bad": "What 3+4 is?"},
    {"good": "The user asks and says.", "bad": "The user asks and the assistant and the user asks and says."},
]
CLOZE = [{"context": "The user asks and the", "continuation": "assistant"}, {"context": "What is", "continuation": "2+3?"}]


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Transformer, Tokenizer]:
    directory = tmp_path_factory.mktemp("assistant")
    model, tokenizer, _ = save_assistant(directory, seed=3)
    return directory, model, tokenizer


def encoded(tokenizer: Tokenizer, rows: list[dict[str, Any]], context: int = 128) -> list[EncodedQuestion]:
    return encode_questions(tokenizer, [Question.from_row(row, f"row {number}") for number, row in enumerate(rows)], context)


def jsonl(path: Path, rows: list[dict[str, Any]]) -> File:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return File.of(path.name, str(path), len(rows))


def bigrams(vocabulary: int, likely: Mapping[tuple[int, int], float]) -> Transformer:
    """A model that looks at one token only: the log-odds of the next one are 0 but for the pairs (token, next) that are named."""
    width = 2 * math.ceil(vocabulary / 2)
    config = ModelConfig(hidden_size=width, num_hidden_layers=1, num_attention_heads=1, head_dim=8, tie_word_embeddings=False)
    model = Transformer(replace(config, intermediate_size=16).resolved(vocabulary))
    with torch.no_grad():
        for parameter in (model.model.layers[0].self_attn.o_proj, model.model.layers[0].mlp.down_proj):
            parameter.weight.zero_()
        # the norm makes √width of the single 1
        model.model.embed_tokens.weight.copy_(torch.eye(vocabulary, width))
        model.lm_head.weight.zero_()
        for (token, following), odds in likely.items():
            model.lm_head.weight[following, token] = odds / math.sqrt(width)
    return model.eval()


@pytest.mark.parametrize("tokens", [1, 64, 10_000])
def test_scores_are_those_of_transformers_one_choice_at_a_time(tokens: int, assistant: tuple[Path, Transformer, Tokenizer]) -> None:
    directory, model, tokenizer = assistant
    theirs = AutoModelForCausalLM.from_pretrained(directory).eval()
    questions = encoded(tokenizer, ROWS + CLOZE)
    found: dict[int, list[tuple[float, bool]]] = {}
    with torch.no_grad():
        for batch in question_batches(questions, tokens, torch.device("cpu")):
            pairs = iter(zip(*scores(model, batch), strict=True))
            for number in batch.numbers:
                found[number] = [next(pairs) for _ in questions[number].choices]
        for number, question in enumerate(questions):
            for choice, (log_prob, likeliest) in zip(question.choices, found[number], strict=True):
                logits = theirs(torch.tensor([choice.inputs])).logits[0, -len(choice.targets) :]
                targets = torch.tensor(choice.targets)
                naive = logits.log_softmax(-1).gather(1, targets[:, None]).sum().item()
                assert log_prob == pytest.approx(naive, abs=1e-5)
                if len(question.choices) == 1:
                    assert likeliest == bool((logits.argmax(-1) == targets).all())


def test_the_verdicts_do_not_depend_on_the_batches_and_are_the_same_twice(assistant: tuple[Path, Transformer, Tokenizer]) -> None:
    _, model, tokenizer = assistant
    questions = encoded(tokenizer, ROWS + CLOZE)
    assert answer(model, questions, 40) == answer(model, questions, 40) == answer(model, questions, 10_000)


def test_a_model_that_knows_the_answers_is_right_and_one_that_knows_others_is_wrong() -> None:
    # token 0 ends documents; 5 follows 4, 7 follows 6
    questions = [
        EncodedQuestion((Continuation((0, 4), (5,)), Continuation((0, 4), (9,))), 0),
        EncodedQuestion((Continuation((0, 4), (7,)), Continuation((0, 4), (5,))), 1),
        EncodedQuestion((Continuation((0, 6), (7,)),)),
        EncodedQuestion((Continuation((0, 3, 6), (6, 7)),)),
    ]
    model = bigrams(12, {(4, 5): 3.0, (6, 7): 3.0})
    right = [verdict.right for verdict in answer(model, questions, 100)]
    assert right == [True, True, True, False]  # nothing makes 6 follow 3
    assert [verdict.right for verdict in answer(bigrams(12, {(4, 9): 3.0, (4, 7): 4.0, (6, 8): 1.0}), questions, 100)] == [False] * 4
    with torch.no_grad():
        (batch,) = question_batches(questions[:1], 100, torch.device("cpu"))
        log_probs, _ = scores(model, batch)
    assert log_probs == pytest.approx([3 - math.log(math.exp(3) + 11), -math.log(math.exp(3) + 11)], abs=1e-4)  # but for the norm's epsilon


def test_a_model_of_english_order_is_right_about_the_good_sentence(assistant: tuple[Path, Transformer, Tokenizer]) -> None:
    tokenizer = assistant[2]
    questions = encoded(tokenizer, [ROWS[4]])
    good = questions[0].choices[0]
    assert good.inputs[0] == tokenizer.eos_id and (*good.inputs[1:], good.targets[-1]) == good.targets  # all of it is scored
    model = bigrams(tokenizer.vocab_size, dict.fromkeys(zip(good.inputs, good.targets, strict=True), 4.0))
    assert answer(model, questions, 100) == [Verdict(True, None)]


@pytest.mark.parametrize(
    ("log_probs", "sizes", "expected"),
    [
        ([-4.0, -6.0], (2, 12), Verdict(True, False)),  # longer, and likelier for each byte
        ([-6.0, -4.0], (12, 2), Verdict(False, True)),
        ([-4.0, -4.0], (2, 2), Verdict(False, False)),  # a tie tells nothing
        ([math.nan, -4.0], (2, 2), Verdict(False, False)),
        ([-1.0, -2.0], (), Verdict(True, None)),
    ],
)
def test_a_verdict_by_hand(log_probs: list[float], sizes: tuple[int, ...], expected: Verdict) -> None:
    choice = Continuation((0,), (1,))
    assert judge(EncodedQuestion((choice, choice), 0, sizes), log_probs, [True, True]) == expected


def test_choices_that_read_the_same_share_a_row() -> None:
    read = [((0, 4), (5,)), ((0, 4), (6,)), ((0, 4, 7), (7, 8)), ((0, 9), (5,))]
    question = EncodedQuestion(tuple(Continuation(*ids) for ids in read))
    assert question.rows == [(0, 4, 7), (0, 9)]
    (batch,) = question_batches([question], 1000, torch.device("cpu"))
    assert batch.inputs.tolist() == [[0, 4, 7], [0, 9, 0]]
    assert batch.places.tolist() == [1, 1, 1, 2, 4] and batch.owners.tolist() == [0, 1, 2, 2, 3]


def test_batches_keep_to_their_size_and_hold_every_question_once(assistant: tuple[Path, Transformer, Tokenizer]) -> None:
    questions = encoded(assistant[2], (ROWS + CLOZE) * 5)
    batches = question_batches(questions, 150, torch.device("cpu"))
    assert sorted(number for batch in batches for number in batch.numbers) == list(range(len(questions)))
    assert len(batches) > 3 and all(batch.inputs.numel() <= 150 or len(batch.questions) == 1 for batch in batches)


def test_context_and_choice_are_encoded_as_one_text(assistant: tuple[Path, Transformer, Tokenizer]) -> None:
    tokenizer = assistant[2]
    (found,) = continuations(tokenizer, [("The user ", "asks")], 128)
    assert found.targets == tuple(tokenizer.encode(" asks"))
    assert (*found.inputs, found.targets[-1]) == (tokenizer.eos_id, *tokenizer.encode("The user asks"))


def test_what_is_too_long_loses_its_beginning_or_is_refused(assistant: tuple[Path, Transformer, Tokenizer]) -> None:
    tokenizer = assistant[2]
    (whole,), (cut,) = (continuations(tokenizer, [("The user asks. " * 9, "What is 3+4?")], context) for context in (128, 12))
    assert cut.targets == whole.targets and cut.inputs == whole.inputs[-12:]
    with pytest.raises(UserError, match=r"row 0: a text of \d+ tokens does not fit the model's context of 4"):
        encoded(tokenizer, [ROWS[0]], context=4)


@pytest.mark.parametrize(
    ("context", "text", "joined"),
    [
        ("The sky is", "blue", ("The sky is", " blue")),
        ("Answer: ", "A", ("Answer:", " A")),
        ("Then\n", "go", ("Then", "\ngo")),
        ("Then", " go", ("Then", " go")),
    ],
)
def test_a_choice_is_joined_by_one_white_space(context: str, text: str, joined: tuple[str, str]) -> None:
    choice = Choice.after(context, text)
    assert (choice.context, choice.text) == joined


def test_a_question_gets_a_line_for_its_answer_where_it_has_none() -> None:
    assert with_answer_mark("Question: How?\n") == "Question: How?\nAnswer:"
    assert with_answer_mark("Passage: It is.\nQuestion: is it?") == "Passage: It is.\nQuestion: is it?\nAnswer:"
    for query in ("Predators eat", "Question: Which?\nA. one\nAnswer: ", "Q: Why?"):
        assert with_answer_mark(query) == query


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"question": "What?"}, "no question; it has question"),
        ({"query": "What?", "choices": ["a"], "gold": 0}, "`choices` must be a list of two or more texts"),
        ({"query": "What?", "choices": ["a", "b"], "gold": 2}, "`gold` is 2; it must be the number of the right choice, 0 to 1"),
        ({"query": " ", "choices": ["a", "b"], "gold": 0}, "`query` must be text that is not empty"),
        ({"good": "Yes.", "bad": 3}, "`bad` must be text"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(row: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match="here, row 1: ") as caught:
        Question.from_row(row, "here, row 1")
    assert complaint in str(caught.value)


def test_sets_are_drawn_by_the_seed_from_packed_lines_and_parquet(tmp_path: Path) -> None:
    rows = [{"good": f"{number} is.", "bad": f"is {number}."} for number in range(20)]
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    files = [File.of(name, str(tmp_path / name), 20) for name in ("packed.jsonl.gz", "table.parquet")]
    found = load_questions(files, 5, seed=1)
    assert list(found) == ["packed", "table"] and len(found["packed"]) == 5
    assert [question.choices for question in found["packed"]] == [question.choices for question in found["table"]]
    other = load_questions(files, 5, seed=2)["packed"]
    assert [question.choices for question in other] != [question.choices for question in found["packed"]]
    assert load_questions(files[:1], 20, seed=1)["packed"][7].where == f"{tmp_path / 'packed.jsonl.gz'}, row 8"
    assert all(holds_questions(file.path) for file in files)
    with pytest.raises(UserError, match="two sets of questions named packed"):
        load_questions([files[0], files[0]], 5, seed=1)


def test_prompts_are_no_questions(tmp_path: Path) -> None:
    prompt = {"id": "1", "prompt": [{"role": "user", "content": "2+3?"}], "answer": "5"}
    assert not holds_questions(jsonl(tmp_path / "prompts.jsonl", [prompt]).path)


def test_every_set_of_the_field_can_be_asked(shared_data: Path, assistant: tuple[Path, Transformer, Tokenizer]) -> None:
    _, small, tokenizer = assistant
    model = Transformer(replace(small.config, max_position_embeddings=1024))  # some choices have more tokens than 128
    files = [File.of(path.name, str(path)) for path in sorted((shared_data / "eval").glob("*.jsonl*"))]
    asked = load_questions(files, 8, seed=0)
    assert len(asked) == 14 and {len(questions) for questions in asked.values()} == {8}
    for questions in asked.values():
        assert len(answer(model, encode_questions(tokenizer, questions, 1024), 4096)) == 8


def quiz(directory: Path, tokenizer: Path) -> Quiz:
    files = (jsonl(directory / "choice.jsonl", ROWS[:3] * 4), jsonl(directory / "pairs.jsonl", ROWS[4:] * 3))
    return Quiz(files, str(tokenizer), at_most=9, tokens=128, seed=0)


def test_the_sums_of_a_quiz_do_not_depend_on_how_it_is_dealt(tmp_path: Path, assistant: tuple[Path, Transformer, Tokenizer]) -> None:
    directory, model, _ = assistant
    asked = quiz(tmp_path, directory)
    found = []
    for world in (1, 2, 3):
        sums: dict[str, float] = {}
        for rank in range(world):
            for batch in asked.batches(Place(rank, world, torch.device("cpu"), 4), model)[rank::world]:
                with torch.no_grad():
                    terms = asked_terms(model, batch)
                for name, value in (*asked_counts(batch).items(), *((name, float(term.numerator)) for name, term in terms.items())):
                    sums[name] = sums.get(name, 0.0) + value
        found.append(sums)
    assert found[0] == found[1] == found[2]
    names = {"choice_questions", "choice_accuracy", "choice_accuracy_per_byte", "pairs_questions", "pairs_accuracy"}
    assert set(found[0]) == names and (found[0]["choice_questions"], found[0]["pairs_questions"]) == (9, 6)
    assert 0 <= found[0]["choice_accuracy"] <= 9


def quizzed(directory: str, tokenizer: str) -> list[dict[str, Any]]:
    """The history of a training that is asked questions of two sets, which have low bytes only: the tiny vocabulary has their ids."""
    folder = Path(directory)
    rows = [{"query": "\x01", "choices": ["\n\x02", "\n\x03"], "gold": number % 2} for number in range(7)]
    files = (jsonl(folder / "q.jsonl", rows), jsonl(folder / "pair.jsonl", [{"good": "\x01\x02", "bad": "\x02\x01\x04"}]))
    task = pretraining(folder, quiz=Quiz(files, tokenizer, 9, 8, 0))
    return training(folder, task, TrainRun(zero=3, micro_batch=4), name="quizzed").state.history


def test_a_training_answers_its_quiz_at_every_validation(tmp_path: Path, assistant: tuple[Path, Transformer, Tokenizer]) -> None:
    history = alone(quizzed, str(tmp_path), str(assistant[0]))
    plain = alone(training, tmp_path, pretraining(tmp_path), TrainRun(zero=3, micro_batch=4))
    for entry, other in zip(history, plain.state.history, strict=True):
        asked = {name: entry["validation"].pop(name) for name in ("q_accuracy", "q_accuracy_per_byte", "pair_accuracy")}
        assert set(asked.values()) <= {0.0, 3 / 7, 4 / 7, 1.0} and entry == other


def test_questions_among_the_sources_of_a_pretraining_are_asked_as_many_as_it_says(
    tmp_path: Path, assistant: tuple[Path, Transformer, Tokenizer]
) -> None:
    part = pretraining(tmp_path).corpora[0]
    files = tuple(replace(file, records=1) for file in (*part.train, *part.validation, *part.tables))
    tokenizer = Artifact("tokenizer", "t", "t", str(assistant[0]), (), {"lineage": {}})
    sources = [jsonl(tmp_path / "choice.jsonl", ROWS[:3] * 4), jsonl(tmp_path / "pairs.jsonl", ROWS[4:])]
    ctx = context(pretrain, tmp_path / "stage", sources, corpus=replace(tokenizer, files=files), tokenizer=tokenizer)
    ctx.run = TrainRun(workers=0, zero=0)
    length: dict[str, Any] = {"max_steps": 2, "validate_every": 1, "sequence_length": 24, "batch_tokens": 96, "lr": 0.1, "warmup_steps": 1}
    shape = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=128)
    metrics = alone(lambda: pretrain(ctx, PretrainParams(model=shape, max_questions=7, seed=3, **length)))
    model = load_model(ctx.directory)[0]
    found = {}
    for name, questions in load_questions(sources, 7, seed=3).items():
        right = [verdict.right for verdict in answer(model, encode_questions(assistant[2], questions, 128), 1000)]
        found[f"{name}_accuracy"] = pytest.approx(sum(right) / len(questions))
    assert [entry["step"] for entry in metrics["history"]] == [0, 1, 2]
    assert all(found.keys() <= entry["validation"].keys() for entry in metrics["history"])
    assert found == {name: metrics["history"][-1]["validation"][name] for name in ("choice_accuracy", "pairs_accuracy")}


@pytest.mark.proof
def test_two_ranks_answer_as_one_at_zero_3(tmp_path: Path, assistant: tuple[Path, Transformer, Tokenizer]) -> None:
    (tmp_path / "one").mkdir()
    one, (two, other) = (
        alone(quizzed, str(tmp_path / "one"), str(assistant[0])),
        together(2, tmp_path, quizzed, str(tmp_path), str(assistant[0])),
    )
    assert two == other
    for ours, theirs in zip(one, two, strict=True):
        assert ours["validation"] == pytest.approx(theirs["validation"], abs=1e-5)
