"""Languages are identified offline, by the whole text where words decide and by its start else, with useful accuracy."""

import doctest
import gzip
import json
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import language as module
from data_prep.function_words import find
from data_prep.language import identify, identify_all
from data_prep.segment import segment

# ISO 639-3 of the sentences → the model's codes: thirty languages that much of the web is written in.
CODES = {
    "eng": "en", "deu": "de", "fra": "fr", "spa": "es", "ita": "it", "por": "pt", "nld": "nl", "rus": "ru", "jpn": "ja", "kor": "ko",
    "cmn": "zh", "ara": "ar", "pol": "pl", "tur": "tr", "swe": "sv", "fin": "fi", "ell": "el", "heb": "he", "tha": "th", "vie": "vi",
    "ces": "cs", "ind": "id", "ukr": "uk", "hun": "hu", "ron": "ro", "dan": "da", "nob": "no", "pes": "fa", "hin": "hi", "ben": "bn",
}  # fmt: skip
HARBOUR = (
    "The harbour lay quiet that morning, and the fishermen who had come back with the tide stood about the quay to talk of nets and of "
    "the price of herring. A boy sat on the wall with a book that he did not read. "
)
HAFEN = (
    "Der Hafen lag an diesem Morgen still, und die Fischer, die mit der Flut gekommen waren, sprachen über Netze und über den Preis der "
    "Heringe auf dem Markt. Ein Junge saß auf der Mauer mit einem Buch, das er nicht las. "
)


def identified(texts: list[str]) -> list[tuple[str, float]]:
    cut = segment(texts)
    return identify_all(cut, find(cut))


def test_the_example_of_the_docstring() -> None:
    assert doctest.testmod(module).failed == 0


def test_thirty_languages_on_real_sentences(shared_data: Path) -> None:
    sentences = defaultdict(list)
    with gzip.open(shared_data / "langid" / "tatoeba_sentences.jsonl.gz", "rt") as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["lang"] in CODES and len(sentences[entry["lang"]]) < 60:
                sentences[entry["lang"]].append(entry["text"])
    assert len(sentences) == len(CODES)
    right, sure = {}, {}
    for name, texts in sentences.items():
        joined = identified(["\n".join(texts[start : start + 10]) for start in range(0, len(texts), 10)])
        right[name] = sum(code == CODES[name] for code, _ in joined) / len(joined)
        sure[name] = min(score for _, score in joined)
    assert sum(right.values()) / len(right) > 0.97, right
    assert min(sure.values()) >= 0.65, sure


def test_words_decide_about_one_language_and_not_about_two() -> None:
    assert identified([HARBOUR * 4, HAFEN * 4]) == [("en", 1.0), ("de", 1.0)]
    [(code, score)] = identified([HARBOUR * 4 + HAFEN * 4])
    assert code in ("en", "de") and score < 1
    listed = " ".join(HARBOUR.split()[:5]) + " rain wind snow hail storm cloud " * 20
    undecided = segment([listed, "the of and " * 5])
    assert module._by_words(undecided, find(undecided)) == [None, None]


def test_near_relatives_are_told_apart_by_their_words() -> None:
    norwegian = "Jeg vet ikke hva du mener med det. Vi kommer hjem etter jobben, og så lager vi mat til oss selv av det vi har."
    danish = "Jeg ved ikke, hvad du mener med det. Vi kommer hjem efter arbejdet, og så laver vi mad til os selv af det, vi har."
    croatian = "Tko zna gdje je dijete? Uvijek je bilo lijepo vrijeme prije nego što je netko došao. Kruh i riječi su dio svega."
    serbian = "Ko zna gde je dete? Uvek je bilo lepo vreme pre nego što je neko došao. Hleb i reči su deo svega."
    assert [code for code, _ in identified([norwegian, danish, croatian, serbian])] == ["no", "da", "hr", "sr"]


@given(
    st.lists(
        st.text() | st.sampled_from([HARBOUR, HAFEN * 3, "мы не знаем, что это такое", "これは文です。", "ALL CAPITALS ARE HERE"]),
        max_size=5,
    )
)
@settings(max_examples=50)
def test_texts_identified_together_are_identified_as_if_alone(texts: list[str]) -> None:
    assert identified(texts) == [identify(text) for text in texts]


def test_more_than_the_first_80_characters_count() -> None:
    text = "Home | About us | Contact | Login | Newsletter | English | Deutsch | Terms of use | Imprint\n" + (
        "Der Müller ging am frühen Morgen durch den Wald, weil er seinem Bruder versprochen hatte, ihm beim Bau des Hauses zu helfen. " * 8
    )
    assert identify(text)[0] == "de"


def test_text_behind_the_limit_changes_nothing_for_the_model() -> None:
    start = "The quick brown fox jumps over lazy dogs. " * 50
    assert identify(start[:2_000]) == identify(start[:2_000] + "Und jetzt auf Deutsch. " * 500)


@pytest.mark.parametrize("text", ["", "   \n", "12 + 34 = 46", "\x00\x01", "🎉🎉", "1" * 3_000 + "a"])
def test_text_without_letters_is_undetermined(text: str) -> None:
    assert identify(text) == ("und", 0.0)


@pytest.mark.parametrize(
    "text", ["one\x00two three", "line\r\nline\u2028line", "A" * 100_000, "ALL IN CAPITALS THIS IS ENGLISH TEXT", "\ud800 x"]
)
def test_odd_text_is_identified_without_error(text: str) -> None:
    code, score = identify(text)
    assert code.isalpha() and 0 <= score <= 1


def test_same_text_same_answer_in_another_process() -> None:
    text = "Ceci est un texte français, écrit pour cela."
    code = f"from data_prep.language import identify; print(repr(identify({text!r})))"
    root = Path(__file__).resolve().parents[2]
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
    assert printed.strip() == repr(identify(text))


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    module._model.cache_clear()
    assert identify("This is plain English.")[0] == "en"
