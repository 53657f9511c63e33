"""Scores of a document's quality, and the verdicts that thresholds on them give.

>>> scores = score("Rain fell. The boat that he had built with his son lay at the quay.", "en")
>>> decide(scores)
'gopher_min_words'
>>> import dataclasses
>>> lenient = dataclasses.replace(Thresholds(), gopher_quality=GopherQualityThresholds(min_words=10), c4=C4Thresholds(min_sentences=2))
>>> decide(scores, lenient) is None
True
"""

from __future__ import annotations

from data_prep.function_words import find
from data_prep.quality import gopher, lines
from data_prep.quality.verdicts import DEFAULT, C4Thresholds, GopherQualityThresholds, Thresholds, decide
from data_prep.segment import segment

__all__ = ["C4Thresholds", "GopherQualityThresholds", "Thresholds", "decide", "score"]


def score(text: str, language: str, thresholds: Thresholds = DEFAULT) -> dict[str, float]:
    """All scores of one text but the classifier's, by name: those of Gopher's rules, then C4's and FineWeb's.

    language    its code, as `data_prep.language.identify` gives it: it decides about stop words and what a word is
    thresholds  their `lines` say which lines are cut before C4's and FineWeb's scores are taken
    """
    cut = segment([text])
    plain = lines.without_citations(text)
    measured = lines.measure(cut if plain == text else segment([plain]), [language])
    _, left = lines.judge(measured, [thresholds.of(language).lines])
    return {name: float(values[0]) for name, values in (gopher.measure(cut, find(cut), [language]) | left).items()}
