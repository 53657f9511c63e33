"""Street addresses: a street with its house number, and the unit, postcode and place that follow it.

Every address holds a number, so each number of a text is looked at with the 90 characters around it. It begins an address as

STREET    a house number before a name and a type of street ("667 Madison Avenue", "12 rue de Rivoli"), or after one ("Linienstraße
          13", "Via Dante 8", "ul. Zuchów 65"). Types that are also other words ("Court", "Platz") need a postcode, or the end of
          the line or a comma.
UNIT      "Apt. 12", "Suite 600" and the like, behind a line or words that hold a house number.
POSTCODE  of the US behind a state, of the UK by its form, of five digits behind a line that ends in a house number, and any
          that is named as one ("ZIP code is 96857").
BOX       a post office box, or military mail ("PSC 4926, Box 7979 APO AA 63682").
NAMED     a number with a name behind "address:", "lives at", "ship to" and the like.

The span goes on over a unit, and over at most three short parts without digits (place, state, country) if a postcode follows them.
Confidence: 0.95 with street and postcode, 0.8 for a street, a box or a British postcode, 0.6 for what only its surroundings make
an address. Made for addresses of the US, the UK and Germany; the common types of street of French, Italian, Spanish, Portuguese,
Dutch, Polish, Hungarian, Finnish and Scandinavian are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from data_prep.pii import address_words as words
from data_prep.pii.spans import Span

_WINDOW = 90

_WORD = r"[^\W\d_][\w'’.&/-]{0,24}+"
_QUOTE = r"(?:[>?*•|]{1,3} ?)?"  # what may begin each line of a quoted or listed address
_BREAK = rf"(?:,? ?\n[ \t]{{0,4}}(?:\n[ \t]{{0,4}})?{_QUOTE}(?:, ?)?|, ?| {{1,4}})"  # between two parts of an address
_HOUSE = r"[0-9]{1,5}[A-Za-z]?(?: ?[-–/] ?[0-9]{1,4}[A-Za-z]?)?"
_UNITS = rf"(?:(?:{words.UNITS})\.? ?(?:#?[0-9]{{1,5}}[A-Za-z]?|#?[A-Z]\b)|# ?[0-9]{{1,5}})"
_BEGIN = r"(?<![\w.,:/$€£-])"

_DIRECTION = r"(?:,? (?:[NS][EW]?|[EW]|North|South|East|West)\b\.?)?"
_NAME = rf"(?P<name>(?:(?:[0-9]{{1,3}}(?:st|nd|rd|th)|{_WORD}) ){{1,4}}?)"
_STREET = re.compile(rf" {_NAME}(?P<kind>{words.TYPES})\b\.?{_DIRECTION}", re.IGNORECASE)
_WEAK_STREET = re.compile(rf" {_NAME}(?P<kind>{words.WEAK_TYPES})\b\.?{_DIRECTION}(?=[,\n;)]|\Z)", re.IGNORECASE)
_WEAKEST_STREET = re.compile(rf" {_NAME}(?P<kind>{words.WEAKEST_TYPES})\b\.?{_DIRECTION}(?=[,\n;)]|\Z)", re.IGNORECASE)
_FRENCH = re.compile(
    rf"(?: ?bis| ?ter| ?quater)?,? (?:{words.FRENCH}) (?:(?:de|du|des|la|le|les|aux?) |[dl]['’]){{0,3}}(?P<name>{_WORD}(?:[ -]{_WORD})?)",
    re.IGNORECASE,
)
_NUMBER_SIGN = re.compile(r"[ ,]{1,2}(?:n[.°ºr]{1,2} ?|no[.:]{1,2} ?|nr\.? ?)?\Z", re.IGNORECASE)
_NO_HOUSE = frozenset(".:/$€£-_#=")
_HOUSE_LETTERS = tuple("abcdefghABCDEFGHr")
_TITLES = ("Dr", "St")
_ALL_DIGITS = re.compile("[0-9]+")
_ORDINALS = ("st", "nd", "rd", "th")
_ALL_SUFFIXES = words.SUFFIXES + words.WEAK_SUFFIXES
_LINE_ENDS = ("", ",", "-")
_UNIT_WORD = re.compile(rf"(?<![^\W_])(?:{words.UNITS})\.? ?#?\Z", re.IGNORECASE)
_UNIT_AFTER = re.compile(rf"{_BREAK}{_UNITS}(?![0-9A-Za-z])", re.IGNORECASE)
_BOX = re.compile(rf"(?<![^\W_])(?:{words.BOXES})(?: (?:no|nr)\.?)?:? ?\Z", re.IGNORECASE)
_MILITARY = re.compile(
    r"(?<![^\W_])(?:(?:PSC|Unit|CMR) [0-9]{1,5},? Box|(?:USN?S|USCGC|USNV) [\w'’ -]{2,30}\s{1,2}[FAD]PO A[AEP]) ?\Z", re.IGNORECASE
)
_MILITARY_TAIL = re.compile(r",?\s{1,3}[FAD]PO,? A[AEP] [0-9]{5}(?:-[0-9]{4})?(?![0-9])", re.IGNORECASE)
_BRITISH = re.compile(rf"(?<![A-Za-z0-9])(?:{words.BRITISH_AREAS})[0-9][0-9A-HJKMNPR-Y]? [0-9][ABD-HJLNP-UW-Z]{{2}}(?![A-Za-z0-9])")
_POSTCODE_NAMED = re.compile(r"(?<![^\W_])(?:zip|post(?:al)?|plz|postleitzahl|cep)[ -]?(?:code)?(?: is| ist)?\.?:? {0,3}\Z", re.IGNORECASE)
_NAMED = re.compile(rf"(?<![^\W_])(?:{words.NAMED})(?: the corner of)?:?\s{{1,12}}\Z", re.IGNORECASE)

_POSTCODE = (
    r"(?:[A-Z]{1,2}-)?(?:[0-9]{5}(?:-[0-9]{3,4})?|[0-9]{3} [0-9]{2}|[0-9]{6}|[0-9]{4}(?: [A-Z]{2}\b)?|"
    rf"(?:{words.BRITISH_AREAS})[0-9][0-9A-Z]? [0-9][A-Z]{{2}}|[A-Z][0-9][A-Z] [0-9][A-Z][0-9])"
)
_PLACE = rf"{_WORD}(?: {_WORD}){{0,4}}"
_TAIL = re.compile(rf"(?P<between>(?:{_BREAK}{_PLACE}){{0,3}}){_BREAK}(?:– )?(?P<code>{_POSTCODE})(?![0-9A-Za-z%€$:])")
_CITY = re.compile(rf" (?P<city>{_WORD})")
_STREET_LINE = re.compile(
    rf"(?<!\w)(?P<name>[^\W\d_][^\n\d,;:()]{{2,40}}) {_HOUSE}(?: \([^)\n]{{1,20}}\))?(?:, ?| ?,?\n[ \t]{{0,4}}{_QUOTE})(?:[A-Z]{{1,2}}-)?\Z"
)
_WORDS_WITH_HOUSE = re.compile(rf"{_BEGIN}[0-9]{{1,5}}[A-Za-z]?,? (?:(?:{_WORD}|[0-9]{{1,5}})\.?{_BREAK}){{1,6}}\Z")
_NAME_WITH_HOUSE = re.compile(rf"(?<![\w])(?:{_WORD} ){{1,4}}[0-9]{{1,5}}\.?{_BREAK}\Z")
_LEFT = re.compile(rf"{_BEGIN}(?:{_UNITS},? )?(?:{_HOUSE} )?(?P<name>(?:{_WORD} ){{0,2}})\Z", re.IGNORECASE)
_ORDINAL = re.compile(r" (?=[0-9]{1,3}\Z)")
_UNIT_FIRST = re.compile(rf"[0-9]{{1,5}}[A-Za-z]?,? {_HOUSE} {_PLACE}(?: {_HOUSE})?")
_ANY_NAME = re.compile(rf" (?P<name>{_WORD}(?: {_WORD}){{0,4}}?)(?: (?P<house>{_HOUSE})\b\.?|(?=[,.\n;)]|\Z))")


def addresses(text: str, start: int, end: int) -> Iterator[Span]:
    """The address that the number text[start:end] is part of; several numbers of one address give spans that overlap."""
    before = text[max(0, start - _WINDOW) : start]
    for seed in _seeds(text, before, start, end):
        begin, stop, confidence = seed
        left = _LEFT.search(text[max(0, begin - _WINDOW // 2) : begin])
        if left and (len(left[0]) > len(left["name"])) and all(map(_is_capital, left["name"].split())):
            begin -= len(left[0])
        if unit := _UNIT_AFTER.match(text, stop):
            stop, confidence = unit.end(), max(confidence, 0.8)
        stop, coded = _over_postcode(text, stop)
        if coded:
            confidence = 0.95
        if confidence >= 0.5:
            yield Span(begin, stop, "address", confidence)
            return


def _seeds(text: str, before: str, start: int, end: int) -> Iterator[tuple[int, int, float]]:
    """What the number can be the core of: begin, end, confidence as far as this part goes."""
    last = before[-1:]
    if last.isalpha():
        if british := _BRITISH.search(text, max(0, start - 2), end + 6):
            yield british.start(), british.end(), 0.8
        return
    # The word before the number says which of the patterns are worth trying.
    tail = before[-24:].rstrip(" .,:#°º\n\t")
    word = tail[max(tail.rfind(" "), tail.rfind("\n")) + 1 :].lstrip(">?*•|([").lower()
    behind = text[end : end + 1]
    if (behind in (" ", ",") or behind.isalpha()) and last not in _NO_HOUSE:
        yield from _after_house(text, before, word, start, end)
    if last and last in " .,°º#:\n" and end - start <= 11:
        yield from _before_house(text, before, word, start, end)
    yield from _postcode(text, before, word, start, end)


def _after_house(text: str, before: str, word: str, start: int, end: int) -> Iterator[tuple[int, int, float]]:
    """A house number before the name and type of a street, or before any name where an address is announced."""
    at = end + (text[end : end + 1] in _HOUSE_LETTERS and text[end + 1 : end + 2] in (" ", ","))
    if ordinal := _ORDINAL.search(text, start, end) if text[end : end + 2] in _ORDINALS else None:  # 4589 40th Street
        at = ordinal.start()
    if text[at : at + 1] not in (" ", ","):
        return
    one = text[at + 1 : at + 2]
    if one.isupper() or one.isdigit():
        # A year before a street, as in "the 2008 Wall Street crash", and a title ("20 Ask Dr. No") are no addresses.
        sure = (not _is_year(text[start:end]) or word == "at") and word not in words.MONTHS
        for street, confidence in ((_STREET, 0.8), (_WEAK_STREET, 0.7), (_WEAKEST_STREET, 0.4)):
            match = street.match(text, at)
            if match and (match["kind"].istitle() or (street is _STREET and match["kind"].isupper())) and _is_name(match["name"]):
                title = match["kind"] in _TITLES and text[match.end() : match.end() + 1] == " "
                ends = not title and _ends_part(text, match.end())
                yield start, match.end(), confidence if (sure and not title) or (ends and word not in words.MONTHS) else 0.4
    if (one.isalpha() or one == " ") and (match := _FRENCH.match(text, at)) and match["name"][0].isupper():
        yield start, match.end(), 0.8
    named = _ANY_NAME.match(text, at) if word in words.ANNOUNCING and _NAMED.search(before) else None
    if named and (named["house"] or all(map(_is_capital, named["name"].split()))):
        yield start, named.end(), 0.6


def _ends_part(text: str, at: int) -> bool:
    return at == len(text) or text[at] in ",\n;)"


def _is_year(number: str) -> bool:
    return len(number) == 4 and number[:2] in ("19", "20")


def _is_name(name: str) -> bool:
    return all(_is_capital(word) or word[0].isdigit() for word in name.split())


def _is_street_word(word: str) -> bool:
    return bool(word) and (_is_capital(word) or word[0].isdigit()) and "/" not in word and "," not in word


def _is_capital(word: str) -> bool:
    return word[0].isupper() or word.lower().rstrip(".") in words.SMALL


def _before_house(text: str, before: str, word: str, start: int, end: int) -> Iterator[tuple[int, int, float]]:
    """A house number behind a street, or the number of a unit or box."""
    if word in words.BOX_ENDS:
        if match := _BOX.search(before) or _MILITARY.search(before):
            tail = _MILITARY_TAIL.match(text, end)
            yield start - len(match[0]), tail.end() if tail else end, 0.8
    elif word in words.UNITS_ALONE and (unit := _UNIT_WORD.search(before)):
        head = before[: len(before) - len(unit[0])]
        line = _WORDS_WITH_HOUSE.search(head) or _NAME_WITH_HOUSE.search(head)
        if line and ("\n" in line[0] or len(_ALL_DIGITS.findall(line[0])) > 1 or all(_is_capital(word) for word in line[0].split()[1:])):
            yield start - len(unit[0]) - len(line[0]), end, 0.6
        elif (first := _UNIT_FIRST.match(text, start)) and (over := _over_postcode(text, first.end()))[1]:
            yield start - len(unit[0]), over[0], 0.6
    else:
        own_line = before[before.rfind("\n") + 1 :]
        stop = end + (text[end : end + 1].isalpha() and not text[end + 1 : end + 2].isalnum())
        ends = _ends_part(text, stop) and end - start < 5 and not _is_year(text[start:end])
        if found := _street_with(_NUMBER_SIGN.sub("", own_line), ends):
            at, confidence = found
            yield start - len(own_line) + at, stop, confidence


def _street_with(name: str, ends: bool) -> tuple[int, float] | None:
    """Where in the words before a house number the street begins, and how sure that is; `ends`: the house number ends its part."""
    parts = name.split()[-6:]
    small = [part.lower() for part in parts]
    if not words.PREFIXES.isdisjoint(small[:-1]):
        for at in range(len(parts) - 2, -1, -1):
            rest = parts[at + 1 :]
            if small[at] in words.PREFIXES and all(map(_is_street_word, rest[:-1])) and _is_street_word(rest[-1].rstrip(",")):
                return name.rindex(parts[at]), 0.8 if (parts[at][0].isupper() and ends) or small[at] in words.SURE_PREFIXES else 0.4
    if not parts or not small[-1].endswith(_ALL_SUFFIXES) or small[-1] in words.OTHER_NOUNS:
        return None
    alone = small[-1].rstrip(".") in words.ALONE
    if alone and len(parts) == 1:
        return None
    first = (parts[-2] if alone else parts[-1]).lstrip("„“”\"'‚‘«»([")
    if not first[:1].isupper() or first.lower() in words.ARTICLES:
        return None
    return name.rindex(first), 0.8 if "-" in first or small[-1].endswith(words.SUFFIXES) else 0.4


def _postcode(text: str, before: str, word: str, start: int, end: int) -> Iterator[tuple[int, int, float]]:
    """A postcode, with the street before it."""
    digits = end - start
    if word in words.POSTCODE_WORDS and _POSTCODE_NAMED.search(before):
        yield start, end, 0.8
    elif digits in (5, 10) and before[-3:-1] in words.STATES:
        if line := _WORDS_WITH_HOUSE.search(before):
            yield start - len(line[0]), end, 0.9
    elif digits in (4, 5) and text[end : end + 1] == " " and text[end + 1 : end + 2].isupper() and before[-2:].strip() in _LINE_ENDS:
        line = _STREET_LINE.search(before)
        no_code = _is_year(text[start:end]) or text[start:end].endswith("000")
        if line and not no_code and (name := _capitals(line["name"])):
            yield start - len(line[0]) + line["name"].rindex(name), _over_city(text, end), 0.8 if digits == 5 else 0.5


def _capitals(name: str) -> str:
    """The capitalised words that a name ends with, small words between them included; none if a month is among them."""
    parts = name.split(" ")
    first = len(parts)
    while first and parts[first - 1] and _is_capital(parts[first - 1]):
        first -= 1
    while first < len(parts) and not parts[first][0].isupper():
        first += 1
    return "" if any(part.lower().strip(".") in words.MONTHS for part in parts[first:]) else " ".join(parts[first:])


def _over_postcode(text: str, stop: int) -> tuple[int, bool]:
    """Where an address that has come to `stop` ends, and whether that is behind a postcode."""
    tail = _TAIL.match(text, stop)
    if tail is None:
        return stop, False
    place, code = re.findall(r"\w+", tail["between"]), tail["code"]
    even = all(map(_is_capital, place)) or all(map(str.islower, place)) or "\n" in tail["between"]
    if not even or words.MONTHS & {word.lower() for word in place}:
        return stop, False
    if len(code) == 4 and (place or _is_year(code)):  # a year, more often than a postcode of so few digits
        return stop, False
    return (tail.end() if place else _over_city(text, tail.end())), True


def _over_city(text: str, stop: int) -> int:
    city = _CITY.match(text, stop)
    return city.end() if city and city["city"][0].isupper() else stop
