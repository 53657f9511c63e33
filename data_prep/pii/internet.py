"""E-mail addresses, public IP addresses, and names with passwords in URLs, found by form alone.

EMAIL        local part, `@`, a domain with a top-level domain of letters; Latin letters only. File names such as `logo@2x.png` and
             `git@` are none. Also with `@` and dots written out in brackets: `joe (at) example [dot] org`.
IP           an address of the public Internet, as `ipaddress` knows it: private, loopback, link-local, documentation and multicast
             addresses name nobody and stay. Private and link-local ones are found if asked for.
             IPv4: four decimal numbers up to 255 without leading zeros, and no part of a longer dotted number or of a word
             (`v1.2.3.4`). Four numbers below 32 are a section or a version ("see 14.5.4.3") unless a word such as "IP", "host" or
             "DNS" stands before them: one address in 4,096 has such numbers.
             IPv6: all eight groups, or shortened with `::` and inside the allocated 2000::/3, since `add::bad` is C++ more often than
             an address.
CREDENTIALS  `name:password` before the `@` of a URL's host; the rest of the URL stays. `user:password` itself is none.

Confidence is that of the form: 1 where it can hardly be anything else, 0.9 for written-out addresses, 0.8 for IPv4 (four numbers
can also be a version).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from data_prep.pii.numbers import words_before
from data_prep.pii.spans import Span

_LATIN = "A-Za-z0-9À-ÖØ-öø-ɏ"
_LOCAL = re.compile(rf"[{_LATIN}_][{_LATIN}_%+'-]*(?:\.[{_LATIN}_%+'-]+)*\Z")
_LOCAL_CHARACTERS = 64  # RFC 5321, 4.5.3.1.1
_LABEL = rf"[{_LATIN}](?:[{_LATIN}-]{{0,61}}[{_LATIN}])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?:xn--[A-Za-z0-9-]+|[A-Za-z]{{2,24}})")
_FILE_ENDINGS = frozenset(("avif", "css", "gif", "html", "ico", "jpeg", "jpg", "js", "json", "pdf", "php", "png", "svg", "webp"))
_WRITTEN_AT = re.compile(r"[(\[{<]{1,2} ?(?:at|AT) ?[)\]}>]{1,2}")
_AT_BRACKET = (re.compile(r"at ?[)\]}>]"), re.compile(r"AT ?[)\]}>]"))  # a pattern that begins with plain text is found fast
_WRITTEN_DOT = r" ?(?:\.|[(\[{<] ?(?:dot|DOT|Dot|punkt|punto|point) ?[)\]}>]) ?"
_WRITTEN_DOMAIN = re.compile(rf" ?(?:{_LABEL}{_WRITTEN_DOT}){{1,5}}[A-Za-z]{{2,24}}\b")
_WRITTEN_LOCAL = re.compile(rf"[{_LATIN}_][{_LATIN}_%+'-]{{0,40}}(?:{_WRITTEN_DOT}[{_LATIN}_%+'-]{{1,40}}){{0,3}} ?\Z")

_VERSION_NUMBERS_BELOW = 32
_IP_WORDS = re.compile(r"\b(?:ip|ipv4|address|addr|adresse|host|server|nameserver|dns|ping|client|router|gateway|listen)\b")
_IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:(?:[0-9A-Fa-f]{0,4}:|(?<=::))")  # in every IPv6 address, and not in a time of day
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]++(\w?)")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_PRIVATE = [ipaddress.ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")]

_USERINFO_CHARACTERS = 400
_PASSWORD = re.compile(r"://[^\s/@:]{1,128}:[^\s/@]{1,256}\Z")  # what stands before the `@` of a URL with a password
_EXAMPLES = frozenset(("user", "username", "name", "login", "pass", "passwd", "password", "pwd", "secret", "token", "xxx", "xxxx"))
_USERINFO = re.compile(r"://([^\s/@:\[\]\"'<>?#]{1,128}:[^\s/@\"'<>?#\[\]]{1,256})@(?=[\w\[])")


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses."""
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        local = _LOCAL.search(text[max(0, at - _LOCAL_CHARACTERS) : at]) if domain else None
        if domain and local and _is_address(text, at, local[0], domain[0]):
            yield Span(at - len(local[0]), domain.end(), "email", 1.0)
        at = text.find("@", at + 1)
    for match in _WRITTEN_AT.finditer(text) if any(sign.search(text) for sign in _AT_BRACKET) else ():
        domain = _WRITTEN_DOMAIN.match(text, match.end())
        local = _WRITTEN_LOCAL.search(text[max(0, match.start() - _LOCAL_CHARACTERS) : match.start()]) if domain else None
        if domain and local:
            yield Span(match.start() - len(local[0]), domain.end(), "email", 0.9)


def _is_address(text: str, at: int, local: str, domain: str) -> bool:
    """Whether local@domain, by its form an e-mail address, is no file, no repository and no end of a URL's password."""
    file = domain.rpartition(".")[2].lower() in _FILE_ENDINGS
    return not (file or local == "git" or _PASSWORD.search(text[max(0, at - _USERINFO_CHARACTERS) : at]))


def credentials(text: str) -> Iterator[Span]:
    """Names with passwords in URLs."""
    at = text.find("://")
    while at >= 0:
        match = _USERINFO.match(text, at)
        if match and not _EXAMPLES.issuperset(match[1].lower().split(":")):
            yield Span(match.start(1), match.end(1), "credentials", 1.0)
        at = text.find("://", at + 3)


def ipv4(text: str, start: int, end: int, private: bool) -> Iterator[Span]:
    """IPv4 addresses in text[start:end], which must not begin or end inside a number."""
    for match in _IPV4.finditer(text, start, end):
        if text[match.end() : match.end() + 1].isalnum():  # what follows `end` belongs to the form, too
            continue
        try:
            address = ipaddress.IPv4Address(match[0])
        except ValueError:
            continue
        if _wanted(address, private) and not _is_version(text, match.start(), address):
            yield Span(match.start(), match.end(), "ip", 0.8)


def ipv6(text: str, private: bool) -> Iterator[Span]:
    """IPv6 addresses."""
    if not _COLONS.search(text):
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
        if _wanted(address, private) and (whole or address in _GLOBAL_UNICAST or not address.is_global):
            yield Span(match.start(), match.start() + len(form), "ip", 1.0)


def _wanted(address: ipaddress.IPv4Address | ipaddress.IPv6Address, private: bool) -> bool:
    if address.is_multicast:
        return False
    return address.is_global or (private and any(address in network for network in _PRIVATE))


def _is_version(text: str, start: int, address: ipaddress.IPv4Address) -> bool:
    return (
        address.is_global
        and max(address.packed) < _VERSION_NUMBERS_BELOW
        and not _IP_WORDS.search(words_before(text, start).rpartition("\n")[2])
    )
