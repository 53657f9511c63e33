"""Telephone numbers: valid by the numbering plans of libphonenumber, or possible and named as such.

A candidate is a number of 6 to 15 digits with its `+`, brackets and extension that is no date, no amount and no part of a word, a
path or a decimal. It is a telephone number if

* it begins with `+` and its country's plan knows it (confidence 0.95) or has numbers of its length (0.8);
* a word such as "phone", "Fax" or "звоните" stands before it, or "office", "mobile" behind it: valid in a region of the language
  (0.9), or of any form (0.7), since half of the numbers that people write follow no plan: extensions, old numbers, typing errors;
* it is written as telephone numbers are (area code in brackets, or 3-3-4 digits, or groups after a leading 0) and valid in a region
  of the language (0.6).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from data_prep.pii.numbers import SEPARATORS, words_before
from data_prep.pii.spans import Span

MIN_DIGITS, MAX_DIGITS = 6, 15  # E.164 allows 15

# Regions whose plans are asked where the language is not known, and by language.
DEFAULT_REGIONS = ("US", "GB", "DE", "FR", "IT", "ES", "NL", "BR", "AU", "IN")
_REGIONS = {
    "en": ("US", "GB", "AU", "IN", "IE", "NZ", "ZA"), "de": ("DE", "AT", "CH"), "fr": ("FR", "BE", "CH", "CA"),
    "es": ("ES", "MX", "AR", "CO", "CL", "PE"), "pt": ("BR", "PT"), "it": ("IT", "CH"), "nl": ("NL", "BE"), "pl": ("PL",),
    "sv": ("SE", "FI"), "da": ("DK",), "no": ("NO",), "nb": ("NO",), "fi": ("FI",), "cs": ("CZ",), "sk": ("SK",), "hu": ("HU",),
    "ro": ("RO", "MD"), "bg": ("BG",), "el": ("GR", "CY"), "ru": ("RU", "KZ"), "uk": ("UA",), "tr": ("TR",), "ja": ("JP",),
    "zh": ("CN", "TW", "HK"), "ko": ("KR",), "hi": ("IN",), "id": ("ID",), "vi": ("VN",), "th": ("TH",), "he": ("IL",),
    "ar": ("SA", "EG", "AE"), "fa": ("IR",), "hr": ("HR",), "sl": ("SI",), "sr": ("RS",), "lt": ("LT",), "lv": ("LV",), "et": ("EE",),
}  # fmt: skip

# What names a number: a noun anywhere before it, a verb right before it or with "at", a letter; or a noun behind it.
_BEFORE = re.compile(
    r"(?:(?<![a-z])(?:(?:tele)?phone|(?:t[eé]l|ph|fon|cell)(?![a-z])|t[eé]l[eé]f|fono|fone|fax|mobil|m[oó]vil|cellular|handy|natel|gsm|"
    r"whatsapp|viber|sms|hotline|toll.?free|rufnummer|durchwahl|anruf|appele|llam|chiam|ligue|tlf|puh)|telefon|телефон|тел|факс|моб|звон|"
    r"电话|電話|手机|手機|"
    r"传真|傳真|전화|팩스|هاتف|تلفن|טלפון|โทร|τηλ)[^\n]{0,30}\Z|"
    r"(?<![a-z])(?:call|dial|ring|reach|contact|text|answering|bel(?:len)?)(?:ing)?"
    r"(?: (?:us|me|him|her|them|now|today)|(?: [^\n.!?]{0,30})?(?: (?:at|on|under|number|line|op)|:))?:?\s?\Z|"
    r"(?:phone|tel|telefon|telefono|fax|mobile|cell|telefax|number|hotline)\.?:?\s*\n\s*\Z|(?<![a-z])[ptfm][:.]\s*\Z"
)
_BEHIND = re.compile(
    r"[\s,;(]{0,2}[-–]?\s?(?:office|fax|mobile|mobil|cell|home|work|landline|toll.?free|tel|büro|privat|dienstlich)\b\.?(?=\s*(?:\Z|[\n,;|\\)]))",
    re.IGNORECASE,
)
_EQUATION = re.compile(r"\s?(?:[=×÷<>]|\*\s?[0-9])")
_EXTENSION = re.compile(r"(?:\s?(?:x|ext\.?|extn\.?|extension|durchwahl|dw|#)\s?:?\s?[0-9]{1,6})(?![0-9A-Za-z])", re.I)
_OPENING = re.compile(r"(?:\+ ?\(?|\( ?\+?)\Z")
_PIECES = re.compile(
    rf"\s{{2,}}|[{SEPARATORS}]{{3}}|(?<=[0-9])\s?/\s?(?=[0-9]{{5}})|(?<=[0-9])\s(?=\([0-9])|(?<=[0-9]{{4}})\s(?=0[0-9]{{2}})"
)
_DATE = re.compile(
    r"(?:(?:19|20)[0-9]{2}[-./\s]{1,2}[0-9]{1,2}[-./\s]{1,2}[0-9]{1,2}(?![0-9])|[0-9]{1,2}[-./][0-9]{1,2}[-./]\s?(?:(?:19|20)[0-9]{2}|[0-9]{2}\Z)|"
    r"(?:19|20)[0-9]{2}\s?[-–/]\s?(?:(?:19|20)?[0-9]{2})(?![0-9])|(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?![0-9]))"
)
_NO_PHONE = re.compile(
    r"[0-9]{5}-[0-9]{3,4}\Z|[0-9]{3}-[0-9]{2}-[0-9]{4}\Z|[0-9]{3}-[0-9]{4}\Z|0[0-9](?: [0-9]{2}){2,3}\Z|01 02 03"
)  # postcodes, calendars
_AMOUNT = re.compile(r"[0-9]{1,3}(?:\.[0-9]{3})+(?:-[0-9]*)?\Z|[0-9]+\.[0-9]+\Z|[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/[0-9]+)?\Z")
_WRITTEN = re.compile(
    r"\(?[2-9][0-9]{2}\)?[\s.–-]{1,3}[0-9]{3}[\s.–-]{1,3}[0-9]{4}\Z|1[\s.-][2-9][0-9]{2}[\s.-][0-9]{3}[\s.-][0-9]{4}\Z|"
    r"\(0[0-9]{1,5}\)[\s/–-]{0,3}[0-9][0-9\s.-]{4,}\Z|0[1-9][0-9]{1,4}(?:[\s/–-]{1,3}[0-9]{2,}){1,5}\Z|0[1-9](?:[\s.][0-9]{2}){4}\Z"
)
_NOT_BEFORE = frozenset("0123456789>$€£¥₹#=&%@_^~<\\|*+§№")
_NOT_BEHIND = frozenset("$€£¥₹%°_@=²³″\"'")


def phones(text: str, start: int, end: int, language: str | None = None) -> Iterator[Span]:
    """Telephone numbers in the number text[start:end]."""
    whole = _phone(text, start, end, language)
    if whole is not None:
        yield whole
        return
    cuts = [match.span() for match in _PIECES.finditer(text, start, end)]
    for cut, (stop, _) in enumerate([*cuts, (end, end)] if cuts else []):
        begin = cuts[cut - 1][1] if cut else start
        while begin < stop and text[begin] not in "(0123456789":
            begin += 1
        if (span := _phone(text, begin, stop, language)) is not None:
            yield span


def _phone(text: str, start: int, end: int, language: str | None) -> Span | None:
    digits = sum(map(str.isdigit, text[start:end]))
    if not MIN_DIGITS <= digits <= MAX_DIGITS:
        return None
    begin = start
    opening = _OPENING.search(text[max(0, start - 4) : start])
    if opening and ("+" in opening[0] or ")" in text[start:end]):
        begin -= len(opening[0])
    if not _free_before(text, begin):
        return None
    extension = _EXTENSION.match(text, end)
    stop = extension.end() if extension else end
    behind = text[stop : stop + 1]
    if behind.isalnum() or behind in _NOT_BEHIND or (behind in ":," and text[stop + 1 : stop + 2].isdigit()):
        return None
    sum_of_two = text[begin : begin + 2] == "+ " and text[max(0, begin - 2) : begin - 1].isdigit()
    if sum_of_two or _EQUATION.match(text, stop):
        return None
    number = text[begin:end]
    if _DATE.match(number) or (_AMOUNT.match(number) and digits < 10):
        return None
    confidence = _confidence(text, begin, stop, number, digits, language)
    return Span(begin, stop, "phone", confidence) if confidence else None


def _confidence(text: str, begin: int, stop: int, number: str, digits: int, language: str | None) -> float:
    named = bool(_BEFORE.search(words_before(text, begin)) or _BEHIND.match(text, stop))
    if not named and text[begin - 1 : begin] in ("-", "–") and text[begin - 2 : begin - 1].isalpha():
        return 0.0
    if "+" in number or (number.startswith("00") and digits > 9 and (named or not number.isdigit())):
        international = "+" + re.sub("[^0-9]", "", number).removeprefix("00") if "+" not in number else number
        if _valid(international, None):
            return 0.95
        if _possible(international) and (named or digits >= 9):
            return 0.8
    elif not named:
        written = digits >= 9 and _WRITTEN.match(number) and not _NO_PHONE.match(number)
        return 0.6 if written and _valid_somewhere(number, language) else 0.0
    if not named:
        return 0.0
    return 0.9 if _valid_somewhere(number, language) else 0.7


def _free_before(text: str, begin: int) -> bool:
    """Whether a number may begin here: not inside a word, a decimal, a path or an amount."""
    before, one = text[begin - 1 : begin], text[max(0, begin - 2) : begin - 1]
    if before.isalpha():
        return text[begin] == "+"
    if before in _NOT_BEFORE:
        return not before
    return not (before in "-–./,:" and one.isalnum() and (one.isdigit() or before == "/"))


def _valid_somewhere(number: str, language: str | None) -> bool:
    return any(_valid(number, region) for region in (_REGIONS.get(language, DEFAULT_REGIONS) if language else DEFAULT_REGIONS))


def _valid(number: str, region: str | None) -> bool:
    import phonenumbers

    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False


def _possible(number: str) -> bool:
    import phonenumbers

    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(number))
    except phonenumbers.NumberParseException:
        return False
