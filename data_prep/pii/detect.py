"""Personal data in text: e-mail addresses and public IP addresses, found by form alone, and replaced by typed placeholders.

EMAIL  local part, `@`, a domain with a top-level domain of letters; Latin letters only. File names such as `logo@2x.png` are none.
IP     an address of the public Internet, as `ipaddress` knows it: private, loopback, link-local, documentation and multicast addresses
       name nobody and stay.
       IPv4: four decimal numbers up to 255 without leading zeros, and no part of a longer dotted number or of a word (`v1.2.3.4`).
       Four numbers below 32 that begin a line are taken for a section ("14.5.4.3. Installing"): one address in 4,096 has such numbers.
       IPv6: all eight groups, or shortened with `::` and inside the allocated 2000::/3, since `add::bad` is C++ more often than an address.

Confidence is that of the form: 1 where it can hardly be anything else, 0.8 for IPv4 (four numbers can also be a version).
Placeholders are `[EMAIL]` and `[IP]`: no form of an address, no markup, no control token. What touches a placeholder is left alone,
so scrubbing twice is scrubbing once.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["email", "ip"]
PLACEHOLDERS: dict[Kind, str] = {"email": "[EMAIL]", "ip": "[IP]"}

_LATIN = "A-Za-z0-9À-ÖØ-öø-ɏ"
_LOCAL = re.compile(rf"[{_LATIN}_][{_LATIN}_%+'-]*(?:\.[{_LATIN}_%+'-]+)*\Z")
_LOCAL_CHARACTERS = 64  # RFC 5321, 4.5.3.1.1
_LABEL = rf"[{_LATIN}](?:[{_LATIN}-]{{0,61}}[{_LATIN}])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?:xn--[A-Za-z0-9-]+|[A-Za-z]{{2,24}})")
_FILE_ENDINGS = frozenset(("avif", "css", "gif", "html", "ico", "jpeg", "jpg", "js", "json", "pdf", "php", "png", "svg", "webp"))
_SECTION_NUMBERS_BELOW = 32
_IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
_TWO_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]++(\w?)")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """text[start:end] is personal data of this kind; offsets in characters, confidence 0 to 1."""

    start: int
    end: int
    kind: Kind
    confidence: float


def find(text: str) -> list[Span]:
    """The personal data of a text, in order and without overlaps: what overlaps becomes one span of the first one's kind."""
    spans: list[Span] = []
    for span in sorted([*_emails(text), *_ipv4(text), *_ipv6(text)]):
        if _touches_placeholder(text, span):
            continue
        if spans and span.start < spans[-1].end:
            spans[-1] = replace(spans[-1], end=max(spans[-1].end, span.end))
        else:
            spans.append(span)
    return spans


def scrub(text: str) -> tuple[str, list[Span]]:
    """(the text with every span replaced by its placeholder, the spans in the text as it was)."""
    spans = find(text)
    parts, end = [], 0
    for span in spans:
        parts += [text[end : span.start], PLACEHOLDERS[span.kind]]
        end = span.end
    return "".join([*parts, text[end:]]), spans


def _emails(text: str) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        local = _LOCAL.search(text[max(0, at - _LOCAL_CHARACTERS) : at]) if domain else None
        if domain and local and domain[0].rsplit(".", 1)[1].lower() not in _FILE_ENDINGS:
            yield Span(at - len(local[0]), domain.end(), "email", 1.0)
        at = text.find("@", at + 1)


def _ipv4(text: str) -> Iterator[Span]:
    for match in _IPV4.finditer(text):
        try:
            address = ipaddress.IPv4Address(match[0])
        except ValueError:
            continue
        if address.is_global and not address.is_multicast and not _is_section(text, match.start(), address):
            yield Span(match.start(), match.end(), "ip", 0.8)


def _is_section(text: str, start: int, address: ipaddress.IPv4Address) -> bool:
    begins_line = not text[text.rfind("\n", 0, start) + 1 : start].strip()
    return begins_line and max(address.packed) < _SECTION_NUMBERS_BELOW


def _ipv6(text: str) -> Iterator[Span]:
    if not _TWO_COLONS.search(text):
        return
    for match in _IPV6.finditer(text):
        form = text[match.start() : match.start(1)]
        if match[1]:  # what follows the last colon belongs to a word
            form = form[: form.rindex(":") + 1]
        if not form.endswith("::"):
            form = form.removesuffix(":")
        try:
            address = ipaddress.IPv6Address(form)
        except ValueError:
            continue
        whole = form.count(":") == 7 and "::" not in form
        if address.is_global and not address.is_multicast and (whole or address in _GLOBAL_UNICAST):
            yield Span(match.start(), match.start() + len(form), "ip", 1.0)


def _touches_placeholder(text: str, span: Span) -> bool:
    return any(text.endswith(word, 0, span.start) or text.startswith(word, span.end) for word in PLACEHOLDERS.values())
