"""Two texts side by side, with what differs marked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

LINES, WORDS = 300, 400  # more of them are not compared: the time goes with their square
CONTEXT = 2  # equal lines shown before and after a difference
_WORDS = re.compile(r"\s+|[^\W_]+|.", re.DOTALL)

Part = tuple[str, bool]  # some text, and whether it is marked


@dataclass(frozen=True)
class Row:
    """A line on each side, in parts. `skipped` equal lines are left out where this row stands."""

    kind: Literal["same", "different", "skipped"]
    left: tuple[Part, ...] = ()
    right: tuple[Part, ...] = ()
    skipped: int = 0


def side_by_side(left: str, right: str) -> list[Row]:
    """The lines of both texts in rows; of long runs of equal lines only those next to a difference."""
    lines, others = (text.split("\n")[:LINES] for text in (left, right))
    rows: list[Row] = []
    for kind, first, last, other_first, other_last in SequenceMatcher(None, lines, others, autojunk=False).get_opcodes():
        if kind == "equal":
            rows += _equal(lines[first:last], at_start=first == 0, at_end=last == len(lines))
        else:
            rows += _different(lines[first:last], others[other_first:other_last])
    return rows


def _equal(lines: Sequence[str], at_start: bool, at_end: bool) -> Iterator[Row]:
    before, after = 0 if at_start else CONTEXT, 0 if at_end else CONTEXT
    if at_start and at_end:
        before = CONTEXT  # nothing differs: some lines to recognise the text by
    hidden = len(lines) - before - after
    if hidden <= 1:
        hidden, before = 0, len(lines)
    for line in lines[:before]:
        yield Row("same", ((line, False),), ((line, False),))
    if hidden:
        yield Row("skipped", skipped=hidden)
    for line in lines[before + hidden :]:
        yield Row("same", ((line, False),), ((line, False),))


def _different(left: Sequence[str], right: Sequence[str]) -> Iterator[Row]:
    for number in range(max(len(left), len(right))):
        if number >= len(left):
            yield Row("different", (), ((right[number], True),))
        elif number >= len(right):
            yield Row("different", ((left[number], True),), ())
        else:
            yield Row("different", *_words(left[number], right[number]))


def _words(left: str, right: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Two lines, with the words marked that only one of them has; all of both where they have too many or too little in common."""
    words: tuple[list[str], list[str]] = (_WORDS.findall(left), _WORDS.findall(right))
    if max(map(len, words)) <= WORDS:
        matcher = SequenceMatcher(None, words[0], words[1], autojunk=False)
        if matcher.ratio() > 0.4:
            parts: tuple[list[Part], list[Part]] = ([], [])
            for kind, first, last, other_first, other_last in matcher.get_opcodes():
                for side, own in enumerate((words[0][first:last], words[1][other_first:other_last])):
                    if own:
                        parts[side].append(("".join(own), kind != "equal"))
            return tuple(parts[0]), tuple(parts[1])
    return ((left, True),), ((right, True),)
