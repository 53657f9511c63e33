"""Thresholds on the scores, rules that cut lines, and the one place where scores and thresholds become a verdict.

A threshold is named `min_<score>` or `max_<score>`; the value itself still passes. The reason of a rejection is the group and the name
of the threshold that was missed (`gopher_min_words`), so it also says which setting to change. Values are FineWeb's (Penedo et al.
2024; datatrove's defaults), and for English only: `data_prep.quality.languages` has what differs in other languages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from data_prep.language import CODES
from data_prep.quality.languages import CHANGES

Share = Annotated[float, Meta(ge=0, le=1)]
Ratio = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]


def _require_codes(codes: Iterable[str]) -> None:
    for code in sorted({*codes} - {*CODES}):
        raise ValueError(f"languages: {code}: no code of the language model, which has {' '.join(CODES)}")


@dataclass(frozen=True)
class LanguageThresholds:
    languages: Annotated[tuple[str, ...], Meta(description="codes to keep, as the model gives them; none: any language")] = ("en",)
    min_score: Annotated[float, Meta(ge=0, le=1, description="how sure the language must be")] = 0.65
    buckets: Annotated[bool, Meta(description="write the documents of each language to a folder of its own")] = False

    def __post_init__(self) -> None:
        _require_codes(self.languages)


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
    min_words: Annotated[Count, Meta(description="words, symbols not counted")] = 50
    max_words: Count = 100_000
    min_mean_word_length: Annotated[Ratio, Meta(description="characters")] = 3.0
    max_mean_word_length: Annotated[Ratio, Meta(description="characters")] = 10.0
    max_hashes_per_word: Ratio = 0.1
    max_ellipses_per_word: Ratio = 0.1
    max_bullet_lines: Annotated[Share, Meta(description="share of lines that begin with a bullet")] = 0.9
    max_ellipsis_lines: Annotated[Share, Meta(description="share of lines that end in an ellipsis")] = 0.3
    min_alphabetic_words: Annotated[Share, Meta(description="share of words and symbols with a letter")] = 0.8
    min_stop_words: Annotated[Count, Meta(description="different stop words of the language; not asked where it has no list")] = 2

    def __post_init__(self) -> None:
        for name in ("words", "mean_word_length"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low > high:
                raise ValueError(f"min_{name} {low} is above max_{name} {high}, which rejects every document: set min_{name} <= max_{name}")


@dataclass(frozen=True)
class LineRules:
    """Which lines are cut, and with them all citation marks. What C4 and FineWeb ask is asked of the rest."""

    cut: Annotated[bool, Meta(description="false: nothing is cut, and all lines are asked about")] = True
    min_words: Annotated[Count, Meta(description="cut lines of fewer words, by white space")] = 3
    max_word_characters: Annotated[int, Meta(ge=1, description="cut lines with a longer word, by white space")] = 1_000
    javascript: Annotated[bool, Meta(description="cut lines that say javascript")] = True
    policies: Annotated[bool, Meta(description="cut lines on cookies, privacy policies and terms of use")] = True
    unfinished: Annotated[bool, Meta(description="cut lines that do not end in . ? ! or a quote, as C4 does and FineWeb does not")] = False
    max_foreign: Annotated[
        Share, Meta(description="cut paragraphs that are more surely in another language than the document; needs score.paragraphs")
    ] = 1.0
    short_characters: Annotated[Count, Meta(description="lines of at most so many characters are short ones")] = 30


@dataclass(frozen=True)
class C4Thresholds:
    min_sentences: Annotated[Count, Meta(description="sentences in the lines that stay")] = 5
    max_lorem_ipsum_lines: Annotated[Count, Meta(description="lines with lorem ipsum")] = 0
    max_curly_bracket_lines: Annotated[Count, Meta(description="lines with an opening curly bracket")] = 0


@dataclass(frozen=True)
class FineWebThresholds:
    min_punctuated_lines: Annotated[Share, Meta(description="share of lines that end in a punctuation mark")] = 0.12
    max_short_lines: Annotated[Share, Meta(description="share of short lines")] = 0.67
    max_duplicate_line_characters: Annotated[Share, Meta(description="share of characters in lines that repeat an earlier one")] = 0.01
    max_newlines_per_word: Annotated[Ratio, Meta(description="newlines between lines, to words and symbols")] = 0.3


@dataclass(frozen=True)
class ClassifierThresholds:
    min_score: Annotated[
        float, Meta(ge=-50, le=50, description="logarithm of the odds of being a positive, 0: even; not asked without a classifier")
    ] = -50.0
    top_fraction: Annotated[
        float,
        Meta(gt=0, le=1, description="share of the documents that pass all else to keep: those of the highest scores, and their equals"),
    ] = 1.0


@dataclass(frozen=True)
class Thresholds:
    """All thresholds, in the order in which they are asked; lines are cut between Gopher's and C4's.

    `by_language`: what differs, as {"de": {"gopher_max_mean_word_length": 12}}; added to what `data_prep.quality.languages` says.
    """

    language: LanguageThresholds = field(default_factory=LanguageThresholds)
    gopher_repetition: GopherRepetitionThresholds = field(default_factory=GopherRepetitionThresholds)
    gopher_quality: GopherQualityThresholds = field(default_factory=GopherQualityThresholds)
    lines: LineRules = field(default_factory=LineRules)
    c4: C4Thresholds = field(default_factory=C4Thresholds)
    fineweb: FineWebThresholds = field(default_factory=FineWebThresholds)
    classifier: ClassifierThresholds = field(default_factory=ClassifierThresholds)
    by_language: Annotated[
        Mapping[str, Mapping[str, float | bool]],
        Meta(description="code: {reason or lines_<rule>: value}, on top of what data_prep/quality/languages.py has"),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What holds for a language is part of the params, wherever it comes from.
        given = {str(code) for code, changes in self.by_language.items() if changes != CHANGES.get(code)}
        merged = {
            code: dict(CHANGES.get(code, {})) | dict(self.by_language.get(code, {})) for code in sorted({*CHANGES, *self.by_language})
        }
        object.__setattr__(self, "by_language", merged)
        _require_codes(given)
        for code in sorted(given):
            _changed(self, code)

    def of(self, language: str) -> Thresholds:
        """The thresholds for documents in one language. Raises ValueError for an unknown name or a value out of range."""
        return replace(self, **_changed(self, language))


DEFAULT = Thresholds()


def decide(scores: Mapping[str, float], thresholds: Thresholds = DEFAULT) -> str | None:
    """None for a document to keep, else the name of the first threshold that it misses: `gopher_max_duplicate_lines`, `c4_min_sentences` …

    `thresholds` are those for the document's language (`Thresholds().of("de")`). Only thresholds are asked whose score is there, and NaN
    (a score that does not apply) passes. `classifier.top_fraction` is a matter of all documents and never asked here.
    """
    return next((reason for reason, _ in missed(scores, limits(thresholds))), None)


@dataclass(frozen=True, slots=True)
class Limit:
    """One threshold: the reason of a rejection, the score, whether it is a lower bound, its value."""

    reason: str
    score: str
    least: bool
    value: float


def limits(thresholds: Thresholds) -> tuple[Limit, ...]:
    """All thresholds on scores, in the order in which they are asked."""
    found = []
    for group, prefix in _GROUPS.items():
        rules = getattr(thresholds, group)
        for limit in fields(rules):
            bound, _, name = limit.name.partition("_")
            if bound in ("min", "max"):
                found.append(Limit(f"{prefix}_{limit.name}", f"{prefix}_{name}", bound == "min", getattr(rules, limit.name)))
    return tuple(found)


def missed(scores: Mapping[str, float], asked: Iterable[Limit]) -> Iterator[tuple[str, str]]:
    """(reason, detail) of every threshold that the scores miss."""
    for limit in asked:
        value = scores.get(limit.score, math.nan)
        if value < limit.value if limit.least else value > limit.value:
            yield limit.reason, f"{value:.6g} {'<' if limit.least else '>'} {limit.value:g}"


# Groups of thresholds by the word that their reasons begin with.
_GROUPS = {
    "language": "language",
    "gopher_repetition": "gopher",
    "gopher_quality": "gopher",
    "c4": "c4",
    "fineweb": "fineweb",
    "classifier": "classifier",
}


def _changed(thresholds: Thresholds, language: str) -> dict[str, Any]:
    """The groups of thresholds that differ in a language."""
    values: dict[str, dict[str, float]] = {}
    for name, value in thresholds.by_language.get(language, {}).items():
        prefix, _, rule = name.partition("_")
        groups = [
            group for group, word in (*_GROUPS.items(), ("lines", "lines")) if word == prefix and hasattr(getattr(thresholds, group), rule)
        ]
        if not groups or rule in ("languages", "buckets", "top_fraction"):
            raise ValueError(f"by_language.{language}.{name}: no such threshold; use the reason of a rejection, or lines_<rule>")
        whole = type(getattr(getattr(thresholds, groups[0]), rule)) is int and float(value).is_integer()
        values.setdefault(groups[0], {})[rule] = int(value) if whole else value
    changed = {}
    for group, own in values.items():
        rules = getattr(thresholds, group)
        try:
            changed[group] = msgspec.convert({**asdict(rules), **own}, type(rules))
        except msgspec.ValidationError as error:
            raise ValueError(f"by_language.{language}: {group}: {error}") from None
    return changed
