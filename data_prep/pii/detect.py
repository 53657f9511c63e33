"""Personal data in a text, of all kinds: one pass over its numbers, and one over its letters for each kind that needs it.

Most kinds are numbers or hold one, so every number of the text is found once and shown to all detectors of such kinds. The text
between two findings, or between placeholders, is read on its own: what touches a placeholder is no finding, and what stands before
it says nothing about what stands behind it. So scrubbing a scrubbed text changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from data_prep.pii import addresses, identities, internet, names, numbers, phones, secrets
from data_prep.pii.spans import DEFAULT_KINDS, PLACEHOLDER, Kind, Span, resolve

MIN_CONFIDENCE = 0.5


def find(
    text: str,
    language: str | None = None,
    *,
    kinds: Collection[Kind] = DEFAULT_KINDS,
    private_ips: bool = False,
    min_confidence: float = MIN_CONFIDENCE,
    names_model: str = names.MODEL,
) -> list[Span]:
    """The personal data of a text, in order and without overlaps.

    language        ISO 639-1 code: whose telephone numbers those without a country may be, and of what language the names are;
                    None: numbers of ten large countries, English names
    kinds           what to look for; `name` needs the extra `names`
    private_ips     also addresses of private networks
    min_confidence  spans below it are left out
    names_model     spaCy model of the names, a package or a folder

    >>> [(span.kind, span.start, span.end) for span in find("Mail joe@example.org or call +44 20 7946 0958.")]
    [('email', 5, 20), ('phone', 29, 45)]
    """
    settings = _Settings(language, frozenset(kinds), private_ips, names_model)
    found: list[Span] = []
    todo = list(_gaps(text, _Stretch(0, len(text), False, False), (match.span() for match in PLACEHOLDER.finditer(text))))
    while todo:
        stretch = todo.pop()
        inner = text[stretch.start : stretch.end]
        spans = [
            replace(span, start=span.start + stretch.start, end=span.end + stretch.start)
            for span in resolve(inner, (span for span in _detect(inner, settings) if span.confidence >= min_confidence))
            if not (stretch.cut_before and span.start == 0) and not (stretch.cut_behind and span.end == len(inner))
        ]
        if spans:
            found += spans
            todo += _gaps(text, stretch, ((span.start, span.end) for span in spans))
    return sorted(found)


@dataclass(frozen=True, slots=True)
class _Settings:
    language: str | None
    kinds: frozenset[Kind]
    private_ips: bool
    names_model: str


@dataclass(frozen=True, slots=True)
class _Stretch:
    """text[start:end], and whether a placeholder or a finding stands right before and right behind it."""

    start: int
    end: int
    cut_before: bool
    cut_behind: bool


def _gaps(text: str, stretch: _Stretch, cuts: Iterable[tuple[int, int]]) -> Iterator[_Stretch]:
    """What is left of a stretch between the cuts, as far as it holds a letter or digit."""
    start, cut_before = stretch.start, stretch.cut_before
    for begin, end in cuts:
        if any(map(str.isalnum, text[start:begin])):
            yield _Stretch(start, begin, cut_before, True)
        start, cut_before = end, True
    if any(map(str.isalnum, text[start : stretch.end])):
        yield _Stretch(start, stretch.end, cut_before, stretch.cut_behind)


def _detect(text: str, settings: _Settings) -> Iterator[Span]:
    """All spans that the detectors see, overlapping and in no order."""
    kinds, private_ips = settings.kinds, settings.private_ips
    if "email" in kinds:
        yield from internet.emails(text)
    if "credentials" in kinds:
        yield from internet.credentials(text)
    if "ip" in kinds:
        yield from internet.ipv6(text, private_ips)
    if "secret" in kinds:
        yield from secrets.secrets(text)
    if "name" in kinds:
        yield from names.names(text, settings.language or "en", settings.names_model)
    if kinds & _NUMBERED:
        for match in numbers.NUMBER.finditer(text):
            yield from _detect_number(text, match.start(), match.end(), settings)


_NUMBERED: frozenset[Kind] = frozenset(("credit_card", "iban", "ssn", "national_id", "ip", "phone", "address"))


def _detect_number(text: str, start: int, end: int, settings: _Settings) -> Iterator[Span]:
    """What the number text[start:end] is or belongs to."""
    kinds, characters = settings.kinds, end - start
    if characters > 5 and not numbers.is_date(text, start, end):
        if "ip" in kinds and text.count(".", start, end) > 2:
            yield from internet.ipv4(text, start, end, settings.private_ips)
        if "credit_card" in kinds and characters > 11:
            yield from numbers.cards(text, start, end)
        if "ssn" in kinds and characters > 8:
            yield from numbers.ssns(text, start, end)
        if "national_id" in kinds:
            yield from identities.identities(text, start, end)
        if "phone" in kinds:
            yield from phones.phones(text, start, end, settings.language)
    if text[start - 1 : start].isalpha():
        if "iban" in kinds:
            yield from numbers.iban(text, start)
        if "national_id" in kinds and text[max(0, start - 4) : start].isupper():
            yield from identities.lettered_identities(text, start, end)
    if "address" in kinds:
        yield from addresses.addresses(text, start, end)
