"""Thresholds on the scores, and the one place where scores and thresholds become a verdict.

A threshold is named `min_<score>` or `max_<score>`; the value itself still passes. The reason of a rejection is the name of the
threshold that was missed, so it also says which setting to change. Values are FineWeb's (Penedo et al. 2024; datatrove's defaults).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from msgspec import Meta

Share = Annotated[float, Meta(ge=0, le=1)]
Ratio = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class LanguageThresholds:
    languages: Annotated[tuple[str, ...], Meta(description="codes to keep, as the model gives them; none: any language")] = ("en",)
    min_score: Annotated[float, Meta(ge=0, le=1, description="probability of the language")] = 0.65


@dataclass(frozen=True)
class GopherRepetitionThresholds:
    max_duplicate_paragraphs: Annotated[Share, Meta(description="share of paragraphs that repeat an earlier one")] = 0.3
    max_duplicate_paragraph_characters: Annotated[Share, Meta(description="share of characters in such paragraphs")] = 0.2
    max_duplicate_lines: Annotated[Share, Meta(description="share of lines that repeat an earlier one")] = 0.3
    max_duplicate_line_characters: Annotated[Share, Meta(description="share of characters in such lines")] = 0.2
    max_top_2_gram: Annotated[Ratio, Meta(description="share of characters in the most frequent pair of words")] = 0.2
    max_top_3_gram: Annotated[Ratio, Meta(description="the same for three words")] = 0.18
    max_top_4_gram: Annotated[Ratio, Meta(description="the same for four words")] = 0.16
    max_duplicate_5_grams: Annotated[Share, Meta(description="share of characters in repeated runs of 5 words")] = 0.15
    max_duplicate_6_grams: Share = 0.14
    max_duplicate_7_grams: Share = 0.13
    max_duplicate_8_grams: Share = 0.12
    max_duplicate_9_grams: Share = 0.11
    max_duplicate_10_grams: Share = 0.1


@dataclass(frozen=True)
class GopherQualityThresholds:
    min_words: Annotated[int, Meta(ge=0, description="words, symbols not counted")] = 50
    max_words: Annotated[int, Meta(ge=0)] = 100_000
    min_mean_word_length: Annotated[Ratio, Meta(description="characters")] = 3.0
    max_mean_word_length: Annotated[Ratio, Meta(description="characters")] = 10.0
    max_hashes_per_word: Ratio = 0.1
    max_ellipses_per_word: Ratio = 0.1
    max_bullet_lines: Annotated[Share, Meta(description="share of lines that begin with a bullet")] = 0.9
    max_ellipsis_lines: Annotated[Share, Meta(description="share of lines that end in an ellipsis")] = 0.3
    min_alphabetic_words: Annotated[Share, Meta(description="share of words and symbols with a letter")] = 0.8
    min_stop_words: Annotated[int, Meta(ge=0, description="different stop words of the language; not asked where it has no list")] = 2

    def __post_init__(self) -> None:
        for name in ("words", "mean_word_length"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low > high:
                raise ValueError(f"min_{name} {low} is above max_{name} {high}, which rejects every document: set min_{name} <= max_{name}")


@dataclass(frozen=True)
class Thresholds:
    """All thresholds, in the order in which they are asked."""

    language: LanguageThresholds = field(default_factory=LanguageThresholds)
    gopher_repetition: GopherRepetitionThresholds = field(default_factory=GopherRepetitionThresholds)
    gopher_quality: GopherQualityThresholds = field(default_factory=GopherQualityThresholds)


def decide(language: str, scores: Mapping[str, float], thresholds: Thresholds) -> tuple[str, str] | None:
    """None for a document to keep, else (reason, detail) of the first threshold that it misses.

    `scores` holds `language_score` and the scores of `data_prep.quality.gopher`. NaN (a score that does not apply) passes.
    Reasons: `language`, `language_min_score`, `gopher_max_duplicate_lines`, `gopher_min_words` …
    """
    return next(_missed(language, scores, thresholds), None)


def _missed(language: str, scores: Mapping[str, float], thresholds: Thresholds) -> Iterator[tuple[str, str]]:
    if thresholds.language.languages and language not in thresholds.language.languages:
        yield "language", f"{language}, not {' or '.join(thresholds.language.languages)}"
    if scores["language_score"] < thresholds.language.min_score:
        yield "language_min_score", f"{language} {scores['language_score']:.6g} < {thresholds.language.min_score:g}"
    for rules in (thresholds.gopher_repetition, thresholds.gopher_quality):
        yield from _missed_limits("gopher", scores, rules)


def _missed_limits(prefix: str, scores: Mapping[str, float], limits: Any) -> Iterator[tuple[str, str]]:
    for limit in fields(limits):
        bound, name = limit.name.split("_", 1)
        value, threshold = scores[f"{prefix}_{name}"], getattr(limits, limit.name)
        if value < threshold if bound == "min" else value > threshold:
            yield f"{prefix}_{limit.name}", f"{value:.6g} {'<' if bound == 'min' else '>'} {threshold:g}"
