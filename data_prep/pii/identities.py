"""National identity numbers, where python-stdnum has a check for them: form, check digits, and the words that name them.

A number whose form and check digits together are hardly met by chance is found alone (confidence 0.9); any other needs one of its
words before it (1.0), since one in eleven numbers passes a check modulo 11.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from data_prep.pii.numbers import words_before
from data_prep.pii.spans import Span


@dataclass(frozen=True, slots=True)
class Identity:
    """A national number: its form as it is written, its check (a module of stdnum, or a function), and words that name it.

    `alone`: form and check suffice.
    """

    form: re.Pattern[str]
    check: str | Callable[[str], bool]
    words: tuple[str, ...]
    alone: bool = False

    def holds(self, number: str) -> bool:
        if callable(self.check):
            return self.check(number)
        return bool(importlib.import_module(f"stdnum.{self.check}").is_valid(number))


def _identity(form: str, check: str | Callable[[str], bool], words: str, alone: bool = False) -> Identity:
    return Identity(re.compile(rf"(?<![0-9A-Za-z]){form}(?![0-9A-Za-z])"), check, tuple(words.split("|")), alone)


# Where stdnum asks today's date, its verdict would change from day to day: these four use its arithmetic alone.


def _belgian(number: str) -> bool:
    digits = re.sub("[^0-9]", "", number)
    return any(97 - int(century + digits[:9]) % 97 == int(digits[9:]) for century in ("", "2"))


def _norwegian(number: str) -> bool:
    check: Any = importlib.import_module("stdnum.no.fodselsnummer")
    digits = re.sub("[^0-9]", "", number)
    return bool(digits[9] == check.calc_check_digit1(digits) and digits[10] == check.calc_check_digit2(digits))


def _swedish(number: str) -> bool:
    return _luhn(re.sub("[^0-9]", "", number)[-10:])


def _luhn(number: str) -> bool:
    return bool(importlib.import_module("stdnum.luhn").is_valid(re.sub("[^0-9]", "", number)))


def _by_form(number: str) -> bool:
    return True


_DAY, _MONTH = "(?:0[1-9]|[12][0-9]|3[01])", "(?:0[1-9]|1[0-2])"

IDENTITIES = (
    _identity(r"[0-9]{3}[- ]?[0-9]{3}[- ]?[0-9]{3}", "ca.sin", " sin |sin:|sin#|social insurance|assurance sociale"),
    _identity(r"9[0-9]{2}-[0-9]{2}-[0-9]{4}", "us.itin", "itin|taxpayer"),
    _identity(r"[0-9]{3}[- ]?[0-9]{3}[- ]?[0-9]{4}", "gb.nhs", "nhs"),
    _identity(r"[0-9]{3} ?[0-9]{3} ?[0-9]{2,3}", "au.tfn", "tfn|tax file"),
    _identity(r"[0-9]{7}[A-W][A-IW]?", "ie.pps", "pps"),
    _identity(r"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}", "de.idnr", "steuer-id|steuerident|idnr|tax id|steuerliche"),
    _identity(r"[0-9]{4} ?[0-9]{6}", "at.vnr", "svnr|sv-nr|sv-nummer|sozialversicherung|versicherungsnummer"),
    _identity(r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}", "ch.ssn", "ahv", alone=True),
    _identity(r"756[0-9]{10}", "ch.ssn", "ahv|avs|sozialversicherung"),
    _identity(r"[1-478] ?[0-9]{2} ?[01][0-9] ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", "fr.nir", "nir|insee|sécu", alone=True),
    _identity(r"[0-9]{2}\.?[0-9]{2}\.?[0-9]{2}[- ]?[0-9]{3}[-. ]?[0-9]{2}", _belgian, "rijksregister|national|niss|insz|registre"),
    _identity(r"[0-9]{4}\.?[0-9]{2}\.?[0-9]{3}", "nl.bsn", "bsn|burgerservice|sofinummer|sofi-nummer"),
    _identity(r"[0-9]{8}[ -]?[A-HJ-NP-TV-Z]", "es.dni", "dni|nif|documento nacional"),
    _identity(r"[XYZxyz][ -]?[0-9]{7}[ -]?[A-HJ-NP-TV-Z]", "es.nie", "nie", alone=True),
    _identity(r"[A-Z]{6}[0-9LMNPQRSTUV]{2}[A-EHLMPRST][0-9LMNPQRSTUV]{2}[A-Z][0-9LMNPQRSTUV]{3}[A-Z]", "it.codicefiscale", "fiscale", True),
    _identity(r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", "pt.nif", "nif|contribuinte"),
    _identity(r"[0-9]{11}", "pl.pesel", "pesel"),
    _identity(rf"(?:19|20)?[0-9]{{2}}{_MONTH}{_DAY}[-+]?[0-9]{{4}}", _swedish, "personnummer|pnr|personnr"),
    _identity(rf"{_DAY}{_MONTH}[0-9]{{2}} ?[0-9]{{5}}", _norwegian, "fødselsnummer|fødselsnr|personnummer|fnr", alone=True),
    _identity(rf"{_DAY}{_MONTH}[0-9]{{2}}-?[0-9]{{4}}", _by_form, "cpr|personnummer"),
    _identity(rf"{_DAY}{_MONTH}[0-9]{{2}}[-+A-FU-Y][0-9]{{3}}[0-9A-FHJ-NPR-Y]", "fi.hetu", "hetu|henkilötunnus", alone=True),
    _identity(rf"{_DAY}{_MONTH}[0-9]{{2}}-?[0-9]{{4}}", "is_.kennitala", "kennitala|kt."),
    _identity(r"[1-6][0-9]{2}[01][0-9][0-3][0-9]{5}", "ee.ik", "isikukood"),
    _identity(r"[1-6][0-9]{2}[01][0-9][0-3][0-9]{5}", "lt.asmens", "asmens"),
    _identity(r"[0-3][0-9][01][0-9]{3}-?[0-9]{5}", "lv.pvn", "personas kods"),
    _identity(r"[0-9]{6}/[0-9]{4}", "cz.rc", "rodné|rodne|r.č.|rč", alone=True),
    _identity(r"[0-9]{13}", "ro.cnp", "cnp"),
    _identity(r"[0-9]{10}", "bg.egn", "егн|egn"),
    _identity(r"[0-9]{11}", "hr.oib", "oib"),
    _identity(r"[0-9]{13}", "si.emso", "emšo|emso|jmbg|матични"),
    _identity(r"[0-9]{11}", "gr.amka", "amka|αμκα"),
    _identity(r"[0-9]{10,12}", "ru.inn", "инн"),
    _identity(r"[0-9]{10}", "ua.rntrc", "рнокпп|ідентифікаційн|іпн"),
    _identity(r"[0-9]{11}", "tr.tckimlik", "kimlik|t.c.|tc no"),
    _identity(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", "br.cpf", "cpf", alone=True),
    _identity(r"[0-9]{11}", "br.cpf", "cpf"),
    _identity(r"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}-[0-9Kk]", "cl.rut", "rut|run", alone=True),
    _identity(r"[0-9]{2}-[0-9]{8}-[0-9]", "ar.cuit", "cuit|cuil", alone=True),
    _identity(r"[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]", "mx.curp", "curp", alone=True),
    _identity(r"[0-9]{9}-?[0-9]", "ec.ci", "cédula|cedula"),
    _identity(r"[0-9]{3}-?[0-9]{7}-?[0-9]", "do.cedula", "cédula|cedula"),
    _identity(r"[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}", "in_.aadhaar", "aadhaar|aadhar|uid|आधार"),
    _identity(r"[A-Z]{5}[0-9]{4}[A-Z]", "in_.pan", " pan |pan:|permanent account"),
    _identity(r"[0-9]{5}-[0-9]{7}-[0-9]", "pk.cnic", "cnic|nic", alone=True),
    _identity(r"[1-9][0-9]{16}[0-9X]", "cn.ric", "身份证|id", alone=True),
    _identity(rf"[0-9]{{2}}{_MONTH}{_DAY}-[0-9]{{7}}", _by_form, "주민등록|rrn|resident registration"),
    _identity(r"[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}", "jp.in_", "マイナンバー|個人番号|my number"),
    _identity(rf"[0-9]{{2}}{_MONTH}{_DAY}-[0-9]{{2}}-[0-9]{{4}}", "my.nric", "nric|mykad|kad pengenalan", alone=True),
    _identity(r"[0-9]{16}", "id.nik", "nik|ktp"),
    _identity(r"[0-9]-[0-9]{4}-[0-9]{5}-[0-9]{2}-[0-9]", "th.pin", "ประชาชน", alone=True),
    _identity(r"[0-9]{8}-?[0-9]", "il.idnr", "ת.ז|תעודת זהות|teudat zehut|israeli id"),
    _identity(rf"[0-9]{{2}}{_MONTH}{_DAY} ?[0-9]{{4}} ?[01][89][0-9]", _luhn, "id number|identity|id no"),
)


_ALONE = tuple(identity for identity in IDENTITIES if identity.alone)
_LETTERED = tuple(identity for identity in IDENTITIES if "[A-Z]{" in identity.form.pattern)
_ANY_WORD = re.compile("|".join(re.escape(word) for identity in IDENTITIES for word in identity.words))


def identities(text: str, start: int, end: int) -> Iterator[Span]:
    """National numbers in the number text[start:end], with the letters that stand next to it."""
    before = words_before(text, start)
    return _matching(text, before, max(0, start - 2), end + 5, IDENTITIES if _ANY_WORD.search(before) else _ALONE)


def lettered_identities(text: str, start: int, end: int) -> Iterator[Span]:
    """National numbers that begin with several letters, of which text[start:end] are the first digits."""
    return _matching(text, words_before(text, start), max(0, start - 6), end + 12, _LETTERED)


def _matching(text: str, before: str, start: int, end: int, wanted: tuple[Identity, ...]) -> Iterator[Span]:
    for identity in wanted:
        for match in identity.form.finditer(text, start, end):
            named = any(word in before for word in identity.words)
            if (named or identity.alone) and not text[match.end() : match.end() + 1].isalnum() and identity.holds(match[0]):
                yield Span(match.start(), match.end(), "national_id", 1.0 if named else 0.9)
