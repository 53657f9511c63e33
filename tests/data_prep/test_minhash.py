"""MinHash: signatures estimate the Jaccard similarity as well as the theory says, and never change."""

import random

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup.minhash import band_keys, banding, candidate_probability, signatures
from data_prep.dedup.shingles import Shingles, shingles

TEXTS = ["The harbour lay quiet that morning.", "", "港口静静地躺在晨光里渔夫们谈论着网和鲱鱼的价格"]


def sets_of(*sets: numpy.ndarray) -> Shingles:
    hashes = numpy.concatenate(sets).astype(numpy.uint32)
    return Shingles(hashes, numpy.cumsum([0, *map(len, sets)]))


def pairs(similarity: float, size: int, number: int) -> tuple[Shingles, Shingles, float]:
    """Pairs of random sets of this similarity, and what it is exactly."""
    chance = numpy.random.default_rng(3)
    shared = round(2 * size * similarity / (1 + similarity))
    one, other = [], []
    for _ in range(number):
        union = chance.choice(2**32, 2 * size - shared, replace=False).astype(numpy.uint32)
        one.append(numpy.sort(union[:size]))
        other.append(numpy.sort(union[size - shared :]))
    return sets_of(*one), sets_of(*other), shared / (2 * size - shared)


@pytest.mark.parametrize(("similarity", "size"), [(0.5, 60), (0.8, 60), (0.8, 400), (0.85, 200)])
def test_agreement_is_binomial(similarity: float, size: int) -> None:
    number = 600
    one, other, exact = pairs(similarity, size, number)
    signed, signed_other = signatures(one), signatures(other)
    agreement = (signed == signed_other).mean(axis=1)
    error = (exact * (1 - exact) / 112) ** 0.5
    assert agreement.mean() == pytest.approx(exact, abs=4 * error / number**0.5)
    assert agreement.std() == pytest.approx(error, rel=0.15)
    met = (band_keys(signed) == band_keys(signed_other)).any(axis=1).mean()
    expected = candidate_probability(exact)
    assert met == pytest.approx(expected, abs=4 * (expected * (1 - expected) / number) ** 0.5 + 0.002)


def test_signatures_are_the_same_on_every_machine_and_version() -> None:
    signed = signatures(shingles(TEXTS))
    assert signed.shape == (3, 112)
    assert signed[[0, 2], :3].tolist() == [[1749679677, 818966391, 1882858608], [391508098, 29076530, 51677363]]
    assert (signed[1] == 2**32 - 1).all()
    assert band_keys(signed)[[0, 2], 0].tolist() == [15986923538272127224, 2000361783529498763]
    assert (signatures(shingles(TEXTS), 40) == signed[:, :40]).all()


@settings(max_examples=50)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 50))
def test_blocks_change_nothing(sizes: list[int], block: int) -> None:
    from data_prep.dedup import minhash

    chance = random.Random(1)
    sets = [numpy.array(sorted(chance.sample(range(2**32), size)), numpy.uint32) for size in sizes]
    together = sets_of(numpy.zeros(0), *sets)
    whole = signatures(together, 16)
    before, minhash._BLOCK_SHINGLES = minhash._BLOCK_SHINGLES, block
    try:
        assert (signatures(together, 16) == whole).all()
    finally:
        minhash._BLOCK_SHINGLES = before
    for number, own in enumerate(sets, 1):
        assert (signatures(sets_of(own), 16)[0] == whole[number]).all()


def test_keys_of_different_bands_differ() -> None:
    signed = numpy.tile(numpy.arange(8, dtype=numpy.uint32), (2, 14))
    keys = band_keys(signed)
    assert len(set(keys[0].tolist())) == 14 and (keys[0] == keys[1]).all()
    signed[1, 100] += 1
    assert (band_keys(signed)[0] != band_keys(signed)[1]).sum() == 1


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.8, 0.95, 1.0])
def test_banding_finds_pairs_at_the_threshold(threshold: float) -> None:
    bands, rows = banding(threshold)
    assert bands * rows <= 112
    assert candidate_probability(threshold, bands, rows) >= 0.99
    assert rows == 112 or candidate_probability(threshold, 112 // (rows + 1), rows + 1) < 0.99


def test_what_the_documentation_says_of_fourteen_bands() -> None:
    said = {0.5: 0.05, 0.7: 0.56, 0.8: 0.92, 0.85: 0.99}
    assert {similarity: round(candidate_probability(similarity), 2) for similarity in said} == said
