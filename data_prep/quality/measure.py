"""All that is measured of documents, several at a time: each is cut into words once for language, rules and classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from data_prep.function_words import find
from data_prep.language import UNDETERMINED, identify_all
from data_prep.quality import classifier, gopher, lines
from data_prep.quality.lines import Lines
from data_prep.segment import Segments, firsts, segment

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Numbers = NDArray[numpy.float64]

PARAGRAPH_CHARACTERS = 100  # a shorter paragraph is taken to be in the document's language


@dataclass(frozen=True, slots=True)
class Measured:
    """Languages [texts], scores by name [texts], lines of the texts without citation marks."""

    languages: list[str]
    scores: dict[str, Numbers]
    lines: Lines


def measure(texts: Sequence[str], characters: int, paragraphs: bool = False, weights: NDArray[numpy.float16] | None = None) -> Measured:
    """Measure some texts. What is found of one does not depend on the others.

    characters  of each text that the language model reads
    paragraphs  whether the language of every paragraph is wanted, for `Lines.foreign`
    weights     of a classifier, for classifier_score; without them it is NaN
    """
    import numpy

    cut = segment(texts)
    found = find(cut)
    identified = identify_all(cut, found, characters)
    languages = [code for code, _ in identified]
    scores = {"language_score": numpy.array([score for _, score in identified], numpy.float64)}
    scores |= gopher.measure(cut, found, languages)
    scores["classifier_score"] = numpy.full(len(texts), numpy.nan) if weights is None else classifier.score(cut, weights)

    plain = [lines.without_citations(text) for text in texts]
    changed = [number for number, (text, before) in enumerate(zip(plain, texts, strict=True)) if text != before]
    measured = lines.measure(cut, languages)
    if changed:
        again = lines.measure(segment([plain[number] for number in changed]), [languages[number] for number in changed])
        measured = lines.replaced(measured, changed, again)
    if paragraphs:
        measured = replace(measured, foreign=_foreign(segment(plain), languages, characters))
    return Measured(languages, scores, measured)


def _foreign(cut: Segments, languages: Sequence[str], characters: int) -> NDArray[numpy.float32]:
    """The score of the language of each line's paragraph where it is not the document's, else 0 [lines]."""
    import numpy

    parts = segment(cut.strings(cut.paragraphs))
    own = [languages[number] for number in cut.text_of(cut.paragraphs).tolist()]
    scores = [
        0.0 if code in (language, UNDETERMINED) or size < PARAGRAPH_CHARACTERS else score
        for (code, score), language, size in zip(identify_all(parts, find(parts), characters), own, parts.sizes.tolist(), strict=True)
    ]
    return numpy.repeat(numpy.array(scores, numpy.float32), numpy.diff(firsts(cut.lines, cut.paragraphs)))
