"""The mixture: weights held in every stretch, caps kept, a pure function of the row, and rows read as their own corpus gives them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.token_shards import open_shards
from pipeline.identity import identity_of_params
from pipeline.stage import Artifact, File, UserError
from tests.data_prep.contexts import context
from tests.trainer.worlds import END, write_shard
from trainer.data.corpus import Corpus
from trainer.data.mixture import MixedIndex, Mixture
from trainer.data.sample_index import SampleIndex
from trainer.engine import TrainRun
from trainer.model.config import ModelConfig
from trainer.stages import Phase, PretrainParams, check_pretraining, mixed_corpora, pretrain

weights = st.lists(st.floats(0.01, 1), min_size=1, max_size=5)
caps = st.one_of(st.none(), st.integers(0, 300))


def test_a_mixture_of_nothing_counts_nothing() -> None:
    mixture = Mixture([1.0, 2.0], [0, 0])
    assert mixture.rows == 0 and mixture.counts(0) == [0, 0]


@given(weights, st.data())
@settings(max_examples=100)
def test_every_corpus_gives_its_rows_in_order_and_no_more_than_its_cap(parts: list[float], data: st.DataObject) -> None:
    limits = data.draw(st.lists(caps, min_size=len(parts), max_size=len(parts)))
    mixture = Mixture(parts, limits)
    if None in limits:
        assert mixture.rows is None
    else:
        assert mixture.rows == sum(limit for limit in limits if limit)
    rows = min(1_000, mixture.rows if mixture.rows is not None else 1_000)
    given_rows: Counter[int] = Counter()
    for row in range(rows):
        corpus, number = mixture.place(row)
        assert number == given_rows[corpus]
        given_rows[corpus] += 1
    assert mixture.counts(rows) == [given_rows[corpus] for corpus in range(len(parts))]
    assert all(limit is None or given_rows[corpus] <= limit for corpus, limit in enumerate(limits))


@given(weights, st.integers(0, 100_000), st.integers(1, 2_000))
@settings(max_examples=100)
def test_any_stretch_has_nearly_the_weights(parts: list[float], start: int, length: int) -> None:
    mixture = Mixture(parts, [None] * len(parts))
    counted = np.array(mixture.counts(start + length)) - np.array(mixture.counts(start))
    assert counted.sum() == length
    shares = np.array(parts) / sum(parts)
    assert (np.abs(counted - length * shares) <= 1 + len(parts) * shares + length / 65_536).all()  # each part is rounded at both ends


@given(weights, st.lists(st.integers(0, 3_000), max_size=20))
@settings(max_examples=50)
def test_a_row_depends_on_its_number_alone(parts: list[float], rows: list[int]) -> None:
    limits = [None, *([500] * (len(parts) - 1))]
    one, other = Mixture(parts, limits), Mixture(parts, limits)
    assert [one.place(row) for row in rows] == [other.place(row) for row in reversed(rows)][::-1]


def test_the_others_share_by_their_weights_when_a_corpus_has_reached_its_cap() -> None:
    mixture = Mixture([0.5, 0.3, 0.2], [100, None, None])
    assert mixture.counts(200) == [100, 60, 40]
    assert mixture.counts(700) == [100, 360, 240]
    with pytest.raises(IndexError, match="row 30 of 30"):
        Mixture([1, 2], [10, 20]).place(30)
    with pytest.raises(IndexError):
        Mixture([1, 2], [10, 20]).counts(31)


@given(st.data(), st.integers(2, 4))
@settings(max_examples=100)
def test_phases_hold_their_weights_from_their_first_row_on(data: st.DataObject, corpora: int) -> None:
    share = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=corpora, max_size=corpora).filter(any)
    starts = sorted(data.draw(st.sets(st.integers(1, 400), max_size=3)))
    changes = [(start, data.draw(share)) for start in starts]
    limits = data.draw(st.lists(caps, min_size=corpora, max_size=corpora))
    mixture = Mixture(data.draw(share), limits, changes)
    rows = min(600, mixture.rows if mixture.rows is not None else 600)
    given_rows: Counter[int] = Counter()
    for row in range(rows):
        corpus, number = mixture.place(row)
        assert number == given_rows[corpus]
        given_rows[corpus] += 1
        if mixture.phase(row):
            assert changes[mixture.phase(row) - 1][1][corpus] > 0
    assert mixture.counts(rows) == [given_rows[corpus] for corpus in range(corpora)]
    assert all(limit is None or given_rows[corpus] <= limit for corpus, limit in enumerate(limits))


def test_counts_are_exact_where_a_phase_begins() -> None:
    mixture = Mixture([3, 1, 0], [None, None, 130], [(100, [1, 1, 2]), (300, [0, 1, 0])])
    assert [mixture.counts(rows) for rows in (100, 200, 300, 310)] == [[75, 25, 0], [100, 50, 50], [125, 75, 100], [125, 85, 100]]
    assert [mixture.phase(row) for row in (0, 99, 100, 299, 300)] == [0, 0, 1, 1, 2]
    # once none of a phase's corpora has rows left there is nothing to give, whatever would come after it
    assert Mixture([1, 1], [None, 40], [(100, [0, 1]), (200, [1, 0])]).rows == 100


def test_the_digest_tells_whether_the_rows_so_far_are_the_same() -> None:
    short, long = (Mixture([3, 1], [None, None], [(start, [1, 1])]) for start in (100, 200))
    assert short.digest(100) == long.digest(100) != long.digest(0)
    assert short.digest(101) != long.digest(101)
    assert Mixture([3, 1], [None, None]).digest(50) == short.digest(50) != Mixture([2, 1], [None, None]).digest(50)


def test_a_weight_that_no_cycle_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="65,536"):
        Mixture([1, 1e-6], [None, None])


class TestRows:
    def corpora(self, tmp_path: Path) -> tuple[Corpus, ...]:
        return tuple(Corpus(name, write_shard(tmp_path, name, "train", 40, seed=seed)[:2]) for seed, name in enumerate(("web", "books")))

    def test_come_from_the_corpus_that_the_mixture_names(self, tmp_path: Path) -> None:
        mixture = Mixture([3, 1], [None, None])
        indexes = [SampleIndex(open_shards(corpus.train), end_id=END, length=24, seed=0) for corpus in self.corpora(tmp_path)]
        numbers = [0, 1, 2, 3, 4, 99, 5]
        rows = MixedIndex(indexes, mixture, 24).rows(numbers)
        for place, number in enumerate(numbers):
            corpus, row = mixture.place(number)
            expected = indexes[corpus].rows([row])
            assert all(
                np.array_equal(getattr(rows, name)[place], getattr(expected, name)[0]) for name in ("inputs", "targets", "documents")
            )
        assert MixedIndex(indexes, mixture, 24).rows([]).inputs.shape == (0, 24)


class TestResolving:
    """How the params make a mixture of the corpora, and what they say that cannot be."""

    def resolved(self, tmp_path: Path, **params: object) -> tuple[Mixture | None, dict[str, float]]:
        corpora = [Corpus(name, write_shard(tmp_path, name, "train", 60, seed=seed)[:2]) for seed, name in enumerate(("books", "corpus"))]
        self.tokens = [corpus.tokens() for corpus in corpora]
        mixture = params.get("mixture") or {"books": 1.0, "corpus": 1.0}
        assert isinstance(mixture, dict)
        return mixed_corpora("pretrain", self.params(**params), [corpus for corpus in corpora if corpus.role in mixture])

    def params(self, **changes: object) -> PretrainParams:
        values = {"sequence_length": 16, "batch_tokens": 64, "max_steps": 20, "model": ModelConfig(max_position_embeddings=64)}
        return PretrainParams(**{**values, **changes})  # type: ignore[arg-type]

    def test_without_mixture_all_corpora_are_one(self, tmp_path: Path) -> None:
        assert self.resolved(tmp_path) == (None, {})

    def test_tokens_and_epochs_of_each_corpus_are_told(self, tmp_path: Path) -> None:
        _, told = self.resolved(tmp_path, mixture={"corpus": 3.0, "books": 1.0})
        assert told == {
            "books_tokens": 320, "books_epochs": round(320 / self.tokens[0], 4),
            "corpus_tokens": 960, "corpus_epochs": round(960 / self.tokens[1], 4),
        }  # fmt: skip

    def test_a_phase_gives_other_weights_from_its_step_on(self, tmp_path: Path) -> None:
        mixture, told = self.resolved(tmp_path, mixture={"corpus": 1.0, "books": 0.0}, phases=(Phase(0.75, {"books": 1.0}),))
        assert mixture is not None
        assert (told["corpus_tokens"], told["books_tokens"]) == (15 * 64, 5 * 64)
        assert mixture.counts(60) == [0, 60] and mixture.counts(61) == [1, 60]  # 15 steps of 4 rows

    def test_phases_alone_begin_with_the_natural_proportions(self, tmp_path: Path) -> None:
        mixture, _ = self.resolved(tmp_path, phases=(Phase(0.5, {"books": 1.0}),))
        assert mixture is not None
        books, corpus = mixture.counts(40)
        assert books / 40 == pytest.approx(self.tokens[0] / sum(self.tokens), abs=0.03) and books + corpus == 40
        assert mixture.counts(80) == [books + 40, corpus]

    def test_a_cap_counts_epochs_of_tokens(self, tmp_path: Path) -> None:
        mixture, told = self.resolved(tmp_path, max_epochs={"books": 0.5}, max_steps=100)
        assert mixture is not None
        assert mixture.counts(400)[0] == int(0.5 * self.tokens[0] / 16) and told["books_epochs"] <= 0.5

    def test_packed_corpora_count_their_padding(self, tmp_path: Path) -> None:
        files = write_shard(tmp_path, "books", "train", 60, seed=0)[:2]
        plan = File("packing/books.npy", "", 90, 0, "")
        corpus = Corpus("books", files, plans=(plan,))
        padding = round(1 - corpus.tokens() / (90 * 16), 6)
        assert mixed_corpora("pretrain", self.params(packing="best_fit"), [corpus]) == (None, {"padding": padding})
        mixture, told = mixed_corpora("pretrain", self.params(packing="best_fit", max_epochs={"books": 2.0}, max_steps=40), [corpus])
        assert mixture is not None and mixture.rows == 180  # five steps more, for those that the guard may leave out
        assert told == {"books_tokens": 160 * corpus.tokens() // 90, "books_epochs": 1.7778, "books_padding": padding}

    def test_what_cannot_be_is_a_user_error(self, tmp_path: Path) -> None:
        roles = ("tokenizer", "corpus", "books")
        with pytest.raises(UserError, match=r"mixture\.boks.*books, corpus"):
            check_pretraining("pretrain", PretrainParams(mixture={"boks": 1.0}), TrainRun(), (), roles)
        with pytest.raises(UserError, match=r"phases\.0\.mixture\.boks.*books, corpus"):
            check_pretraining("pretrain", PretrainParams(phases=(Phase(0.5, {"boks": 1.0}),)), TrainRun(), (), roles)
        with pytest.raises(UserError, match=r"makes 4 rows .* too few for 5 ranks; raise it to 80 or lower pretrain\.run\.workers"):
            check_pretraining("pretrain", self.params(), TrainRun(workers=5), (), roles)
        with pytest.raises(UserError, match=r"allow \d+ steps, and 5 that guard\.rollbacks may leave out, not max_steps=500"):
            self.resolved(tmp_path, max_epochs={"books": 1.0, "corpus": 1.0}, max_steps=500)
        with pytest.raises(
            UserError, match=r"allow 5 steps, and 5 that .* not max_steps=20"
        ):  # the cap of the last phase, whatever others may give
            self.resolved(tmp_path, mixture={"corpus": 1}, phases=(Phase(0.5, {"books": 1}),), max_epochs={"books": 0.001})
        with pytest.raises(UserError, match=r"less than 1/65,536.*raise that weight"):
            self.resolved(tmp_path, mixture={"corpus": 1.0, "books": 1e-9})

    def test_params_that_contradict_each_other_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"phases\.1 begins with step 10 of 20.*order phases by begin"):
            self.params(phases=(Phase(0.6, {"a": 1.0}), Phase(0.5, {"a": 1.0})))
        with pytest.raises(ValueError, match=r"phases\.0 begins with step 0 of 20"):
            self.params(phases=(Phase(0.01, {"a": 1.0}),))
        with pytest.raises(ValueError, match=r"phases\.0\.mixture gives weight to no corpus"):
            self.params(phases=(Phase(0.5, {}),))
        with pytest.raises(ValueError, match=r"^mixture gives weight to no corpus"):
            self.params(mixture={"a": 0.0})

    def test_packing_and_phases_leave_older_identities_as_they_are(self) -> None:
        told = identity_of_params(self.params())
        assert not {"packing", "phases", "mixture", "max_epochs"} & {*told}
        assert identity_of_params(self.params(phases=(Phase(0.5, {"a": 1.0}),)))["phases"] == [{"begin": 0.5, "mixture": {"a": 1.0}}]


def test_a_corpus_without_documents_is_refused_before_anything_is_launched(tmp_path: Path) -> None:
    artifacts = {
        role: Artifact("tokenize", "f", "d", str(tmp_path), write_shard(tmp_path / role, "pages", "train", 0), {}) for role in "ab"
    }
    ctx = context(pretrain, tmp_path / "stage", **artifacts)
    with pytest.raises(UserError, match=r"needs\.a, needs\.b: no document to train on"):
        pretrain(ctx, PretrainParams())
