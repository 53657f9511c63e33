"""The sample index: every token once an epoch whoever reads it, pure in the step's number, true to documents."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_prep.token_shards import TokenShard
from trainer.data.sample_index import (
    IGNORED,
    SampleIndex,
    Segment,
    document_segments,
    keyed_permutation,
    keyed_places,
    pack,
    padded,
    row_numbers,
)

END = 1


def shard(*documents: list[int]) -> TokenShard:
    lengths = [len(document) for document in documents]
    return TokenShard(np.array([token for document in documents for token in document], dtype=np.uint16), np.cumsum([0, *lengths]))


def numbered(sizes: list[list[int]]) -> tuple[list[TokenShard], int]:
    """Shards whose tokens are all different, from 2 up."""
    token, shards = 2, []
    for documents in sizes:
        content = []
        for size in documents:
            content.append(list(range(token, token + size)))
            token += size
        shards.append(shard(*content))
    return shards, token - 2


SIZES = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=6), min_size=1, max_size=4)


@given(SIZES, st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=60)
def test_every_token_of_an_epoch_is_a_target_once_whatever_the_ranks(
    sizes: list[list[int]], length: int, batch: int, world: int, seed: int
) -> None:
    shards, total = numbered(sizes)
    index = SampleIndex(shards, end_id=END, length=length, seed=seed)
    epochs = 2
    steps = -(-epochs * total // (length * batch))
    seen: list[int] = []
    for step in range(steps):
        for rank in range(world):  # how the pretraining task deals rows
            seen += index.rows(range(step * batch, (step + 1) * batch)[rank::world]).targets.ravel().tolist()
    counts = Counter(seen)
    assert set(counts) == set(range(2, total + 2))
    whole = [index.rows([row]).targets[0] for row in range(-(-total * epochs // length))]
    stream = np.concatenate(whole)
    for epoch in range(epochs):
        assert sorted(stream[epoch * total : (epoch + 1) * total]) == list(range(2, total + 2))


@given(SIZES, st.integers(1, 40), st.integers(0, 3), st.integers(0, 50))
@settings(max_examples=60)
def test_a_row_depends_on_its_number_alone_and_predicts_within_documents(
    sizes: list[list[int]], length: int, seed: int, number: int
) -> None:
    shards, _ = numbered(sizes)
    row = SampleIndex(shards, end_id=END, length=length, seed=seed).rows([number])
    other = SampleIndex(shards, end_id=END, length=length, seed=seed)
    other.rows([3, 70, 1])  # another past
    again = other.rows([number])
    assert np.array_equal(row.inputs, again.inputs) and np.array_equal(row.targets, again.targets)
    starts = {int(part.tokens[offset]) for part in shards for offset in part.offsets[:-1]}
    for place in range(length):
        target, given_token = int(row.targets[0, place]), int(row.inputs[0, place])
        assert given_token == (END if target in starts else target - 1)
        if place:
            assert (row.documents[0, place] != row.documents[0, place - 1]) == (target in starts)


def test_epochs_differ_and_so_do_seeds() -> None:
    shards, total = numbered([[5] * 20])
    index = SampleIndex(shards, end_id=END, length=total, seed=0)
    first, second = index.rows([0]).targets, index.rows([1]).targets
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, SampleIndex(shards, end_id=END, length=total, seed=1).rows([0]).targets)


def test_empty_shards_are_refused() -> None:
    with pytest.raises(ValueError, match="no token"):
        SampleIndex([shard()], end_id=END, length=4, seed=0)


@given(st.integers(0, 300), st.integers(0, 2**63), st.integers(0, 100))
def test_a_keyed_permutation_holds_each_number_once(size: int, seed: int, epoch: int) -> None:
    order = keyed_permutation(size, seed, epoch)
    assert sorted(order.tolist()) == list(range(size))
    assert np.array_equal(order, keyed_permutation(size, seed, epoch))


def test_a_keyed_permutation_mixes() -> None:
    firsts = Counter(int(keyed_permutation(10, seed)[0]) for seed in range(2000))
    assert set(firsts) == set(range(10)) and max(firsts.values()) < 260


@given(st.integers(1, 3_000), st.integers(0, 2**63), st.integers(0, 100), st.randoms())
def test_places_of_a_permutation_can_be_asked_for_one_by_one(size: int, seed: int, epoch: int, random: Random) -> None:
    order = keyed_places(np.arange(size), size, seed, epoch)
    assert sorted(order.tolist()) == list(range(size))
    asked = np.array(random.sample(range(size), min(size, 20)))
    assert np.array_equal(keyed_places(asked, size, seed, epoch), order[asked])


def test_places_of_a_permutation_mix() -> None:
    firsts = Counter(int(keyed_places(np.array([0]), 10, seed)[0]) for seed in range(2000))
    assert set(firsts) == set(range(10)) and max(firsts.values()) < 260
    size = 10_000
    order = keyed_places(np.arange(size), size, 5)
    assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.05  # no trace of the first order
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05


@given(st.integers(1, 9), st.sets(st.integers(0, 120), max_size=40), st.integers(0, 12))
def test_skipped_rows_are_in_no_batch_and_every_other_row_is_in_one(per_step: int, skipped: set[int], first: int) -> None:
    ordered = sorted(skipped)
    seen = [number for step in range(30) for number in row_numbers(step, per_step, ordered)]
    assert seen == [number for number in range(seen[-1] + 1) if number not in skipped]
    # a list that grows by later rows changes no earlier batch
    earlier = [number for number in ordered if number <= seen[first * per_step]]
    kept = sum(number < (earlier[-1] if earlier else 0) for number in seen) // per_step
    assert all(row_numbers(step, per_step, earlier) == row_numbers(step, per_step, earlier[:-1]) for step in range(kept))


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(50, 80))
def test_packing_keeps_every_segment_within_the_rows(sizes: list[int], length: int) -> None:
    segments = [Segment(np.full(size, number), np.full(size, number)) for number, size in enumerate(sizes)]
    rows = pack(segments, length)
    assert sorted(int(segment.inputs[0]) for row in rows for segment in row) == list(range(len(sizes)))
    arrays = padded(rows)
    assert all(sum(len(segment.inputs) for segment in row) <= length for row in rows)
    assert Counter(arrays.targets[arrays.targets != IGNORED].tolist()) == dict(enumerate(sizes))
    assert ((arrays.documents == IGNORED) == (arrays.targets == IGNORED)).all()
    # no two rows could have been one
    loads = sorted(sum(len(segment.inputs) for segment in row) for row in rows)
    assert len(loads) < 2 or loads[0] + loads[1] > length


@given(st.lists(st.integers(2, 99), min_size=1, max_size=50), st.integers(1, 20))
def test_a_document_in_segments_predicts_each_of_its_tokens_once(tokens: list[int], length: int) -> None:
    document: NDArray[np.uint16] = np.array(tokens, dtype=np.uint16)
    segments = document_segments(document, END, length)
    assert [int(token) for segment in segments for token in segment.targets] == tokens
    assert [int(token) for segment in segments for token in segment.inputs] == [END, *tokens[:-1]]
    assert all(len(segment.inputs) <= length for segment in segments)


def test_real_shards_are_read(tmp_path: Path) -> None:
    from data_prep.token_shards import TokenShardWriter

    with TokenShardWriter(tmp_path / "a.bin", 100) as writer:
        writer.write([5, 6, END])
        writer.write([7, END])
    rows = SampleIndex([TokenShard.open(tmp_path / "a.bin")], end_id=END, length=5, seed=0).rows([0])
    assert sorted(rows.targets[0].tolist()) == [1, 1, 5, 6, 7]
