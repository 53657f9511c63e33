"""Keys, tokens and passwords: by the prefixes of those who issue them, by their form, or by the name they are assigned to.

ISSUED     keys of well-known services, whose prefixes and lengths their issuers document: confidence 1.
KEY BLOCK  a private key in PEM or OpenPGP armour, whole: confidence 1.
JWT        three parts in base64url of which the first decodes to a JSON object with `alg` (RFC 7519): confidence 1.
ASSIGNED   the value after `=`, `:` or `=>` behind a name such as `api_key` or `DB_PASSWORD`: a token of at least 8 characters, not
           a word of letters alone, no call, path or variable, and of an entropy of at least 3 bits a character (2.5 for
           passwords), which words and placeholders such as `xxxxxxxx` do not reach: confidence 0.8.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Iterator

from data_prep.pii.spans import Span

# Keys that are one token: letters, digits, `_`, `-`, `+`, `/`; at least 20 of them.
_ISSUED = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"A[KSBC][IC]A[A-Z2-7]{16}|"  # Amazon Web Services
    r"gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}|"
    r"glpat-[A-Za-z0-9_-]{20,64}|"  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{10,250}|"  # Slack
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,247}|"  # Stripe
    r"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}|"  # Google
    r"sk-ant-[A-Za-z0-9_-]{20,200}|"  # Anthropic
    r"sk-(?:proj-|svcacct-|admin-)?(?=[A-Za-z_-]{0,40}[0-9])[A-Za-z0-9_-]{32,200}|"  # OpenAI
    r"hf_[A-Za-z]{34}|"  # Hugging Face
    r"npm_[A-Za-z0-9]{36}|pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,1000}|"
    r"dop_v1_[a-f0-9]{64}|"  # DigitalOcean
    r"shp(?:at|ss|ca)_[a-fA-F0-9]{32}|"  # Shopify
    r"sq0(?:atp|csp)-[A-Za-z0-9_-]{22,43}|"  # Square
    r"key-[a-f0-9]{32}|"  # Mailgun
    r"dapi[a-f0-9]{32}"  # Databricks
    r")(?![A-Za-z0-9_])"
)
_TOKEN = bytes(ord("x") if (chr(byte).isalnum() and byte < 128) or chr(byte) in "_-+/" else ord(" ") for byte in range(256))
_TOKEN_CHARACTERS = 20
# Keys with dots or more around them, and what each holds for certain.
_ISSUED_IN_PARTS = (
    ("SG.", re.compile(r"(?<![A-Za-z0-9])SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")),  # SendGrid
    ("ya29.", re.compile(r"(?<![A-Za-z0-9])ya29\.[A-Za-z0-9_-]{20,1000}")),  # Google
    ("hooks.slack.com/", re.compile(r"(?<=hooks\.slack\.com/services/)T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{24}")),
    ("AccountKey=", re.compile(r"(?<=AccountKey=)[A-Za-z0-9+/]{86}==")),  # Azure
)

_KEY_BLOCK = "PRIVATE KEY"
_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
_KEY_CHARACTERS = 20_000  # of the longest block that is looked for
_KEY_BODY = re.compile(r"[A-Za-z0-9+/=\s]*+")  # a block that is cut off

_JWT = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{5,8000}\.[A-Za-z0-9_-]{10,2000}")

_ASSIGNED = re.compile(r"[:=]>?[ \t]{0,4}(?P<quote>[\"'`]?)(?P<value>[^\s\"'`<>,;(){}\[\]&:=/][^\s\"'`<>,;(){}\[\]&]{7,200})")
_NAME = re.compile(
    r"(?P<name>passw(?:or)?[dt]|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?key|encryption[_-]?key|"
    r"signing[_-]?key|credential)[A-Za-z_-]{0,20}[\"'`\]]{0,2}[ \t]{0,4}:?\Z",
    re.IGNORECASE,
)
_BEARER = re.compile(r"Bearer ([A-Za-z0-9._~+/-]{20,2000}={0,2})")
_WORD = re.compile(r"[A-Za-zÀ-ɏ_.\-:/$%@*]+\Z")


def secrets(text: str) -> Iterator[Span]:
    """Keys, tokens and passwords."""
    # Long tokens are found in an image of the text in which all of their characters are the same.
    image = text.encode("latin-1", "replace").translate(_TOKEN)
    at = image.find(b"x" * _TOKEN_CHARACTERS)
    if at >= 0:  # all but assigned secrets hold one
        yield from _issued_in_parts(text)
        yield from _key_blocks(text)
    while at >= 0:
        end = image.find(b" ", at)
        end = end if end >= 0 else len(image)
        for match in _ISSUED.finditer(text, at, end):
            yield Span(match.start(), match.end(), "secret", 1.0)
        at = image.find(b"x" * _TOKEN_CHARACTERS, end)
    for match in _ASSIGNED.finditer(text):
        if name := _NAME.search(text[max(0, match.start() - 40) : match.start()]):
            yield from _assigned(text, match, 2.5 if name["name"][0] in "pP" else 3.0)


def _issued_in_parts(text: str) -> Iterator[Span]:
    for sign, form in _ISSUED_IN_PARTS:
        if sign in text:
            for match in form.finditer(text):
                yield Span(match.start(), match.end(), "secret", 1.0)
    for match in _JWT.finditer(text) if "eyJ" in text else ():
        if _is_jwt_header(match[0].partition(".")[0]):
            yield Span(match.start(), match.end(), "secret", 1.0)
    for match in _BEARER.finditer(text) if "Bearer " in text else ():
        if _entropy(match[1]) >= 3 and not _WORD.match(match[1]):
            yield Span(match.start(1), match.end(1), "secret", 0.8)


def _key_blocks(text: str) -> Iterator[Span]:
    if _KEY_BLOCK not in text:
        return
    ends = [match.end() for match in _KEY_END.finditer(text)]
    index = stop = 0
    for begin in _KEY_BEGIN.finditer(text):
        if begin.start() < stop:
            continue
        while index < len(ends) and ends[index] < begin.end():
            index += 1
        whole = index < len(ends) and ends[index] - begin.end() <= _KEY_CHARACTERS
        body = _KEY_BODY.match(text, begin.end())
        stop = ends[index] if whole else body.end() if body else begin.end()
        if stop - begin.end() > 40:
            yield Span(begin.start(), stop, "secret", 1.0)


def _is_jwt_header(part: str) -> bool:
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error):
        return False
    return isinstance(header, dict) and "alg" in header


def _assigned(text: str, match: re.Match[str], bits: float) -> Iterator[Span]:
    value, quote, behind = match["value"].rstrip(".:!?"), match["quote"], text[match.end() : match.end() + 1]
    if behind == "(" or (quote and behind != quote) or len(value) < 8 or _WORD.match(value) or _is_reference(value):
        return
    if _entropy(value) >= bits:
        yield Span(match.start("value"), match.start("value") + len(value), "secret", 0.8)


def _is_reference(value: str) -> bool:
    """Whether a value names where the secret is: a variable, a path, a URL, a word in capitals with underscores."""
    name = value.replace("_", "")
    return value[0] in "$%*/.-@+" or "://" in value or "..." in value or (name.isupper() and name.isalpha())


def _entropy(value: str) -> float:
    """Bits a character of the distribution of its characters."""
    return -sum(number / len(value) * math.log2(number / len(value)) for number in Counter(value).values())
