"""One renderer from a conversation to token ids: for training, preferences, reinforcement learning and chatting.

    <|im_start|>role<|im_sep|>content<|im_end|>  … one turn after the other, nothing between them

or, with somebody else's tokenizer, as the marks it has are used (`data_prep.tokenizer.control`). The marks are control ids placed by
number; roles and contents are encoded as ordinary text, so no content can forge a turn. Trained are the contents of the assistant
and the mark that ends them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.tokenizer.control import CHAT_FORMATS, chat_marks
from pipeline.stage import UserError
from trainer.data.sample_index import IGNORED, Segment

if TYPE_CHECKING:
    from data_prep.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")

Message = Mapping[str, str]  # {"role": one of ROLES, "content": text}


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids, with whether each is trained on and in whose turn it stands (marks belong to their turn)."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    roles: tuple[str, ...]

    def segment(self) -> Segment:
        """Inputs and targets shifted by one, for training."""
        ids = np.array(self.ids, dtype=np.int64)
        return Segment(ids[:-1], np.where(np.array(self.trained[1:], dtype=bool), ids[1:], IGNORED))


class ChatFormat:
    """Renders with the marks of one tokenizer. Raises UserError where it has those of no format that is known."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        marks = chat_marks(tokenizer)
        if marks is None:
            wanted = ", or ".join(" ".join(known.control()) for known in CHAT_FORMATS)
            raise UserError(f"tokenizer: it has no chat format that is known: use one that has {wanted}")
        self._encode = tokenizer.encode

        def ids(*parts: str) -> list[int]:
            return [
                number for part in parts for number in ([tokenizer.control[part]] if part in marks.control() else tokenizer.encode(part))
            ]

        self._begin, self._start = ids(marks.begin), ids(marks.start)
        self._role_end, self._between = ids(*marks.role_end), ids(marks.between)
        self.end_id = tokenizer.control[marks.end]
        self.stop_ids = (self.end_id, tokenizer.eos_id)

    def render(self, messages: Sequence[Message], where: str = "conversation") -> Rendered:
        """A whole conversation, for training. Raises UserError, naming `where`, if nothing in it would be trained on."""
        ids: list[int] = []
        trained: list[bool] = []
        roles: list[str] = []
        for number, message in enumerate(messages):
            role, content = _checked(message, where)
            opening = self._opening(role, number)
            answer = [*self._encode(content), self.end_id]
            ids += opening + answer
            trained += [False] * len(opening) + [role == "assistant"] * len(answer)
            roles += [role] * (len(opening) + len(answer))
        if not any(trained):
            raise UserError(f"{where}: no turn of the assistant, so nothing to train on; add one or remove it")
        return Rendered(tuple(ids), tuple(trained), tuple(roles))

    def prompt(self, messages: Sequence[Message], where: str = "prompt") -> list[int]:
        """The conversation so far and an opened turn of the assistant, ready to generate."""
        ids: list[int] = []
        for number, message in enumerate(messages):
            role, content = _checked(message, where)
            ids += [*self._opening(role, number), *self._encode(content), self.end_id]
        return ids + self._opening("assistant", len(messages))

    def _opening(self, role: str, number: int) -> list[int]:
        """What stands before the content of turn `number`."""
        return [*(self._between if number else self._begin), *self._start, *self._encode(role), *self._role_end]


def _checked(message: Message, where: str) -> tuple[str, str]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise UserError(f"{where}: a message needs a role ({', '.join(ROLES)}) and a content that is text; this is {dict(message)!r:.200}")
    return role, content
