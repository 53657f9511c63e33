"""The chat command: one answer for a question on the command line, and conversations in the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from assistants import save_assistant

from pipeline.stage import Artifact, File, UserError
from trainer.inference.chat import Assistant, ChatSettings, chat_command, converse
from trainer.inference.generator import generate
from trainer.inference.sampling import Sampling, derive_seed

QUESTION = [{"role": "user", "content": "What is 2+3?"}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("assistant")
    save_assistant(path)
    return path


def artifact(directory: Path) -> Artifact:
    files = tuple(File.of(path.name, str(path)) for path in sorted(directory.iterdir()) if path.is_file())
    return Artifact("sft", "0123456789abcdef", "digest", str(directory), files, {})


def test_a_question_prints_the_answer_and_nothing_else(directory, capsys):
    artifacts = {"tokenize": Artifact("tokenize", "00", "digest", str(directory), (), {}), "sft": artifact(directory)}
    chat_command(artifacts, ["What", "is", "2+3?"], ChatSettings(0.5, 0.9))
    said = capsys.readouterr().out
    assert said == "".join(Assistant.load(str(directory), Sampling(0.5, 0.9)).answer(QUESTION)) + "\n"


def test_pieces_join_to_the_text_of_the_generated_ids(directory):
    """Untrained models say byte soup: characters that span tokens, and bytes that are none."""
    assistant = Assistant.load(str(directory), Sampling(1.5))
    for number in range(5):
        messages = [{"role": "user", "content": f"What is {number}+3?"}]
        seed = derive_seed("chat", "user", messages[0]["content"])
        prompt, room = assistant.chat.prompt(messages), assistant.model.config.max_position_embeddings // 2
        [completion] = generate(
            assistant.model, [prompt], [seed], stop_ids=assistant.chat.stop_ids, max_new_tokens=room, sampling=Sampling(1.5)
        )
        assert "".join(assistant.answer(messages)) == assistant.tokenizer.decode(completion.text_ids())


def test_a_conversation_carries_its_turns_until_quit(directory):
    assistant, answers = Assistant.load(str(directory), Sampling(0.0)), io.StringIO()
    converse(assistant, io.StringIO("What is 2+3?\n\nAnd 4+5?\n/quit\nnever read\n"), answers)
    first = "".join(assistant.answer(QUESTION))
    second = "".join(assistant.answer([*QUESTION, {"role": "assistant", "content": first}, {"role": "user", "content": "And 4+5?"}]))
    assert answers.getvalue() == f"\n> {first}\n\n> \n> {second}\n\n> "


def test_a_new_conversation_forgets_the_old_one(directory):
    assistant, answers = Assistant.load(str(directory), Sampling(0.0)), io.StringIO()
    converse(assistant, io.StringIO("Hello!\n/new\nWhat is 2+3?\n"), answers)
    assert answers.getvalue().endswith("".join(assistant.answer(QUESTION)) + "\n\n> ")


def test_old_turns_are_forgotten_when_the_context_is_full(directory):
    assistant = Assistant.load(str(directory), Sampling(0.0))
    turns = [{"role": role, "content": "What is 10+11?"} for _ in range(12) for role in ("user", "assistant")]
    assert len(assistant.chat.prompt(turns)) > assistant.model.config.max_position_embeddings
    assert "".join(assistant.answer([*turns, *QUESTION]))


def test_a_message_longer_than_the_context_is_refused(directory):
    with pytest.raises(UserError, match="does not fit the model's context of 128"):
        list(Assistant.load(str(directory), Sampling()).answer([{"role": "user", "content": "1+1? " * 80}]))


def test_without_a_model_the_command_says_what_to_run(directory):
    with pytest.raises(UserError, match="no model has been built yet"):
        chat_command({"tokenize": Artifact("tokenize", "00", "digest", str(directory), (), {})}, ["hi"], ChatSettings())


def test_a_message_with_no_room_leaves_the_conversation_as_it_was(directory):
    assistant, answers = Assistant.load(str(directory), Sampling(0.0)), io.StringIO()
    converse(assistant, io.StringIO("and " * 5_000 + "\nWhat is 2+3?\n"), answers)
    said = answers.getvalue()
    assert "(/new begins another conversation)" in said and said.endswith("".join(assistant.answer(QUESTION)) + "\n\n> ")
