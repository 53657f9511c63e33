"""Multiple-choice questions: contexts, what may follow them, and which choice is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.stage import File, UserError, stem
from trainer.data.records import read_records
from trainer.data.sample_index import keyed_permutation

FORMS = (("good", "bad"), ("query", "choices", "gold"), ("context_options", "continuation", "gold"), ("context", "continuation"))


@dataclass(frozen=True)
class Choice:
    """`text` is scored after `context`; both together are what the model reads. A text that follows something begins with its space."""

    context: str
    text: str

    @classmethod
    def after(cls, context: str, text: str) -> Choice:
        """Joined by the white space the context ends with, else by one space where the text does not begin with any."""
        kept = context.rstrip()
        gap = context[len(kept) :] or ("" if text[:1].isspace() else " ")
        return cls(kept, gap + text)


@dataclass(frozen=True)
class Question:
    """The right choice is number `gold`. A question with one choice is right when that is what the model says, token by token.

    per_byte  whether the choices are also compared by log-probability per byte: answers to a question differ in length for
              no reason of their own
    where     file and row, for messages
    """

    choices: tuple[Choice, ...]
    gold: int
    per_byte: bool
    where: str

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: str) -> Question:
        """Read one of the forms; raises UserError, naming `where`, for any other.

        good, bad                            two whole sentences (BLiMP)
        query, choices, gold                 each choice after the query (ARC, PIQA, HellaSwag, …)
        context_options, continuation, gold  one continuation after each option (Winograd, WinoGrande)
        context, continuation                the one continuation (LAMBADA)
        """
        if _has(row, "good", "bad"):
            return cls(tuple(Choice("", _text(row, name, where)) for name in ("good", "bad")), 0, False, where)
        if _has(row, "query", "choices", "gold"):
            query = with_answer_mark(_text(row, "query", where))
            choices = tuple(Choice.after(query, text) for text in _texts(row, "choices", where))
            return cls(choices, _gold(row, len(choices), where), True, where)
        if _has(row, "context_options", "continuation", "gold"):
            text = _text(row, "continuation", where)
            choices = tuple(Choice.after(option, text) for option in _texts(row, "context_options", where))
            return cls(choices, _gold(row, len(choices), where), False, where)
        if _has(row, "context", "continuation"):
            return cls((Choice.after(_text(row, "context", where), _text(row, "continuation", where)),), 0, False, where)
        forms = " or ".join("+".join(form) for form in FORMS)
        raise UserError(f"{where}: no question; it has {', '.join(row)}, and should have {forms}")


def with_answer_mark(query: str) -> str:
    """A query with a line "Question: …" that does not end with "Answer:" gets that line, as such sets are usually put."""
    if any(line.startswith("Question:") for line in query.splitlines()) and not query.rstrip().endswith("Answer:"):
        return query.rstrip() + "\nAnswer:"
    return query


def holds_questions(path: str) -> bool:
    """Whether the rows of a file have the fields of one of the forms, by its first row. UserError for a file that cannot be read."""
    return any(_has(read_records([path], [])[0], *form) for form in FORMS)


def load_questions(files: Sequence[File], at_most: int, seed: int) -> dict[str, list[Question]]:
    """The sets by name, a file each, named without its folder and endings; of each at most so many, drawn by the seed, in the file's order.

    UserError for a row that is no question and for two files of one name.
    """
    sets: dict[str, list[Question]] = {}
    for file in files:
        name = stem(file.name)
        if name in sets:
            raise UserError(f"{file.path}: there are two sets of questions named {name}; rename one")
        rows = read_records([file.path], [])
        chosen = sorted(keyed_permutation(len(rows), seed)[:at_most].tolist())
        sets[name] = [Question.from_row(rows[number], f"{file.path}, row {number + 1}") for number in chosen]
    return sets


def _has(row: Mapping[str, Any], *names: str) -> bool:
    return all(row.get(name) is not None for name in names)


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: `{name}` must be text that is not empty; mend or remove the row")
    return value


def _texts(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    values = row[name]
    if not isinstance(values, list) or len(values) < 2 or not all(isinstance(value, str) and value.strip() for value in values):
        raise UserError(f"{where}: `{name}` must be a list of two or more texts, none empty; mend or remove the row")
    return values


def _gold(row: Mapping[str, Any], choices: int, where: str) -> int:
    gold = row["gold"]
    if not isinstance(gold, int) or not 0 <= gold < choices:
        raise UserError(f"{where}: `gold` is {gold!r}; it must be the number of the right choice, 0 to {choices - 1}")
    return gold
