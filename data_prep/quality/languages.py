"""What the rules' thresholds, set for English, are in other languages.

The numbers of the table are English's in proportion, by the Universal Declaration of Human Rights in both: limits of the mean word length
by its mean word length (only ever widened), the least share of words with a letter by that share, the least number of words by how many
its 2,400 first characters hold. The rest follows from the script: how much a line of 30 Latin letters says takes 10 Chinese characters,
12 Japanese or 15 Korean ones, and Thai and Lao mark the end of a sentence with a space, so they can be asked for neither.
"""

from __future__ import annotations

from collections.abc import Mapping

# Characters of scripts without spaces that are about a word.
WORD_CHARACTERS: Mapping[str, int] = {"zh": 2, "wuu": 2, "yue": 2, "ja": 2, "th": 3, "lo": 3, "km": 3, "my": 3}

_NAMES = ("gopher_min_words", "gopher_min_mean_word_length", "gopher_max_mean_word_length", "gopher_min_alphabetic_words")
_TABLE = """
en   50  3.0  10.0  .80
ar   50  2.8  10.0  .80
az   40  3.0  13.1  .80
be   50  3.0  11.9  .75
bg   50  3.0  10.0  .76
bn   50  3.0  11.4  .80
bs   50  3.0  10.7  .80
cs   50  3.0  10.7  .76
da   50  3.0  11.9  .76
de   50  3.0  12.0  .80
el   50  3.0  11.1  .80
et   40  3.0  13.2  .76
eu   40  3.0  13.6  .74
fa   50  2.3  10.0  .80
fi   35  3.0  15.2  .74
he   50  2.7  10.0  .75
hi   50  2.6  10.0  .80
hr   50  3.0  10.7  .80
hu   40  3.0  12.9  .77
hy   35  3.0  14.6  .76
id   50  3.0  12.3  .76
is   50  3.0  10.0  .76
it   50  3.0  11.1  .80
ja   50  1.2  10.0  .80
ka   35  3.0  14.8  .80
ko   50  1.7  10.0  .76
lo   50  2.3  10.0  .80
lt   40  3.0  12.5  .74
lv   40  3.0  12.6  .74
mk   50  3.0  10.7  .80
mr   50  3.0  12.3  .80
ms   50  3.0  12.3  .76
my   50  3.0  13.4  .80
nl   50  3.0  10.6  .80
no   50  3.0  11.7  .77
pl   40  3.0  13.0  .77
ro   50  3.0  11.3  .80
ru   50  3.0  12.0  .75
sk   50  3.0  10.9  .76
sl   50  3.0  11.0  .77
sr   50  3.0  10.7  .80
sv   50  3.0  12.5  .76
ta   30  3.0  19.0  .69
th   50  2.2  10.0  .80
tl   50  3.0  10.5  .80
tr   40  3.0  13.3  .77
uk   50  3.0  11.0  .75
ur   50  2.2  10.0  .80
vi   50  2.5  10.0  .80
wuu  50  1.2  10.0  .80
yue  50  1.2  10.0  .80
zh   50  1.2  10.0  .80
"""
_OTHERS: Mapping[str, Mapping[str, float]] = {
    **{code: {"lines_short_characters": 10} for code in ("zh", "wuu", "yue")},
    "ja": {"lines_short_characters": 12},
    "ko": {"lines_short_characters": 15},
    **{code: {"c4_min_sentences": 0, "fineweb_min_punctuated_lines": 0.0} for code in ("th", "lo")},
}


def _changes() -> dict[str, dict[str, float]]:
    rows = {code: dict(zip(_NAMES, map(float, numbers), strict=True)) for code, *numbers in map(str.split, _TABLE.strip().split("\n"))}
    english = rows.pop("en")
    return {
        code: {name: value for name, value in row.items() if value != english[name]} | dict(_OTHERS.get(code, {}))
        for code, row in sorted(rows.items())
    }


CHANGES: Mapping[str, Mapping[str, float]] = _changes()  # language: {reason or lines_<rule>: value}
