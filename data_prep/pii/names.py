"""Names of persons, through Presidio: the extra `names`, and a spaCy model that the user has installed.

Nothing is downloaded. Long texts are read in parts cut at line ends, so memory does not grow with them. Confidence is Presidio's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from data_prep.pii.spans import Span
from pipeline.stage import UserError

MODEL = "en_core_web_lg"
_PART_CHARACTERS = 50_000


def names(text: str, language: str, model: str) -> Iterator[Span]:
    """Names of persons. Raises UserError where Presidio or the model is missing."""
    analyzer = _analyzer(language, model)
    start = 0
    while start < len(text):
        end = len(text)
        if end - start > _PART_CHARACTERS:
            end = text.rfind("\n", start, start + _PART_CHARACTERS) + 1
            end = end if end > start else start + _PART_CHARACTERS
        for result in analyzer.analyze(text=text[start:end], language=language, entities=["PERSON"]):
            yield Span(start + result.start, start + result.end, "name", float(result.score))
        start = end


@functools.cache
def _analyzer(language: str, model: str) -> Any:
    """One analyzer a process and language; loading its model takes seconds."""
    try:
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ImportError:
        raise UserError("scrub: kind `name` needs Presidio: pip install 'crawl2chat[names]', or leave it out of scrub.kinds") from None
    import spacy.util

    if not spacy.util.is_package(model) and not spacy.util.get_model_meta_path(model):
        raise UserError(f"scrub: the spaCy model {model} of the names is not installed: python -m spacy download {model}")
    configuration = {"nlp_engine_name": "spacy", "models": [{"lang_code": language, "model_name": model}]}
    engine = NlpEngineProvider(nlp_configuration=configuration).create_engine()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=[language])
