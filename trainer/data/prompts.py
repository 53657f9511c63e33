"""Verifiable prompts: a conversation whose next turn has one right answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.stage import UserError


@dataclass(frozen=True)
class Prompt:
    """A row of a prompt file; `answer` is what a verifier compares with."""

    id: str
    messages: tuple[Mapping[str, str], ...]
    answer: str
    kind: str

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: str) -> Prompt:
        """Raises UserError naming `where` when a field is missing or empty."""
        return cls(text_field(row, "id", where), conversation(row, where), text_field(row, "answer", where), row.get("kind") or "")


def text_field(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be text and not empty."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: `{name}` must be text that is not empty; mend or remove the row")
    return value


def conversation(row: Mapping[str, Any], where: str) -> tuple[Mapping[str, str], ...]:
    """The row's `prompt`: messages that end with a user's turn."""
    messages = row.get("prompt")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise UserError(f"{where}: `prompt` must be a list of messages; mend or remove the row")
    turns = tuple({"role": text_field(m, "role", where), "content": text_field(m, "content", where)} for m in messages)
    if turns[-1]["role"] != "user":
        raise UserError(f"{where}: `prompt` must end with a user's turn; it ends with {turns[-1]['role']!r}")
    return turns
