"""Preferences: two answers to one prompt, rendered to ids, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.stage import UserError
from trainer.data.prompts import conversation, text_field

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Preference:
    """A row of a preference file. `chosen_pattern`, where a row has it, matches exactly the answers of the chosen style."""

    id: str
    prompt: tuple[Mapping[str, str], ...]
    chosen: str
    rejected: str
    chosen_pattern: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: str) -> Preference:
        """Raises UserError naming `where` when a field is missing, empty, or both answers are the same."""
        chosen, rejected = text_field(row, "chosen", where), text_field(row, "rejected", where)
        if chosen == rejected:
            raise UserError(f"{where}: chosen and rejected are the same text; a preference needs two different answers")
        return cls(text_field(row, "id", where), conversation(row, where), chosen, rejected, row.get("chosen_pattern"))


@dataclass(frozen=True)
class PairIds:
    """A preference as ids: the prompt, and either answer with its stop token."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def answer_rows(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts with their answers, padded on the right.

    Returns ids [rows, tokens] int64 and the mask [rows, tokens] bool of the answers' tokens, stop token included.
    """
    import torch

    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.full((len(pairs), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(pairs), longest), dtype=torch.bool)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor([*prompt, *answer])
        mask[row, len(prompt) : end] = True
    return ids, mask
