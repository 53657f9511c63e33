"""A linear classifier of quality, learned from documents one wants and documents one does not: trained once, asked of every document.

It is fastText's supervised model (Joulin et al., 2016) for two classes, in the form that has one solution: there a document is the mean
of its n-grams' vectors and the class a linear function of that mean, so with two classes each n-gram comes down to one number. The
score of a document is bias + the mean weight of its words and pairs of neighbouring words, as `data_prep.segment` cuts them: the
logarithm of the odds that it belongs to the positives (0: as likely as not; the probability is the sigmoid of it), from -50 to 50 in
steps of 10^-4, so that scores can be counted instead of sorted. N-grams share 2^18 weights by their hashes.

Training is logistic regression by stochastic gradient descent, averaged over all steps (scikit-learn's SGDClassifier): one thread,
examples in the order of hashes of their texts and the seed, arithmetic in double precision. The weights are then rounded to half
precision, 11 bits: the last bits of a double, all that another processor's or library's exponential can change, are gone
from them, so the same examples give the same file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_prep.hashing import mixed
from data_prep.segment import Segments, batches, segment
from pipeline.stage import UserError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

BITS = 18
MOST = 1_000_000
_STEPS = 10_000
_SCALE = 30.0  # brings frequencies near the length 1 for which the steps are made
_STEP = 256  # examples given to scikit-learn at once; it takes a step for each


@dataclass(frozen=True, slots=True)
class Training:
    """How a classifier is trained.

    examples  at most so many of each class, those with the smallest hashes
    words     of each example only the first so many
    epochs    passes over the examples
    rate      length of the steps
    penalty   weight of the squared weights
    seed      another seed is another order of the examples
    """

    examples: int = 50_000
    words: int = 1_000
    epochs: int = 10
    rate: float = 1.0
    penalty: float = 1e-5
    seed: int = 0


def train(positives: Iterable[str], negatives: Iterable[str], training: Training = Training()) -> NDArray[numpy.float16]:
    """The weights, the bias behind them [2 ** BITS + 1]. The order of the texts plays no part, and a text counts once.

    Raises UserError where a class has no text with a word, a text is in both, or scikit-learn is not installed.
    """
    import numpy

    try:
        from sklearn.linear_model import SGDClassifier
    except ImportError:
        raise UserError("classifier: needs scikit-learn to be trained; pip install 'crawl2chat[classifier]'") from None

    classes = [_chosen(texts, training) for texts in (negatives, positives)]
    for name, chosen in zip(("negatives", "positives"), classes, strict=True):
        if not chosen:
            raise UserError(f"classifier: there is no text with words among the {name}; check their files")
    if both := classes[0].keys() & classes[1].keys():
        raise UserError(f"classifier: {len(both)} of the texts are among the positives and among the negatives; leave them out of one")
    examples = [(key, features, label) for label, chosen in enumerate(classes) for key, features in chosen.items()]
    examples.sort(key=lambda example: example[0])

    model = SGDClassifier(
        loss="log_loss", alpha=training.penalty, learning_rate="constant", eta0=training.rate, average=True, shuffle=False, random_state=0
    )
    # Both classes weigh the same, however many examples each has.
    weights = [len(examples) / (2 * len(chosen)) for chosen in classes]
    for epoch in range(training.epochs):
        order = sorted(range(len(examples)), key=lambda index: _hash(examples[index][0], f"{training.seed} {epoch}"))
        for start in range(0, len(order), _STEP):
            step = [examples[index] for index in order[start : start + _STEP]]
            labels = [label for _, _, label in step]
            model.partial_fit(_matrix([features for _, features, _ in step]), labels, [0, 1], [weights[label] for label in labels])
    return numpy.append(model.coef_[0] * _SCALE, model.intercept_[0]).astype(numpy.float16)


def score(segments: Segments, weights: NDArray[numpy.float16]) -> NDArray[numpy.float64]:
    """The logarithm of the odds that each text belongs to the positives [texts]."""
    import numpy

    known = weights.astype(numpy.float64)
    words, pairs = _ngrams(segments)
    bounds = numpy.minimum(segments.texts, len(pairs))
    sums = _sums(known[words], segments.texts) + _sums(numpy.where(_within(segments), known[pairs], 0.0), bounds)
    number = numpy.diff(segments.texts)
    mean = numpy.divide(sums, 2 * number - 1, out=numpy.zeros(len(sums)), where=number > 0)
    odds: NDArray[numpy.float64] = numpy.clip(numpy.round((mean + known[-1]) * _STEPS), -MOST // 2, MOST // 2) / _STEPS
    return odds


def rank(score: float) -> int:
    """A score's place among all that are possible, 0 to `MOST`; higher ones have higher places."""
    return round(score * _STEPS) + MOST // 2


def score_of(rank: int) -> float:
    """The score at a place."""
    return (rank - MOST // 2) / _STEPS


def save(path: str | os.PathLike[str], weights: NDArray[numpy.float16]) -> None:
    """Write the weights as a NumPy file; the same weights give the same bytes."""
    import numpy

    with open(path, "wb") as stream:
        numpy.save(stream, weights, allow_pickle=False)


def load(path: str | os.PathLike[str]) -> NDArray[numpy.float16]:
    """The weights of a file. UserError for another one."""
    import numpy

    try:
        weights: NDArray[numpy.float16] = numpy.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        weights = numpy.zeros(0, numpy.float16)
    if weights.dtype != numpy.float16 or weights.shape != (2**BITS + 1,):
        raise UserError(f"{os.fspath(path)}: not a classifier of this version; train it again")
    return weights


def _ngrams(segments: Segments) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """Places among the weights of all words [words], and of all pairs of neighbours [words - 1], also across texts."""
    import numpy

    hashes, shift = segments.hashes, numpy.uint64(64 - BITS)
    pairs = mixed(hashes[:-1] + hashes[1:] * numpy.uint64(0x9FB21C651E98DF25))
    return (hashes >> shift).astype(numpy.int64), (pairs >> shift).astype(numpy.int64)


def _within(segments: Segments) -> NDArray[numpy.bool_]:
    """Whether a word and the next stand in the same text [words - 1]."""
    import numpy

    within = numpy.ones(max(len(segments.starts) - 1, 0), numpy.bool_)
    ends = segments.texts[1:-1] - 1
    within[ends[(ends >= 0) & (ends < len(within))]] = False
    return within


def _sums(values: NDArray[numpy.float64], bounds: NDArray[numpy.int64]) -> NDArray[numpy.float64]:
    """Sums of ranges, each added by itself: what stands before a text must not change its last bits."""
    import numpy

    return numpy.array([values[start:end].sum() for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)])


def _chosen(texts: Iterable[str], training: Training) -> dict[bytes, NDArray[numpy.int64]]:
    """Hash of the text → its n-grams, of the examples with the smallest hashes."""
    chosen: dict[bytes, NDArray[numpy.int64]] = {}
    for batch in batches(texts):
        for text, features in zip(batch, _features(batch, training.words), strict=True):
            if len(features):
                chosen[_hash(text.encode("utf-8", "surrogatepass"), str(training.seed))] = features
        if len(chosen) > 2 * training.examples:
            chosen = _smallest(chosen, training.examples)
    return _smallest(chosen, training.examples)


def _smallest(chosen: dict[bytes, NDArray[numpy.int64]], number: int) -> dict[bytes, NDArray[numpy.int64]]:
    return {key: chosen[key] for key in sorted(chosen)[:number]}


def _hash(content: bytes, salt: str) -> bytes:
    return hashlib.blake2b(content, digest_size=16, key=salt.encode()).digest()


def _features(texts: Sequence[str], words: int) -> Iterator[NDArray[numpy.int64]]:
    import numpy

    cut = segment(texts)
    singles, pairs = _ngrams(cut)
    for start, end in zip(cut.texts[:-1].tolist(), cut.texts[1:].tolist(), strict=True):
        end = min(end, start + words)
        yield numpy.concatenate((singles[start:end], pairs[start : max(end - 1, start)])).astype(numpy.int32)


def _matrix(examples: Sequence[NDArray[numpy.int64]]) -> object:
    """The frequencies of n-grams, scaled, as a sparse matrix [examples, 2 ** BITS]."""
    import numpy
    from scipy.sparse import csr_matrix

    values = numpy.concatenate([numpy.full(len(features), _SCALE / len(features)) for features in examples])
    ends = numpy.cumsum([0, *map(len, examples)])
    matrix = csr_matrix((values, numpy.concatenate(examples), ends), shape=(len(examples), 2**BITS))
    matrix.sum_duplicates()
    return matrix
