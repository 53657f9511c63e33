"""The `chat` command: talk to a model in the terminal, or ask it one question."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TextIO

from msgspec import Meta

from pipeline.stage import Artifact, UserError
from trainer.inference.sampling import Sampling, derive_seed

if TYPE_CHECKING:
    from data_prep.tokenizer import Tokenizer
    from trainer.data.chat import ChatFormat, Message
    from trainer.model.transformer import Transformer

QUIT = ("/quit", "/exit")
MAX_ANSWER_TOKENS = 256
GREETING = "Type a message; /new starts over, /quit leaves."


@dataclass(frozen=True)
class ChatSettings:
    """How answers are drawn."""

    temperature: Annotated[float, Meta(ge=0, description="of sampling; 0 takes the likeliest token")] = 0.7
    top_p: Annotated[float, Meta(gt=0, le=1, description="share of probability that may be drawn from")] = 0.95


def chat_command(artifacts: Mapping[str, Artifact], words: Sequence[str], settings: ChatSettings) -> None:
    """Answer the question in `words` and return; without words, talk until /quit or the end of input.

    `artifacts` are the run's, by stage in the order of the recipe: the last one that is a model is used. Raises UserError
    when there is none yet.
    """
    models = {stage: artifact for stage, artifact in artifacts.items() if is_model(artifact)}
    if not models:
        raise UserError(f"chat: no model has been built yet (built: {', '.join(artifacts) or 'nothing'}); run crawl2chat first")
    stage, artifact = list(models.items())[-1]
    assistant = Assistant.load(artifact.directory, Sampling(settings.temperature, settings.top_p))
    if words:
        for piece in assistant.answer([{"role": "user", "content": " ".join(words)}]):
            print(piece, end="", flush=True)
        print()
    else:
        print(f"{stage} {artifact.fingerprint[:12]}, temperature {settings.temperature}, top_p {settings.top_p}. {GREETING}")
        converse(assistant, sys.stdin, sys.stdout)


def is_model(artifact: Artifact) -> bool:
    """Whether the artifact is a Hugging Face model directory."""
    names = {file.name for file in artifact.files}
    return "config.json" in names and any(name.endswith(".safetensors") for name in names)


class Assistant:
    """A model that answers conversations in its own chat format."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, chat: ChatFormat, sampling: Sampling) -> None:
        self.model, self.tokenizer, self.chat, self.sampling = model, tokenizer, chat, sampling

    @classmethod
    def load(cls, directory: str, sampling: Sampling) -> Assistant:
        from data_prep.tokenizer import Tokenizer
        from trainer.data.chat import ChatFormat
        from trainer.model.hf import load_for_inference

        tokenizer = Tokenizer.load(directory)
        return cls(load_for_inference(directory), tokenizer, ChatFormat(tokenizer), sampling)

    def answer(self, messages: Sequence[Message]) -> Iterator[str]:
        """The answer to a conversation, piece by piece. The same conversation gives the same answer.

        When the conversation outgrows the model's context, its oldest turns are forgotten.
        """
        from trainer.inference.generator import stream

        context = self.model.config.max_position_embeddings
        room = min(MAX_ANSWER_TOKENS, context // 2)
        kept = list(messages)
        while len(prompt := self.chat.prompt(kept)) > context - room:
            if len(kept) == 1:
                raise UserError(f"chat: a message of {len(prompt)} tokens does not fit the model's context of {context}; shorten it")
            del kept[:2]
        seed = derive_seed("chat", *(part for message in kept for part in (message["role"], message["content"])))
        ids: list[int] = []
        shown = ""
        for token in stream(self.model, prompt, seed, stop_ids=self.chat.stop_ids, max_new_tokens=room, sampling=self.sampling):
            ids.append(token)
            text = self.tokenizer.decode(ids)
            # a character may span several tokens: wait until it is whole
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(shown) :]
                shown = text
        if ids and (text := self.tokenizer.decode(ids)) != shown:
            yield text[len(shown) :]


def converse(assistant: Assistant, questions: TextIO, answers: TextIO) -> None:
    """Read a message a line and stream the answers, until /quit or the end of input."""
    messages: list[Message] = []
    while True:
        print("\n> ", end="", file=answers, flush=True)
        line = questions.readline()
        message = line.strip()
        if not line or message in QUIT:
            return
        if message == "/new":
            messages = []
        elif message:
            pieces = []
            try:
                for piece in assistant.answer([*messages, {"role": "user", "content": message}]):
                    pieces.append(piece)
                    print(piece, end="", file=answers, flush=True)
            except UserError as error:  # a message with no room: the conversation so far stays
                print(f"{error} (/new begins another conversation)", file=answers, flush=True)
                continue
            print(file=answers, flush=True)
            messages += [{"role": "user", "content": message}, {"role": "assistant", "content": "".join(pieces)}]
