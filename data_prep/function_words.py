"""The most frequent function words of many languages, and how to find them all in texts that are cut already.

They serve twice: the first eight of a language are the stop words of Gopher's rule (for English, its own eight), and together they tell
languages apart without the model. Each list is ordered by frequency, as far as one can say, and holds words as they stand between
spaces; languages without spaces have theirs found anywhere. `|` stands between spellings of one word. Codes are those of
`data_prep.language`.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_prep.segment import Segments, segment

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_LISTS = """
en  the be to of and that have with in is for was on as are it this by from at not which you they or were has their been
de  der die und in den von zu das mit ist nicht sich des auf für im dem ein eine als auch es an werden aus er hat dass sie nach wird bei
fr  de la le et les des en un du une est que dans qui par pour au il sur pas plus ne se avec ce sont
es  de la que el en y los del se las por un para con no una su al lo como más es sus pero fue
it  di e il la che in per un è del si una con non i da le della dei sono al come più gli ha nel
pt  de que e o a do da em para um com não uma os no se na por mais as dos como mas ao das foi são
nl  de van het een en in is dat op te zijn voor met die niet aan er om ook als bij door uit maar wordt
af  die van en in is ʼn het dat vir te op met nie aan wat sy om was ook hulle hy
sv  och att det som i en på är av för med den till inte ett om har de var jag men sig från vi kan ska
da  og det at i er en til på som af for med den de ikke har et der var han om sig men jeg også blev efter
no  og det i er på en som å til av for med at den ikke har de et var jeg men seg fra om også etter ble
nn  og det i er på ein som å til av for med at den ikkje har dei eit var eg men seg frå om også vart
is  og að í á sem er til við um með en af var hann ekki það eru fyrir frá hún
fi  ja on ei että se hän oli mutta joka ovat kun myös niin mukaan sen tai kuin vain hänen ole jos
et  ja on ei et see oli ka kui mis oma aga ta või seda siis nii mida
lt  ir kad su yra į iš tai ne buvo kaip bet jis apie ar jo už nuo po taip
lv  un ir ar no uz par kas tas to bija kā bet ka viņš vai pie arī lai
pl  w i na się nie z do to że jest jak o od po przez dla za ale są ma oraz który być tym jego
cs  a se v na je že to s z o do i ve pro za by ale jako si od po jsou které nebo jeho byl k
sk  a sa v na je že to s z o do aj vo pre za by ale ako si od po sú ktoré alebo jeho bol k
sl  in je v na se da za so ki pa s z ne po o tudi kot bi do ali ni iz od
bs  i je u na se da za su od kao s|sa o iz ne koji što|šta će ili ali po bio
hr  i je u na se da za su od kao s o iz ne koji što će ili ali po bio te
sr  и|i је|je у|u на|na се|se да|da за|za су|su од|od као|kao са|sa о|o из|iz не|ne који|koji што|što ће|će или|ili али|ali по|po био|bio
bg  на и в да от за се с е по са не че като които до при или но към той беше това
mk  на и во да од за се со е по не што како кои до или но тој беше ова
ru  и в не на что с он как это по я но его к из от за у же для был так она все
uk  і в на не що з та до як у це за від я він його для але по або є був ми про
be  і ў на не што з да як у гэта за ад я ён яго для але па або быў мы
ro  de și|şi în a la cu pe că nu un o din se mai pentru este care sau au prin fi ce lui sunt
hu  a az és hogy nem is egy meg volt ez de ha csak el mint már vagy még van ki azt
tr  ve bir bu için da de ile olarak çok daha gibi en olan ne var kadar sonra değil ki
az  və bir bu üçün da də ilə olan kimi daha çox ki ən
el  και το να του η της με που την από για τα στο είναι ο οι δεν τον των σε θα ένα
sq  dhe të në një për me që i e nga është si ka nuk më u së
ca  de la i que el a les en per un del amb una és no els al se dels com més són
gl  de que e a o do da en para un con non unha os no se na por máis as dos como é
eu  eta da ez bat du zen izan dira ere baina dute hau zuen edo
id  yang dan di itu dengan untuk tidak ini dari dalam akan pada juga ke karena ada saya oleh telah mereka adalah
ms  yang dan di itu dengan untuk tidak ini dari dalam akan pada juga ke kerana ada saya oleh telah mereka adalah ialah
tl  ang ng sa na ay mga at ni si hindi ko niya siya para may ito
vi  và của là có không được cho một trong các với người này đã những đó để khi từ
sw  na ya wa kwa ni katika la za cha hii kama yake hiyo au kuwa
ar  في من على إلى أن عن مع هذا التي الذي ما كان لا هذه بين أو كما قد بعد
fa  و در به از که این را با است برای آن یک خود تا بر هم می
ur  کے کی میں اور سے ہے کا کو اس نے پر کہ یہ ہیں تھا بھی
he  של את על לא זה עם הוא כי גם או היא אל כל אני יש אם היה בין
hi  के में की है और से का को पर इस हैं यह कि एक ने भी नहीं था
mr  आणि आहे या हे तो की ते एक नाही होते व हा
bn  এবং ও এই একটি না করে থেকে তার হয় জন্য সঙ্গে এ যে করা
ta  ஒரு மற்றும் என்ற இந்த என்று அல்லது உள்ள எந்த அது என இது அந்த இருந்து அவர் வேண்டும்
ko  이 수 그 있는 것 및 등 한 할 그리고 있다 위해 대한 있습니다 것이다
ka  და რომ არ ეს ის იყო თუ მისი
hy  և է որ են այդ համար մեջ եւ
zh  的 是 在 了 不 和 有 一 人 这
wuu 的 是 勒 辣 个 伊 我 侬
yue 嘅 係 喺 唔 咗 有 佢 同
ja  の に は を が と で た も て
th  ที่ และ ของ ใน เป็น ได้ มี ให้ ไม่ จะ ว่า การ
lo  ແລະ ຂອງ ໃນ ທີ່ ເປັນ ມີ ໃຫ້ ໄດ້
km  និង នៃ ក្នុង ដែល បាន ជា មាន ការ
my  သည် များ ကို နှင့် တွင် မှ ၏ ဖြစ်
"""
FUNCTION_WORDS: Mapping[str, tuple[str, ...]] = {words[0]: tuple(words[1:]) for words in map(str.split, _LISTS.strip().split("\n"))}
UNSPACED = ("zh", "wuu", "yue", "ja", "th", "lo", "km", "my")
SPACED = tuple(language for language in FUNCTION_WORDS if language not in UNSPACED)
STOP_WORDS = 8

_NUMBER = {language: number for number, language in enumerate(SPACED)}
_BUCKETS = 16  # bits


@dataclass(frozen=True, slots=True)
class Spellings:
    """All spellings of function words of languages with spaces: in small letters, with a capital, in capitals, accents composed or not.

    hashes    ascending [spellings]
    near      whether any hash begins with these bits [2 ** _BUCKETS]
    places    in each language of `SPACED` the word's place in its list, -1 if it has none [spellings, languages]
    known     1 where it has one, else 0 [spellings, languages]
    """

    hashes: NDArray[numpy.uint64]
    near: NDArray[numpy.bool_]
    places: NDArray[numpy.int8]
    known: NDArray[numpy.float32]


@dataclass(frozen=True, slots=True)
class Found:
    """Function words in texts: the numbers of the words, ascending, the texts they stand in, and which spellings they are [found]."""

    words: NDArray[numpy.int64]
    texts: NDArray[numpy.int64]
    spellings: NDArray[numpy.int64]


def find(segments: Segments) -> Found:
    """All function words in the texts."""
    import numpy

    table = spellings()
    near = numpy.flatnonzero(table.near[segments.hashes >> numpy.uint64(64 - _BUCKETS)])
    which = numpy.minimum(numpy.searchsorted(table.hashes, segments.hashes[near]), len(table.hashes) - 1)
    same = table.hashes[which] == segments.hashes[near]
    words = near[same]
    return Found(words, numpy.searchsorted(segments.texts, words, "right") - 1, which[same])


def stop_words(segments: Segments, found: Found, languages: Sequence[str]) -> NDArray[numpy.float64]:
    """How many different stop words of its language each text has; NaN where the language has no list here [texts]."""
    import numpy

    numbers = numpy.full(len(languages), math.nan)
    spaced = numpy.array([_NUMBER.get(language, -1) for language in languages], numpy.int64)
    place = spellings().places[found.spellings, spaced[found.texts]]
    met = (place >= 0) & (place < STOP_WORDS)
    different = numpy.unique(found.texts[met] * STOP_WORDS + place[met])
    numbers[spaced >= 0] = numpy.bincount(different // STOP_WORDS, minlength=len(languages))[spaced >= 0]
    start = 0
    for number, (language, size) in enumerate(zip(languages, segments.sizes.tolist(), strict=True)):
        if language in UNSPACED:
            words = FUNCTION_WORDS[language][:STOP_WORDS]
            numbers[number] = sum(segments.text.find(word, start, start + size) >= 0 for word in words)
        start += size + 2
    return numbers


@functools.cache
def spellings() -> Spellings:
    """The table, made once a process."""
    import numpy

    places: dict[str, dict[int, int]] = {}
    for number, language in enumerate(SPACED):
        for place, word in enumerate(FUNCTION_WORDS[language]):
            for spelling in word.split("|"):
                for form in (spelling, spelling.capitalize(), spelling.upper()):
                    for composed in (form, unicodedata.normalize("NFD", form)):
                        places.setdefault(composed, {}).setdefault(number, place)
    cut = segment(list(places))
    hashes = cut.hashes_of(cut.lines)
    order = numpy.argsort(hashes)
    table = numpy.full((len(places), len(SPACED)), -1, numpy.int8)
    for row, known in enumerate(places.values()):
        table[row, list(known)] = list(known.values())
    near = numpy.zeros(1 << _BUCKETS, numpy.bool_)
    near[hashes >> numpy.uint64(64 - _BUCKETS)] = True
    return Spellings(hashes[order], near, table[order], (table[order] >= 0).astype(numpy.float32))
