"""Best-fit packing: no token lost or repeated whoever reads it, no document cut without need, little padding, the same plan each time."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.token_shards import TokenShard, open_shards
from pipeline.stage import Artifact, Shard, Unit
from tests.data_prep.contexts import context
from tests.trainer.test_sample_index import END, SIZES, numbered, shard
from tests.trainer.worlds import TINY, alone, write_shard, write_tokenizer
from trainer.data.corpus import Corpus
from trainer.data.mixture import MixedIndex, Mixture
from trainer.data.packing import WINDOW, PackedIndex, PackParams, best_fit, pack_shard, planned, rows_of
from trainer.data.sample_index import IGNORED
from trainer.engine import TrainRun
from trainer.stages import Phase, PretrainParams, pretrain
from trainer.stages import packed as packed_corpora


def packed(shards: list[TokenShard], length: int, seed: int, directory: Path, window: int = 4) -> PackedIndex:
    plans = []
    for number, part in enumerate(shards):
        plans.append(str(directory / f"{number}.npy"))
        np.save(plans[-1], planned(part.lengths, length, window))
    return PackedIndex(shards, plans, end_id=END, length=length, seed=seed)


@given(SIZES, st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=30)
def test_every_token_of_an_epoch_is_a_target_once_whatever_the_ranks(
    sizes: list[list[int]], length: int, batch: int, world: int, seed: int
) -> None:
    shards, total = numbered(sizes)
    with TemporaryDirectory() as directory:
        index = packed(shards, length, seed, Path(directory))  # files stay readable where they are mapped
    epochs = 2
    starts = [int(part.tokens[offset]) for part in shards for offset in part.offsets[:-1]]
    seen: list[Counter[int]] = [Counter() for _ in range(epochs)]
    for step in range(-(-epochs * index.rows_per_epoch // batch)):
        for rank in range(world):  # how the pretraining task deals rows
            numbers = range(step * batch, (step + 1) * batch)[rank::world]
            rows = index.rows(numbers)
            assert rows.inputs.shape == (len(numbers), length)
            assert ((rows.targets == IGNORED) == (rows.documents == IGNORED)).all()
            for place, number in enumerate(numbers):
                if number < epochs * index.rows_per_epoch:
                    seen[number // index.rows_per_epoch].update(rows.targets[place][rows.targets[place] != IGNORED].tolist())
            before = np.where(np.isin(rows.targets, starts), END, rows.targets - 1)
            assert ((rows.inputs == before) | (rows.targets == IGNORED)).all()
    assert all(epoch == Counter(range(2, total + 2)) for epoch in seen)


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(60, 90))
def test_a_segment_goes_where_it_leaves_the_least_room(sizes: list[int], length: int) -> None:
    rows = best_fit(np.array(sizes, np.int64), length)
    loads = np.bincount(rows, weights=sizes).astype(int).tolist() if sizes else []
    plain: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [place for place, load in enumerate(plain) if load + size <= length]
        if fitting:
            plain[max(fitting, key=lambda place: plain[place])] += size
        else:
            plain.append(size)
    assert sorted(loads) == sorted(plain)


@given(st.lists(st.integers(0, 90), max_size=60), st.integers(1, 40), st.integers(1, 30))
def test_only_what_is_longer_than_a_row_is_cut(lengths: list[int], length: int, window: int) -> None:
    plan = planned(np.array(lengths, np.int64), length, window)
    pieces = Counter(plan[1].tolist())
    assert all(pieces[document] == -(-size // length) for document, size in enumerate(lengths))
    assert (np.bincount(plan[0].astype(np.int64), weights=plan[3]) <= length).all()
    assert plan[0].tolist() == sorted(plan[0].tolist()) and {*plan[0].tolist()} == {*range(rows_of(plan))}


def test_a_plan_is_the_same_each_time_and_takes_sixteen_bytes_a_segment(tmp_path: Path) -> None:
    written = write_shard(tmp_path, "a", "train", 300)
    unit = Unit("corpus-a", "content", None, (written[0].path, written[1].path))
    made = []
    for name in ("one", "other"):
        result = pack_shard(Shard(unit, PackParams(32), {}, str(tmp_path / name)))
        made.append(tmp_path / name / "packing" / "corpus-a.npy")
        plan = np.load(made[-1], mmap_mode="r")
        assert result.records == {"packing": rows_of(plan)}
    assert made[0].read_bytes() == made[1].read_bytes()
    assert made[0].stat().st_size == 128 + 16 * plan.shape[1]
    other_shards_do_not_matter = planned(TokenShard.open(written[0].path).lengths, 32)
    assert np.array_equal(plan, other_shards_do_not_matter)


def test_epochs_and_seeds_differ_in_the_order_of_rows_and_empty_shards_are_read(tmp_path: Path) -> None:
    shards, _ = numbered([[7] * 40, [9] * 30])
    shards.insert(1, shard())
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    index, other = packed(shards, 16, 0, tmp_path / "a"), packed(shards, 16, 1, tmp_path / "b")
    size = index.rows_per_epoch
    first, second = index.rows(range(size)).targets, index.rows(range(size, 2 * size)).targets
    assert not np.array_equal(first, second) and not np.array_equal(first, other.rows(range(size)).targets)
    assert sorted(map(tuple, first)) == sorted(map(tuple, second))
    with pytest.raises(ValueError, match="no token"):
        packed([shard()], 16, 0, tmp_path)


def test_packed_corpora_are_mixed_and_a_cap_counts_their_rows(tmp_path: Path) -> None:
    indexes = []
    for name, sizes in (("a", [[5] * 30]), ("b", [[3] * 50])):
        (tmp_path / name).mkdir()
        indexes.append(packed(numbered(sizes)[0], 16, 0, tmp_path / name))
    once = indexes[1].rows_per_epoch
    mixture = Mixture([1.0, 1.0], [None, once])
    rows = MixedIndex(indexes, mixture, 16).rows(range(3 * once))
    given_rows: list[list[tuple[int, ...]]] = [[], []]
    for number in range(3 * once):
        corpus, row = mixture.place(number)
        assert np.array_equal(rows.targets[number], indexes[corpus].rows([row]).targets[0])
        given_rows[corpus].append(tuple(rows.targets[number]))
    assert Counter(given_rows[1]) == Counter(map(tuple, indexes[1].rows(range(once)).targets))
    assert len(given_rows[0]) == 2 * once


@pytest.mark.parametrize(("length", "most"), [(512, 0.05), (2_048, 0.01)])
def test_real_stories_leave_little_padding(shared_data: Path, length: int, most: float) -> None:
    with gzip.open(shared_data / "text/tinystories_part.jsonl.gz", "rt") as stream:
        lengths = np.array([len(json.loads(line)["text"].encode()) // 4 + 1 for line in stream])
    plan = planned(lengths, length)
    assert 0 <= 1 - lengths.sum() / (length * rows_of(plan)) < most


@pytest.mark.proof
def test_a_million_documents_are_packed_in_seconds() -> None:
    lengths = np.maximum(1, np.random.default_rng(0).lognormal(6.3, 1.2, 1_000_000)).astype(np.int64)
    begun = process_time()
    plan = planned(lengths, 2_048)
    assert process_time() - begun < 10
    assert int(plan[3].sum(dtype=np.int64)) == int(lengths.sum())


@pytest.fixture(scope="module")
def no_ray_after() -> Iterator[None]:
    """Others start their own."""
    yield
    import ray

    ray.shutdown()


def test_plans_are_made_as_shards_and_one_more_shard_costs_one_more_plan(tmp_path: Path, no_ray_after: None) -> None:
    """Two corpora whose shards have the same names; the run settings are a training's."""
    books, web = (
        Corpus(role, write_shard(tmp_path / role, "same", "train", 40, seed=seed)[:2]) for seed, role in enumerate(("books", "web"))
    )
    more = replace(web, train=(*web.train, *write_shard(tmp_path / "web", "more", "train", 20, seed=7)[:2]))
    params = PretrainParams(sequence_length=32, batch_tokens=64, packing="best_fit")
    ctx = context(pretrain, tmp_path / "stage")
    ctx.run = TrainRun()
    assert packed_corpora(ctx, params, (books, replace(web, train=()))) and ctx.shards_computed == 1
    found = packed_corpora(ctx, params, (books, more))
    assert (ctx.shards_computed, ctx.shards_reused) == (3, 1)
    for corpus in found:
        index = PackedIndex(open_shards(corpus.train), [plan.path for plan in corpus.plans], end_id=END, length=32, seed=0)
        assert index.rows_per_epoch * 32 == corpus.places(32)
        targets = index.rows(range(index.rows_per_epoch)).targets
        everything = Counter(int(token) for part in open_shards(corpus.train) for token in part.tokens)
        assert Counter(targets[targets != IGNORED].tolist()) == everything
    assert packed_corpora(ctx, replace(params, packing="concatenate"), (books,)) == (books,)


def test_the_stage_trains_on_packed_corpora_as_mixture_phase_and_cap_say(tmp_path: Path, no_ray_after: None) -> None:
    tokenizer = Artifact("tokenizer", "t", "t", str(write_tokenizer(tmp_path)), (), {"lineage": {}})
    corpora: dict[str, Any] = {}
    indexes: dict[str, PackedIndex] = {}
    for seed, role in enumerate(("books", "web")):
        files = tuple(replace(file, records=1) for file in write_shard(tmp_path / role, "same", "train", 40, seed=seed))
        corpora[role] = replace(tokenizer, stage="tokenize", digest=role, files=files)
        (tmp_path / "plans" / role).mkdir(parents=True)
        indexes[role] = packed(open_shards(files), 24, 5, tmp_path / "plans" / role, window=WINDOW)
    whole = {role: index.rows_per_epoch for role, index in indexes.items()}
    held = {role: sum(len(part.tokens) for part in open_shards(corpora[role].select("train"))) for role in corpora}
    ctx = context(pretrain, tmp_path / "stage", tokenizer=tokenizer, **corpora)
    ctx.run = TrainRun(workers=0, zero=0, checkpoint_every=100, keep_last=1)
    length: dict[str, Any] = {"sequence_length": 24, "batch_tokens": 96, "max_steps": 8, "schedule": "constant", "validation_tokens": 0}
    given: dict[str, Any] = {"mixture": {"books": 3.0, "web": 1.0}, "phases": (Phase(0.75, {"books": 1.0, "web": 1.0}),)}
    given |= {"max_epochs": {"web": 9.5 / whole["web"]}, "packing": "best_fit"}
    metrics = alone(lambda: pretrain(ctx, PretrainParams(model=TINY, seed=5, **length, **given)))

    rows = {"books": 23, "web": 9}  # 18 and 6 in six steps, then in turns, until the ninth of the web is the last
    for role, number in rows.items():
        assert metrics[f"{role}_tokens"] == number * held[role] // whole[role]
        assert metrics[f"{role}_epochs"] == round(number / whole[role], 4)
        assert metrics[f"{role}_padding"] == round(1 - held[role] / (24 * whole[role]), 6) > 0
    read = [indexes[role].rows(range(number)).targets for role, number in rows.items()]
    assert metrics["tokens"] == sum(int((targets != IGNORED).sum()) for targets in read) < 8 * 96
    told = [event for event in map(json.loads, (tmp_path / "stage" / "events.jsonl").read_text().splitlines()) if "norm" in event]
    assert [event["phase"] for event in told] == [0] * 6 + [1, 1]
    assert [event["web_epoch"] * whole["web"] for event in told] == pytest.approx([0, 1, 2, 3, 4, 5, 6, 8])
    assert [checkpoint.step for checkpoint in ctx.trajectory.complete()] == [8, 6]
