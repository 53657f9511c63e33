"""Spans of personal data: their kinds, and what becomes of two that overlap."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

# In order of precedence: where two overlap, the earlier kind has the place and the other keeps what is left of it.
Kind = Literal["secret", "credentials", "email", "credit_card", "iban", "ssn", "national_id", "ip", "phone", "address", "name"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DEFAULT_KINDS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "name")  # names need a model

# `[EMAIL]`, or `[EMAIL:3f9a0c41d2e7]` for a pseudonym. No form of any kind of personal data, no markup, no control token.
PLACEHOLDER = re.compile(rf"\[(?:{'|'.join(kind.upper() for kind in KINDS)})(?::[0-9a-f]{{12}})?\]")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """text[start:end] is personal data of this kind; offsets in characters, confidence 0 to 1."""

    start: int
    end: int
    kind: Kind
    confidence: float


SURE = 0.75


def resolve(text: str, spans: Iterable[Span]) -> list[Span]:
    """The same characters as spans in order that do not overlap.

    Overlapping spans of one kind become one. Of two kinds the earlier in `KINDS` keeps its place, and any span with a confidence of
    at least 0.75 keeps it before any other. Of what must yield, those parts outside stay that hold a letter or digit.
    """
    groups: dict[tuple[bool, Kind], list[Span]] = {}
    for span in spans:
        groups.setdefault((span.confidence < SURE, span.kind), []).append(span)
    placed: list[Span] = []
    for unsure in (False, True):
        for kind in KINDS:
            if group := groups.get((unsure, kind)):
                free = list(_outside(text, _united(sorted(group)), placed))
                placed = sorted(placed + free) if placed else free
    return placed


def _united(spans: Iterable[Span]) -> Iterator[Span]:
    """Spans of one kind, in order; overlapping ones as one, of the higher confidence."""
    last: Span | None = None
    for span in spans:
        if last is not None and span.start < last.end:
            last = replace(last, end=max(last.end, span.end), confidence=max(last.confidence, span.confidence))
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def _outside(text: str, spans: Iterable[Span], placed: list[Span]) -> Iterator[Span]:
    """The parts of `spans` that no span of `placed` covers; both in order and each without overlaps."""
    index = 0
    for span in spans:
        while index < len(placed) and placed[index].end <= span.start:
            index += 1
        start, cut, other = span.start, False, index
        while other < len(placed) and placed[other].start < span.end:
            yield from _part(text, span, start, placed[other].start)
            start, cut, other = placed[other].end, True, other + 1
        if not cut:
            yield span
        else:
            yield from _part(text, span, start, span.end)


def _part(text: str, span: Span, start: int, end: int) -> Iterator[Span]:
    while start < end and not text[start].isalnum():
        start += 1
    while start < end and not text[end - 1].isalnum():
        end -= 1
    if start < end:
        yield replace(span, start=start, end=end)
