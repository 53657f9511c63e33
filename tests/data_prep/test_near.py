"""Near-duplicates: pairs, links, clusters and survivors against their definitions."""

import doctest
import itertools
import random
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_prep.dedup
from data_prep.dedup import near
from data_prep.dedup.clusters import Clusters
from data_prep.dedup.minhash import band_keys, signatures
from data_prep.dedup.near import jaccard, links, near_duplicates, survivors
from data_prep.dedup.shingles import Shingles, shingles

VOCABULARY = [f"{first}{second}{third}" for first in "bdfgklmnprst" for second in "aeiou" for third in "nrslmtk"]


def prose(chance: random.Random, words: int) -> list[str]:
    return [chance.choice(VOCABULARY) for _ in range(words)]


def edited(chance: random.Random, words: list[str], edits: int) -> list[str]:
    """The words with some of them replaced, left out or put in."""
    found = list(words)
    for _ in range(edits):
        place = chance.randrange(len(found))
        found[place : place + chance.choice((0, 1, 1, 1))] = [chance.choice(VOCABULARY)] if chance.random() < 0.8 else []
    return found


def families(seed: int, number: int, words: int = 120) -> list[str]:
    """Texts of which many are edits of each other, and edits of edits."""
    chance = random.Random(seed)
    texts: list[list[str]] = []
    for _ in range(number):
        if texts and chance.random() < 0.7:
            texts.append(edited(chance, chance.choice(texts), chance.randrange(8)))
        else:
            texts.append(prose(chance, words))
    return [" ".join(text) for text in texts]


def brute_force(sets: Shingles, threshold: float) -> dict[tuple[int, int], float]:
    found = {}
    own = [frozenset(sets[number].tolist()) for number in range(len(sets))]
    for one, other in itertools.combinations(range(len(sets)), 2):
        if own[one] and own[other]:
            similarity = len(own[one] & own[other]) / len(own[one] | own[other])
            if similarity >= threshold:
                found[one, other] = similarity
    return found


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_pairs_are_those_of_all_comparisons(threshold: float) -> None:
    texts = families(int(threshold * 10), 150)
    expected = brute_force(shingles(texts), threshold)
    found = near_duplicates(texts, threshold)
    assert [(one, other) for one, other, _ in found] == sorted((one, other) for one, other, _ in found)
    assert {(one, other): similarity for one, other, similarity in found}.items() <= expected.items()
    assert len(found) >= 0.99 * len(expected) > 10
    assert near_duplicates(texts, threshold) == found


def test_the_examples_are_true() -> None:
    assert doctest.testmod(near).attempted and not doctest.testmod(near).failed
    assert doctest.testmod(data_prep.dedup).attempted and not doctest.testmod(data_prep.dedup).failed


def test_pairs_of_nothing_and_of_the_same() -> None:
    assert near_duplicates([]) == []
    assert near_duplicates(["alone in the world of words"]) == []
    assert near_duplicates(["", "!!!", "", "!!!"], 0.5) == []
    assert near_duplicates(["Same text", "other", "same TEXT!"], 1.0) == [(0, 2, 1.0)]
    assert len(near_duplicates(["five words are in here"] * 40)) == 40 * 39 // 2
    for threshold in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            near_duplicates([], threshold)


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_sketches_estimate_within_their_error(size: int) -> None:
    chance = numpy.random.default_rng(0)
    errors = []
    for _ in range(300):
        union = numpy.sort(chance.choice(2**32, 6000, replace=False).astype(numpy.uint32))
        chance.shuffle(union)
        one, other = numpy.sort(union[:5000]), numpy.sort(union[1000:])
        assert jaccard(one, other) == 4000 / 6000
        errors.append(jaccard(one[:size], other[:size], size) - 4000 / 6000)
    expected = (4 / 6 * 2 / 6 / size) ** 0.5
    assert numpy.std(errors) < 1.15 * expected
    assert abs(numpy.mean(errors)) < 3 * expected / 300**0.5 + 1 / size


def test_sketches_of_short_texts_are_exact() -> None:
    one, other = numpy.arange(0, 60, dtype=numpy.uint32), numpy.arange(20, 80, dtype=numpy.uint32)
    assert jaccard(one, other, 61) == jaccard(one, other) == 0.5
    empty = numpy.zeros(0, numpy.uint32)
    assert jaccard(one, empty) == jaccard(empty, empty) == 0
    short, long = numpy.arange(10, dtype=numpy.uint32), numpy.arange(100_000, dtype=numpy.uint32)
    assert jaccard(short, long[:64], 64) < 0.2  # what the cut sketch cannot hold is not counted as missing, and not as there


def signed(texts: list[str]) -> tuple[Shingles, numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """(shingles, lowest bytes of the signatures, keys of all entries, their documents)."""
    sets = shingles(texts)
    whole = signatures(sets)
    return sets, whole.astype(numpy.uint8), band_keys(whole).ravel(), numpy.repeat(numpy.arange(len(texts)), 14)


def clusters_of(found: numpy.ndarray, number: int, folder: Path) -> dict[int, int]:
    clusters = Clusters(folder / "parents", number)
    clusters.join(found)
    numbers, roots = clusters.of(0, number)
    return dict(zip(numbers.tolist(), roots.tolist(), strict=True))


def test_links_connect_what_is_similar_and_depend_on_no_order(tmp_path: Path) -> None:
    texts = families(7, 300)
    sets, minima, keys, documents = signed(texts)
    found = links(keys, documents, lambda numbers: minima[numbers], 0.7)
    assert (found[:, 0] < found[:, 1]).all() and len(numpy.unique(found, axis=0)) == len(found)
    clusters = clusters_of(found, len(texts), tmp_path)
    for (one, other), similarity in brute_force(sets, 0.85).items():
        assert clusters[one] == clusters[other], similarity
    shuffled = numpy.random.default_rng(0).permutation(len(keys))
    assert (links(keys[shuffled], documents[shuffled], lambda numbers: minima[numbers], 0.7) == found).all()
    for one, other in found.tolist():
        assert jaccard(sets[one], sets[other]) > 0.4
    assert len(links(keys[:0], documents[:0], lambda numbers: minima[numbers], 0.7)) == 0


def test_links_of_chunks_and_of_shares_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = families(8, 200)
    _, minima, keys, documents = signed(texts)
    whole = links(keys, documents, lambda numbers: minima[numbers], 0.7)
    monkeypatch.setattr(near, "_CHUNK", 7)
    assert (links(keys, documents, lambda numbers: minima[numbers], 0.7) == whole).all()
    parts = [links(keys[inside], documents[inside], lambda numbers: minima[numbers], 0.7) for inside in (keys % 3 == 0, keys % 3 > 0)]
    assert (numpy.unique(numpy.concatenate(parts), axis=0) == whole).all()


def test_buckets_without_a_new_document_are_passed_over() -> None:
    texts = families(9, 60)
    _, minima, keys, documents = signed(texts)
    everything = links(keys, documents, lambda numbers: minima[numbers], 0.7)
    assert len(links(keys, documents, lambda numbers: minima[numbers], 0.7, len(texts))) == 0
    some = {tuple(pair) for pair in links(keys, documents, lambda numbers: minima[numbers], 0.7, 40).tolist()}
    assert some < {tuple(pair) for pair in everything.tolist()}
    assert {pair for pair in map(tuple, everything.tolist()) if pair[1] >= 40} <= some


def test_a_bucket_of_thousands_takes_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = numpy.random.default_rng(0)
    base = chance.integers(0, 256, 112, dtype=numpy.uint8)
    minima = numpy.tile(base, (20_000, 1))
    minima[:, 8:] = chance.integers(0, 256, (20_000, 104), dtype=numpy.uint8)  # one band in common, else nothing
    keys, documents = numpy.zeros(20_000, numpy.uint64), numpy.arange(20_000)
    assert len(links(keys, documents, lambda numbers: minima[numbers], 0.7)) == 0
    minima[:] = base
    assert len(links(keys, documents, lambda numbers: minima[numbers], 0.7)) == 20_000 - 1


@settings(max_examples=60)
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60), st.integers(1, 4))
def test_clusters_are_connected_components(
    tmp_path_factory: pytest.TempPathFactory, size: int, drawn: list[tuple[int, int]], cuts: int
) -> None:
    pairs = [(one % size, other % size) for one, other in drawn]
    parents = list(range(size))

    def root(number: int) -> int:
        while parents[number] != number:
            number = parents[number]
        return number

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parents[high] = low
    clusters = Clusters(tmp_path_factory.mktemp("clusters") / "parents", size)
    for part in numpy.array_split(numpy.array(pairs, numpy.int64).reshape(-1, 2), cuts):
        clusters.join(part)
    found = {}
    for first in range(0, size, 3):
        numbers, roots = clusters.of(first, min(first + 3, size))
        found |= dict(zip(numbers.tolist(), roots.tolist(), strict=True))
    assert found == {number: root(number) for pair in pairs for number in pair}


def test_a_long_chain_is_one_cluster(tmp_path: Path) -> None:
    number = 200_000
    chain = numpy.stack((numpy.arange(number - 1), numpy.arange(1, number)), axis=1)
    clusters = Clusters(tmp_path / "parents", number)
    for part in numpy.array_split(numpy.random.default_rng(0).permutation(chain), 5):
        clusters.join(part)
    assert not clusters.of(0, number)[1].any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kept", [0, 9])
def test_a_member_goes_only_for_a_kept_one_of_higher_rank_that_is_similar_itself(seed: int, kept: int) -> None:
    texts = families(seed, 120, words=60)
    sets, minima, _, _ = signed(texts)
    found = survivors(minima, sets.__getitem__, 0.7, kept=kept)
    gone = {member for member, _, _ in found}
    for member, survivor, similarity in found:
        assert member >= kept and survivor < member and survivor not in gone
        assert similarity == jaccard(sets[member], sets[survivor]) >= 0.7
    alike = brute_force(sets, 0.7)
    missed = [pair for pair in alike if gone.isdisjoint(pair) and pair[1] >= kept]
    assert len(missed) <= 0.01 * len(alike)


def test_chains_remove_nothing_dissimilar() -> None:
    chance = random.Random(5)
    words = prose(chance, 100)
    chain = [list(words)]
    for place in range(0, 100, 4):  # each differs from the one before in one word
        words[place] = chance.choice(VOCABULARY)
        chain.append(list(words))
    texts = [" ".join(link) for link in chain]
    sets, minima, _, _ = signed(texts)
    found = {member: survivor for member, survivor, _ in survivors(minima, sets.__getitem__, 0.7)}
    assert 5 < len(found) < len(texts) - 3
    assert jaccard(sets[0], sets[len(texts) - 1]) < 0.1
    for member in range(1, len(texts)):
        before = [kept for kept in range(member) if kept not in found and jaccard(sets[member], sets[kept]) >= 0.7]
        assert (member in found) == bool(before)


def test_the_number_of_compared_members_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(prose(random.Random(seed), 30)) for seed in range(40)]
    sets, minima, _, _ = signed([*texts, texts[3], texts[30]])
    monkeypatch.setattr(near, "COMPARED", 20)
    assert survivors(minima, sets.__getitem__, 0.7) == [(40, 3, 1.0)]  # the 30th was kept, but is beyond what is compared
