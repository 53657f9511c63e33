"""The mixture: weights held in every stretch, caps kept, a pure function of the row, and rows read as their own corpus gives them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.token_shards import count_tokens
from pipeline.stage import Artifact, UserError
from tests.data_prep.contexts import context
from tests.trainer.worlds import END, write_shard
from trainer.data.mixture import Mixture
from trainer.engine import TrainRun
from trainer.model.config import ModelConfig
from trainer.stages import PretrainParams, check_pretraining, mixed_corpora, pretrain
from trainer.tasks.language_model import Corpus, Pretraining

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


def test_a_weight_that_no_cycle_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="65,536"):
        Mixture([1, 1e-6], [None, None])


class TestRows:
    def corpora(self, tmp_path: Path, **changes: float) -> tuple[Corpus, ...]:
        files = [write_shard(tmp_path, name, "train", 40, seed=seed)[:2] for seed, name in enumerate(("web", "books"))]
        return Corpus(files[0], 3, None), Corpus(files[1], 1, changes.get("cap"))

    def task(self, tmp_path: Path, corpora: tuple[Corpus, ...], **changes: object) -> Pretraining:
        *held_out, table = write_shard(tmp_path, "web", "validation", 12, seed=9)
        values = {"train": (), "end_id": END, "sequence_length": 24, "rows_per_step": 6, "validation_tokens": 200, "seed": 0}
        return Pretraining(**{**values, "validation": tuple(held_out), "tables": (table,), "corpora": corpora, **changes})  # type: ignore[arg-type]

    def test_come_from_the_corpus_that_the_mixture_names(self, tmp_path: Path) -> None:
        corpora = self.corpora(tmp_path)
        index = self.task(tmp_path, corpora)._mixed()
        alone = [self.task(tmp_path, (), train=corpus.train)._sampled(corpus.train) for corpus in corpora]
        mixture = Mixture([3, 1], [None, None])
        numbers = [0, 1, 2, 3, 4, 99, 5]
        rows = index.rows(numbers)
        for place, number in enumerate(numbers):
            corpus, row = mixture.place(number)
            expected = alone[corpus].rows([row])
            assert all(
                np.array_equal(getattr(rows, name)[place], getattr(expected, name)[0]) for name in ("inputs", "targets", "documents")
            )
        assert index.rows([]).inputs.shape == (0, 24)

    def test_a_cap_counts_epochs_of_tokens(self, tmp_path: Path) -> None:
        _, books = self.corpora(tmp_path, cap=2.5)
        assert books.max_rows(24) == int(2.5 * count_tokens(books.train) / 24)


class TestResolving:
    def artifacts(self, tmp_path: Path, tokenizer: str = "t") -> dict[str, Artifact]:
        made = {}
        for seed, role in enumerate(("books", "corpus")):
            files = write_shard(tmp_path, role, "train", 60, seed=seed)
            manifest = {"inputs": {"tokenizer": {"digest": tokenizer}}}
            made[role] = Artifact("tokenize", role, role, str(tmp_path), files[:2], manifest)
        return made

    def resolved(self, tmp_path: Path, tokenizer: str = "t", **params: object) -> tuple[tuple[Corpus, ...], dict[str, float]]:
        class Context:
            inputs = {"tokenizer": Artifact("tokenizer", "t", "t", "", (), {})}  # noqa: RUF012

        values = {"sequence_length": 16, "batch_tokens": 64, "max_steps": 20, "model": ModelConfig(max_position_embeddings=64)}
        settings = PretrainParams(**{**values, **params})  # type: ignore[arg-type]
        return mixed_corpora(Context(), settings, self.artifacts(tmp_path, tokenizer))  # type: ignore[arg-type]

    def test_without_mixture_all_corpora_are_one(self, tmp_path: Path) -> None:
        assert self.resolved(tmp_path) == ((), {})

    def test_tokens_and_epochs_of_each_corpus_are_told(self, tmp_path: Path) -> None:
        corpora, given_tokens = self.resolved(tmp_path, mixture={"corpus": 3.0, "books": 1.0})
        tokens = [count_tokens(corpus.train) for corpus in corpora]
        assert given_tokens == {
            "books_tokens": 320, "books_epochs": round(320 / tokens[0], 4),
            "corpus_tokens": 960, "corpus_epochs": round(960 / tokens[1], 4),
        }  # fmt: skip

    def test_a_corpus_that_is_not_in_the_mixture_is_left_out(self, tmp_path: Path) -> None:
        corpora, given_tokens = self.resolved(tmp_path, mixture={"books": 1.0})
        assert len(corpora) == 1
        assert given_tokens["books_tokens"] == 1280

    def test_caps_alone_keep_the_natural_proportions(self, tmp_path: Path) -> None:
        corpora, _ = self.resolved(tmp_path, max_epochs={"books": 9.0})
        assert [corpus.weight for corpus in corpora] == [count_tokens(corpus.train) for corpus in corpora]
        assert [corpus.max_epochs for corpus in corpora] == [9.0, None]

    def test_what_cannot_be_is_a_user_error(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"mixture\.boks.*books, corpus"):
            check_pretraining("pretrain", PretrainParams(mixture={"boks": 1.0}), TrainRun(), (), ("tokenizer", "corpus", "books"))
        with pytest.raises(UserError, match=r"allow \d+ steps, not max_steps=500"):
            self.resolved(tmp_path, max_epochs={"books": 1.0, "corpus": 1.0}, max_steps=500)
        with pytest.raises(UserError, match="another tokenizer"):
            self.resolved(tmp_path, "u")


def test_a_corpus_without_documents_is_refused_before_anything_is_launched(tmp_path: Path) -> None:
    artifacts = {
        role: Artifact("tokenize", "f", "d", str(tmp_path), write_shard(tmp_path / role, "pages", "train", 0), {}) for role in "ab"
    }
    ctx = context(pretrain, tmp_path / "stage", **artifacts)
    with pytest.raises(UserError, match=r"needs\.a, needs\.b: no document to train on"):
        pretrain(ctx, PretrainParams())
