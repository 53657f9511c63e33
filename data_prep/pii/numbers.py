"""Numbers with check digits or fixed ranges: payment cards, IBANs, US social security numbers, and national ids.

CREDIT_CARD  12 to 19 digits, undivided or divided as cards are, that begin with the range of an issuer, have a length that issuer
             uses, and pass Luhn's check (ISO/IEC 7812). Lengths that others use as well (12, 13, 14, 17 to 19) need a word such as
             "card" before them: barcodes have 13 digits, and one in ten passes Luhn's check.
IBAN         ISO 13616: the country's length and structure, and two check digits; in groups or not, capitals or not.
SSN          three, two and four digits with hyphens, in an area, group and series that are given out; without hyphens, or with other
             digits around it, only after words such as "social security".
NATIONAL_ID  see `data_prep.pii.identities`.

Confidence: 1 with a word that says so, 0.9 by check digits alone, 0.85 for an SSN by its form alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from data_prep.pii.spans import Span

# A number: digits with at most four separators between two of them.
SEPARATORS = " \xa0\u2009\u202f.()/\\-\u2010-\u2013"
NUMBER = re.compile(rf"[0-9](?:[{SEPARATORS}]{{0,4}}+[0-9])*+")
WORDS_CHARACTERS = 40  # how far before a number the word that names it may stand

_DATE = re.compile(r"(?:(?:19|20)[0-9]{2}[-./][0-9]{1,2}[-./][0-9]{1,2}|[0-9]{1,2}[-./][0-9]{1,2}[-./](?:19|20)[0-9]{2})(?: [0-9]{1,2})?")

_CARD = re.compile(
    r"(?<![0-9])(?<![0-9][.,])(?:[0-9]{4}([ \xa0-]?)(?:[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}|[0-9]{6}\1[0-9]{4,5})|[0-9]{12})(?![0-9])"
)
_CARD_WORDS = ("card", "visa", "amex", "maestro", "credit", "debit", " cc", "karte", "carte", "tarjeta", "cartão", "kort", "карт")
_SEVERAL_USES = frozenset((12, 13, 14, 17, 18, 19))
# First digits of an issuer's numbers as a range, and their lengths.
_ISSUERS = (
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),  # Mastercard
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),  # American Express
    ("300", "305", (14,)),  # Diners Club
    ("36", "36", (14, 16, 19)),  # Diners Club
    ("38", "39", (14, 16, 19)),  # Diners Club
    ("6011", "6011", (16, 19)),  # Discover
    ("644", "659", (16, 19)),  # Discover, RuPay
    ("3528", "3589", (16, 19)),  # JCB
    ("1800", "1800", (15,)),  # JCB
    ("2131", "2131", (15,)),  # JCB
    ("50", "50", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("56", "58", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("6304", "6304", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("639", "639", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("67", "67", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
    ("2200", "2204", (16,)),  # Mir
)

_SSN = re.compile(r"(?<![0-9-])([0-9]{3})([- ]?)([0-9]{2})\2([0-9]{4})(?![0-9-])")
_SSN_WORDS = ("ssn", "social security", "social sec", "soc. sec", "ss#", "ss #")

_IBAN = re.compile(r"[A-Za-z]{2}[0-9]{2}(?:[ \xa0-]?[A-Za-z0-9]){11,30}")


def words_before(text: str, start: int) -> str:
    """What is read before a number to learn what it is: up to 40 characters without a digit, in small letters."""
    before = text[max(0, start - WORDS_CHARACTERS) : start]
    if digit := _LAST_DIGIT.search(before):
        before = before[digit.end() :]
    return " " + before.lower()


_LAST_DIGIT = re.compile(r"[0-9](?=[^0-9]*\Z)")


def is_date(text: str, start: int, end: int) -> bool:
    """Whether the number text[start:end] is a date with the year in four digits, also with an hour: most long numbers are."""
    return end - start < 15 and bool(_DATE.fullmatch(text, start, end))


def cards(text: str, start: int, end: int) -> Iterator[Span]:
    """Payment cards in the number text[start:end]."""
    from stdnum import luhn

    for match in _CARD.finditer(text, start, end):
        digits = re.sub("[^0-9]", "", match[0])
        if not any(low <= digits[: len(low)] <= high and len(digits) in lengths for low, high, lengths in _ISSUERS):
            continue
        if not luhn.is_valid(digits):
            continue
        named = any(word in words_before(text, match.start()) for word in _CARD_WORDS)
        if named or len(digits) not in _SEVERAL_USES:
            yield Span(match.start(), match.end(), "credit_card", 1.0 if named else 0.9)


def ssns(text: str, start: int, end: int) -> Iterator[Span]:
    """US social security numbers in the number text[start:end]."""
    from stdnum.us import ssn

    for match in _SSN.finditer(text, start, end):
        named = any(word in words_before(text, match.start()) for word in _SSN_WORDS)
        whole = match[2] == "-" and match.span() == (start, end) and text[start - 1 : start] != "+"
        if (named or whole) and ssn.is_valid("-".join(match.group(1, 3, 4))):
            yield Span(match.start(), match.end(), "ssn", 1.0 if named else 0.85)


def iban(text: str, start: int) -> Iterator[Span]:
    """The IBAN whose two check digits are text[start:start+2], if there is one."""
    begin = start - 2
    country = text[max(0, begin) : start]
    if not (country.isascii() and country.isalpha()) or (begin > 0 and text[begin - 1].isalnum()):
        return
    length = _iban_length(country.upper())
    match = _IBAN.match(text, begin) if length else None
    if match is None:
        return
    end, left = begin, length
    while end < match.end() and left:
        left -= text[end].isalnum()
        end += 1
    if left or text[end : end + 1].isalnum():
        return
    from stdnum import iban as check

    if check.is_valid(text[begin:end].replace("\xa0", " ")):
        yield Span(begin, end, "iban", 1.0)


@functools.cache
def _iban_length(country: str) -> int:
    """Characters of an IBAN of this country, from the registry that stdnum holds; 0 where there are none."""
    from stdnum import numdb

    properties = numdb.get("iban").info(country)[0][1]
    return 4 + sum(map(int, re.findall("([0-9]+)!", properties["bban"]))) if "bban" in properties else 0
