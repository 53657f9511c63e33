"""Verifiers: a completion in, a reward or no verdict out. An answer that cannot be judged is not a reward of 0."""

from __future__ import annotations


def stated_answer(text: str) -> str:
    """What a completion gives as its answer: the text after the last `;`, else all of it, stripped."""
    return text.rpartition(";")[2].strip()


def exact_answer(text: str, answer: str, finished: bool) -> float | None:
    """1.0 when the stated answer is `answer`, 0.0 when it is not, None when the completion was cut off before its stop token."""
    if not finished:
        return None
    return 1.0 if stated_answer(text) == answer.strip() else 0.0
