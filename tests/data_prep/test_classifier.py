"""The classifier learns a difference, gives the same bytes for the same examples, and scores a text the same wherever it stands."""

import random
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.quality import classifier
from data_prep.quality.classifier import Training, load, save, score, train
from data_prep.segment import segment
from pipeline.stage import UserError

pytest.importorskip("sklearn")

CALM = "the sea was calm and we rowed home with nets full of silver herring while gulls cried"
LOUD = "buy cheap pills now click here best price casino bonus win free offer today only discount"
SHARED = "a of to in it is on at by for"


def texts(words: str, number: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(f"{words} {SHARED}".split(), k=draw.randrange(20, 80))) for _ in range(number)]


@pytest.fixture(scope="module")
def weights() -> numpy.ndarray:
    return train(texts(CALM, 80, 1), texts(LOUD, 120, 2), Training(epochs=3))


def scores(weights: numpy.ndarray, given: list[str]) -> list[float]:
    return [float(value) for value in score(segment(given), weights)]


def test_it_tells_new_examples_apart(weights: numpy.ndarray) -> None:
    calm, loud = scores(weights, texts(CALM, 50, 3)), scores(weights, texts(LOUD, 50, 4))
    assert min(calm) > 2 and max(loud) < -2
    ranks = [classifier.rank(value) for value in calm + loud]
    assert [classifier.score_of(rank) for rank in ranks] == calm + loud
    assert min(ranks) >= 0 and max(ranks) <= classifier.MOST


def test_order_and_repetition_of_the_examples_play_no_part(weights: numpy.ndarray) -> None:
    calm, loud = texts(CALM, 80, 1), texts(LOUD, 120, 2)
    again = train((calm + calm)[::-1], loud[50:] + loud[:50], Training(epochs=3))
    assert again.tobytes() == weights.tobytes()
    assert train(calm, loud, Training(epochs=3, seed=1)).tobytes() != weights.tobytes()


def test_the_same_examples_give_the_same_file_in_another_process(weights: numpy.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "one.npy"
    save(path, weights)
    code = (
        "from tests.data_prep.test_classifier import *; "
        f"save({str(tmp_path / 'two.npy')!r}, train(texts(CALM, 80, 1), texts(LOUD, 120, 2), Training(epochs=3)))"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
    assert path.read_bytes() == (tmp_path / "two.npy").read_bytes()
    assert load(path).tobytes() == weights.tobytes()


@given(st.lists(st.text(alphabet="ab \n") | st.sampled_from(texts(CALM, 3, 5)), max_size=5))
@settings(max_examples=50)
def test_a_text_has_the_same_score_wherever_it_stands(weights: numpy.ndarray, given: list[str]) -> None:
    assert scores(weights, given) == [scores(weights, [text])[0] for text in given]


def test_a_score_is_the_mean_weight_of_words_and_pairs() -> None:
    weights = numpy.zeros(2**classifier.BITS + 1, numpy.float16)
    singles, pairs = classifier._ngrams(segment(["one two three"]))
    weights[singles[0]], weights[pairs[1]], weights[-1] = 5, 10, -1
    assert scores(weights, ["one two three", "one", "", "three one"]) == [
        pytest.approx(mean, abs=1e-4) for mean in (15 / 5 - 1, 5 - 1, -1, 5 / 3 - 1)
    ]


def test_only_so_many_examples_and_words_are_used() -> None:
    many, few = texts(CALM, 60, 1), texts(LOUD, 60, 2)
    chosen = classifier._chosen(many, Training(examples=7, words=3))
    assert len(chosen) == 7 and all(len(features) == 5 for features in chosen.values())
    assert train(many, few, Training(examples=7)).shape == (2**classifier.BITS + 1,)


@pytest.mark.parametrize(
    ("positives", "negatives", "message"),
    [
        ([], ["a b"], "no text with words among the positives"),
        (["a b"], [" "], "among the negatives"),
        (["a b"], ["a b", "c"], "1 of the texts"),
    ],
)
def test_useless_examples_are_refused(positives: list[str], negatives: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(positives, negatives)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"no classifier")
    numpy.save(tmp_path / "b.npy", numpy.zeros(3))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(UserError, match="not a classifier of this version"):
            load(tmp_path / name)
