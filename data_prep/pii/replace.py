"""Personal data replaced: by a placeholder of its kind, by a pseudonym, or by nothing.

placeholder  `[EMAIL]`: the kind in capitals
pseudonym    `[EMAIL:3f9a0c41d2e7]`: 48 bits of HMAC-SHA256 (RFC 2104) over kind and value, so the same value has the same pseudonym in
             all documents of one key, and without the key neither can be had from the other. Numbers are compared without
             separators, all but secrets without case. Of a million values two share a pseudonym with a probability of 0.2 %.
removal      nothing, and no second space where two would meet. What only the removal brings together (half a number on both
             sides) becomes a placeholder.

Each result is left unchanged by a second scrub.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Literal, assert_never

from data_prep.pii import names
from data_prep.pii.detect import MIN_CONFIDENCE, find
from data_prep.pii.spans import DEFAULT_KINDS, Kind, Span

Replacement = Literal["placeholder", "pseudonym", "removal"]
MIN_KEY_BYTES = 16


def scrub(
    text: str,
    language: str | None = None,
    *,
    replacement: Replacement = "placeholder",
    key: bytes = b"",
    kinds: Collection[Kind] = DEFAULT_KINDS,
    private_ips: bool = False,
    min_confidence: float = MIN_CONFIDENCE,
    names_model: str = names.MODEL,
) -> tuple[str, list[Span]]:
    """(the text with all personal data replaced, its spans in the text as it was).

    key     secret of the pseudonyms, at least 16 bytes; ValueError if it is shorter
    others  as in `find`

    >>> scrub("Mail joe@example.org or call +44 20 7946 0958.")[0]
    'Mail [EMAIL] or call [PHONE].'
    """

    def found(text: str) -> list[Span]:
        return find(text, language, kinds=kinds, private_ips=private_ips, min_confidence=min_confidence, names_model=names_model)

    spans = found(text)
    match replacement:
        case "placeholder":
            return _replaced(text, ((span, placeholder(span.kind)) for span in spans)), spans
        case "pseudonym":
            if len(key) < MIN_KEY_BYTES:
                raise ValueError(f"pseudonyms need a key of at least {MIN_KEY_BYTES} bytes, not {len(key)}")
            return _replaced(text, ((span, pseudonym(span.kind, text[span.start : span.end], key)) for span in spans)), spans
        case "removal":
            return _removed(text, spans, found)
        case _:
            assert_never(replacement)


def density(text: str, spans: Iterable[Span]) -> float:
    """The share of a text's characters that are personal data, 0 to 1."""
    return sum(span.end - span.start for span in spans) / max(1, len(text))


def placeholder(kind: Kind) -> str:
    """What stands for a value of this kind."""
    return f"[{kind.upper()}]"


def pseudonym(kind: Kind, value: str, key: bytes) -> str:
    """What stands for this value under this key."""
    digest = hmac.new(key, f"{kind}\0{_canonical(kind, value)}".encode("utf-8", "surrogatepass"), hashlib.sha256)
    return f"[{kind.upper()}:{digest.hexdigest()[:12]}]"


def _canonical(kind: Kind, value: str) -> str:
    """The form in which two ways to write one value are equal."""
    match kind:
        case "secret" | "credentials":
            return value
        case "ip":
            return ipaddress.ip_address(value).compressed if _is_ip(value) else value
        case "credit_card" | "iban" | "ssn" | "national_id" | "phone":
            return re.sub(r"[^\w+]", "", value).casefold()
        case "email" | "address" | "name":
            return " ".join(value.split()).casefold()
        case _:
            assert_never(kind)


def _is_ip(value: str) -> bool:
    """Whether the value is a whole address, and not what an overlap has left of one."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _replaced(text: str, replacements: Iterable[tuple[Span, str]]) -> str:
    parts, end = [], 0
    for span, word in replacements:
        parts += [text[end : span.start], word]
        end = span.end
    return "".join([*parts, text[end:]])


def _removed(text: str, spans: list[Span], found: Callable[[str], list[Span]]) -> tuple[str, list[Span]]:
    """The text without the spans, and all spans: those given and what their removal has brought together."""
    cuts = [(span.start - _spare_space(text, span), span.end) for span in spans]
    shorter = _replaced(text, ((replace(spans[0], start=start, end=end), "") for start, end in cuts))
    joined = found(shorter)
    if not joined:
        return shorter, spans
    starts, shift = [0], [0]  # from which character of the shorter text on, how many are missing before it
    for start, end in cuts:
        starts.append(start - shift[-1])
        shift.append(shift[-1] + end - start)
    wide = []
    for span in joined:
        begin = span.start + shift[bisect_right(starts, span.start) - 1]
        stop = span.end - 1 + shift[bisect_right(starts, span.end - 1) - 1] + 1
        wide.append(replace(span, start=begin, end=stop))
    outside = [span for span in spans if not any(other.start < span.end and span.start < other.end for other in wide)]
    return _replaced(shorter, ((span, placeholder(span.kind)) for span in joined)), sorted(outside + wide)


def _spare_space(text: str, span: Span) -> bool:
    """Whether the space before the span would be one too many behind it."""
    return text[span.start - 1 : span.start] == " " and text[span.end : span.end + 1] in (" ", "", "\n", ".", ",", ";", ":", "!", "?", ")")
