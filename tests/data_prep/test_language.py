"""Languages are identified offline, by the whole start of a text, with useful accuracy."""

import gzip
import json
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from data_prep.language import identify

CODES = {
    "eng": "en", "deu": "de", "fra": "fr", "spa": "es", "ita": "it", "por": "pt", "nld": "nl", "rus": "ru", "jpn": "ja", "kor": "ko",
    "cmn": "zh", "ara": "ar", "pol": "pl", "tur": "tr", "swe": "sv", "fin": "fi", "ell": "el", "heb": "he", "tha": "th", "vie": "vi",
}  # fmt: skip


def test_main_languages_on_real_sentences(shared_data: Path) -> None:
    sentences = defaultdict(list)
    with gzip.open(shared_data / "langid" / "tatoeba_sentences.jsonl.gz", "rt") as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["lang"] in CODES and len(sentences[entry["lang"]]) < 100:
                sentences[entry["lang"]].append(entry["text"])
    assert len(sentences) == len(CODES)
    right = {lang: sum(identify(text)[0] == CODES[lang] for text in texts) / len(texts) for lang, texts in sentences.items()}
    assert sum(right.values()) / len(right) > 0.96, right
    joined = {lang: identify("\n".join(texts[:20])) for lang, texts in sentences.items()}
    assert all(code == CODES[lang] and score >= 0.65 for lang, (code, score) in joined.items()), joined


def test_more_than_the_first_80_characters_count() -> None:
    text = "Home | About us | Contact | Login | Newsletter | English | Deutsch | Terms of use | Imprint\n" + (
        "Der Müller ging am frühen Morgen durch den Wald, weil er seinem Bruder versprochen hatte, ihm beim Bau des Hauses zu helfen. " * 8
    )
    assert identify(text)[0] == "de"
    assert identify(text, characters=80)[0] == "en"


def test_text_behind_the_limit_changes_nothing() -> None:
    start = "The quick brown fox jumps over the lazy dog. " * 50
    assert identify(start[:2_000]) == identify(start[:2_000] + "Und jetzt auf Deutsch. " * 500)


@pytest.mark.parametrize("text", ["", "   \n", "12 + 34 = 46", "\x00\x01", "🎉🎉"])
def test_text_without_letters_is_undetermined(text: str) -> None:
    assert identify(text) == ("und", 0.0)


@pytest.mark.parametrize("text", ["one\x00two three", "line\r\nline\u2028line", "A" * 100_000, "ALL IN CAPITALS THIS IS ENGLISH TEXT"])
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
    from data_prep import language

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    language._detector.cache_clear()
    assert identify("This is plain English.")[0] == "en"
