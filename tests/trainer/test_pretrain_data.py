"""What a pretraining reads: batches that skip rows, validation of each corpus, and shards that are refused before the first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.token_shards import TokenShardWriter, open_shards
from pipeline.stage import Artifact, File, UserError
from tests.data_prep.contexts import context
from tests.trainer.assistants import save_assistant
from tests.trainer.worlds import END, TINY, VOCABULARY, alone, pretraining, training, write_shard
from trainer.data.corpus import Corpus
from trainer.data.mixture import Mixture
from trainer.data.packing import planned, rows_of
from trainer.engine import TrainRun
from trainer.model.config import ModelConfig
from trainer.model.transformer import Transformer
from trainer.stages import Phase, PretrainParams, pretrain, sound_corpora
from trainer.tasks.language_model import HeldOut, Pretraining
from trainer.tasks.task import Place

MODEL = Transformer(TINY.resolved(VOCABULARY), seed=1)


def started(task: Pretraining, rank: int = 0, world: int = 1, micro_batch: int = 4) -> Pretraining:
    task.start(Place(rank, world, torch.device("cpu"), micro_batch), MODEL)
    return task


def corpus(directory: Path, role: str, seed: int, plans: bool = False) -> Corpus:
    train = write_shard(directory, role, "train", 30, seed=seed)[:2]
    *validation, table = write_shard(directory, role, "validation", 12, seed=seed + 100)
    if not plans:
        return Corpus(role, train, tuple(validation), (table,))
    plan = planned(open_shards(train)[0].lengths, 24)
    path = directory / f"{role}.npy"
    np.save(path, plan)
    return Corpus(role, train, tuple(validation), (table,), (File.of(f"packing/{role}.npy", path, rows_of(plan)),))


@pytest.fixture(scope="module", params=["concatenate", "best_fit"])
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pretraining:
    directory = tmp_path_factory.mktemp(request.param)
    corpora = tuple(corpus(directory, role, seed, request.param == "best_fit") for seed, role in enumerate(("books", "web")))
    return pretraining(directory, corpora=corpora, mixture=Mixture([1, 2], [None, None], [(40, [2, 1])]))


def rows_of_step(task: Pretraining, step: int, world: int, micro_batch: int, skipped: Sequence[int]) -> list[tuple[int, ...]]:
    """The targets that all ranks read, in the order of the global batch."""
    dealt = []
    for rank in range(world):
        mine = started(replace(task), rank, world, micro_batch)
        mine.skip(skipped)
        batches = mine.micro_batches(step, MODEL)
        assert all(len(batch.targets) == micro_batch for batch in batches[:-1])
        dealt.append([tuple(row) for batch in batches for row in batch.targets.tolist()])
    return [dealt[place % world][place // world] for place in range(task.rows_per_step)]


@given(st.sets(st.integers(0, 90), max_size=12), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=8)
def test_with_any_skip_list_each_other_row_is_read_once_whatever_the_ranks(
    task: Pretraining, skipped: set[int], world: int, micro_batch: int
) -> None:
    alone_task = started(replace(task))
    plain = [tuple(row) for step in range(17) for batch in alone_task.micro_batches(step, MODEL) for row in batch.targets.tolist()]
    alone_task.skip([*skipped, *skipped])
    seen = []
    for step in range(12):
        rows = rows_of_step(task, step, world, micro_batch, sorted(skipped))
        assert rows == [plain[number] for number in alone_task.sample_numbers(step)]
        seen += alone_task.sample_numbers(step)
    assert seen == [number for number in range(seen[-1] + 1) if number not in skipped]


def test_an_epoch_is_every_token_of_every_corpus_once_even_where_shards_have_one_name(tmp_path: Path) -> None:
    parts = tuple(corpus(tmp_path / role, "same", seed) for seed, role in enumerate(("a", "b")))
    tokens = [int(token) for part in parts for shard in open_shards(part.train) for token in shard.tokens]
    task = started(pretraining(tmp_path, corpora=parts, sequence_length=24, rows_per_step=1))
    steps = -(-len(tokens) // 24)
    seen = [token for step in range(steps) for batch in task.micro_batches(step, MODEL) for token in batch.targets.flatten().tolist()]
    assert Counter(seen[: len(tokens)]) == Counter(tokens)
    assert task.position(steps)["epoch"] == pytest.approx(1, abs=24 / len(tokens))


def test_the_digest_of_the_data_counts_what_was_read_and_the_skipped_rows_between(task: Pretraining) -> None:
    short, long = (started(replace(task, mixture=Mixture([1, 2], [None, None], [(at, [2, 1])]))) for at in (36, 60))
    assert short.data_digest(6, ()) == long.data_digest(6, ()) == started(replace(task)).data_digest(6, ())
    assert short.data_digest(7, ()) != long.data_digest(7, ())
    assert short.data_digest(6, [3]) != long.data_digest(6, [3])  # six steps now read the row with which the short one's phase begins
    single = started(replace(task, mixture=None))
    assert single.data_digest(0, ()) == single.data_digest(99, [5])


def test_the_position_tells_epochs_and_phase(task: Pretraining) -> None:
    begun = started(replace(task))
    assert begun.position(0) == {"books_epoch": 0.0, "web_epoch": 0.0, "phase": 0}
    later = begun.position(9)
    assert later["phase"] == 1 and later["books_epoch"] > 0 and later["web_epoch"] > 0


@pytest.mark.parametrize("skipped", [(), (0,)], ids=["to be told", "to tell from"])
def test_an_id_beyond_the_vocabulary_is_one_line_at_its_step(tmp_path: Path, skipped: tuple[int, ...]) -> None:
    with TokenShardWriter(tmp_path / "a.bin", 100) as writer:
        writer.write([5, 6, VOCABULARY, 7, 8, END])
    files = tuple(File.of(f"train/a{suffix}", tmp_path / f"a{suffix}") for suffix in (".bin", ".idx"))
    changes: dict[str, Any] = {"validation_tokens": 0, "sequence_length": 3, "rows_per_step": 1}
    task = started(pretraining(tmp_path, corpora=(Corpus("corpus", files),), **changes))
    task.skip(skipped)  # the last to be told in the first row is the first to tell from in the second
    with pytest.raises(UserError, match=rf"step 1: a token shard holds the id {VOCABULARY}, the vocabulary has {VOCABULARY} tokens"):
        task.micro_batches(0, MODEL)


def test_an_id_beyond_the_vocabulary_is_one_line_where_it_is_validated_on(tmp_path: Path) -> None:
    whole = pretraining(tmp_path)
    [corpus] = whole.corpora
    with TokenShardWriter(Path(corpus.validation[0].path), 100) as writer:
        for _ in range(12):
            writer.write([5, VOCABULARY, END])
    with pytest.raises(
        UserError, match=rf"^validation: a token shard holds the id {VOCABULARY}, .* tokenize it with the tokenizer of the model$"
    ):
        started(whole)


class TestValidation:
    def measured(self, directory: Path, task: Pretraining) -> dict[str, float]:
        found: dict[str, float] = alone(training, directory, task, TrainRun(workers=1, zero=0)).state.history[-1]["validation"]
        return found

    def test_each_corpus_has_its_own_numbers_beside_the_total(self, tmp_path: Path) -> None:
        books, web = (corpus(tmp_path, role, seed) for seed, role in enumerate(("books", "web")))
        both = pretraining(tmp_path, corpora=(replace(books, train=()), web))
        found = self.measured(tmp_path / "both", both)
        names = ["loss", "bits_per_byte"]
        assert [*found] == [*names, *(f"{role}_{name}" for role in ("books", "web") for name in names)]
        # the same weights on one corpus alone
        only = pretraining(tmp_path, corpora=(web,))
        single = self.measured(tmp_path / "web", only)
        assert [*single] == names
        assert found["web_loss"] == pytest.approx(single["loss"], rel=1e-12)
        assert found["web_bits_per_byte"] == pytest.approx(single["bits_per_byte"], rel=1e-12)
        tokens = {}
        for batch in started(both).validation_batches():
            assert isinstance(batch, HeldOut)
            tokens[batch.role] = tokens.get(batch.role, 0.0) + both.counts(batch)["tokens"]
        assert all(200 <= held < 240 for held in tokens.values())
        total = sum(found[f"{role}_loss"] * held for role, held in tokens.items()) / sum(tokens.values())
        assert found["loss"] == pytest.approx(total, rel=1e-12)

    def test_none_is_measured_where_none_is_asked_for(self, tmp_path: Path) -> None:
        assert self.measured(tmp_path, pretraining(tmp_path, validation_tokens=0)) == {}

    def test_a_table_of_other_documents_is_refused(self, tmp_path: Path) -> None:
        part = corpus(tmp_path, "web", 0)
        table = write_shard(tmp_path, "other", "validation", 13)[2]
        with pytest.raises(UserError, match="web: its validation shards hold 12 documents, their tables name 13"):
            started(pretraining(tmp_path, corpora=(replace(part, tables=(table,)),)))


class TestShardsAreLookedAtFirst:
    def artifact(self, directory: Path, role: str, tokenizer: str = "t") -> Artifact:
        part = corpus(directory, role, len(role))
        manifest = {"inputs": {"tokenizer": {"digest": tokenizer}}}
        return Artifact("tokenize", role, role, str(directory), (*part.train, *part.validation, *part.tables), manifest)

    def checked(self, *artifacts: Artifact, vocab_size: int = VOCABULARY, **params: Any) -> tuple[Corpus, ...]:
        class Context:
            name = "pretrain"
            inputs = {"tokenizer": Artifact("tokenizer", "t", "t", "", (), {}), **{found.digest: found for found in artifacts}}  # noqa: RUF012

        values = {"sequence_length": 16, "batch_tokens": 64, "model": ModelConfig(max_position_embeddings=64)}
        return sound_corpora(Context(), PretrainParams(**{**values, **params}), vocab_size)  # type: ignore[arg-type]

    def test_sound_ones_pass_and_one_without_weight_is_only_validated_on(self, tmp_path: Path) -> None:
        books, web = self.artifact(tmp_path, "books"), self.artifact(tmp_path, "web")
        assert [bool(found.train) for found in self.checked(books, web)] == [True, True]
        both = self.checked(books, web, mixture={"books": 0.0, "web": 1.0})
        assert [(found.role, bool(found.train), len(found.validation)) for found in both] == [("books", False, 2), ("web", True, 2)]
        later = self.checked(books, web, mixture={"web": 1.0}, phases=(Phase(0.5, {"books": 1.0}),))
        assert all(found.train for found in later)

    @pytest.mark.parametrize(
        ("damage", "trouble"),
        [
            (lambda path, _: path.unlink(), r"train/web\.bin is missing"),
            (lambda path, _: path.write_bytes(path.read_bytes()[:-2]), r"train/web\.bin has [\d,]+ bytes, [\d,]+ when it was made"),
            (
                lambda path, other: path.with_suffix(".idx").write_bytes(other.with_suffix(".idx").read_bytes()),
                r"train/web\.idx is not the file that was made",
            ),
            (
                lambda path, _: path.write_bytes(path.read_bytes()[::-1]),
                r"train/web\.bin is not the file that was made",
            ),
        ],
        ids=["missing", "truncated", "of other documents", "swapped"],
    )
    def test_one_that_is_not_as_it_was_made_is_refused(self, tmp_path: Path, damage: Callable[[Path, Path], object], trouble: str) -> None:
        found = self.artifact(tmp_path, "web")
        write_shard(tmp_path, "other", "train", 30, seed=77)
        damage(tmp_path / "train" / "web.bin", tmp_path / "train" / "other.bin")
        with pytest.raises(UserError, match=rf"^pretrain\.needs\.web: {trouble}.*put it back, or remove it and run force=") as raised:
            self.checked(found)
        assert "\n" not in str(raised.value)

    def test_ids_beyond_the_vocabulary_and_those_of_another_tokenizer_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"pretrain\.needs\.web: train/web\.bin holds the id \d+, the vocabulary has 40 tokens"):
            self.checked(self.artifact(tmp_path, "web"), vocab_size=40)
        with pytest.raises(UserError, match=r"pretrain\.needs\.web: its ids are those of another tokenizer"):
            self.checked(self.artifact(tmp_path, "web", tokenizer="u"))

    def test_nothing_to_validate_or_train_on_is_refused_with_the_mend(self, tmp_path: Path) -> None:
        found = self.artifact(tmp_path, "web")
        without = replace(found, files=found.select("train"))
        with pytest.raises(UserError, match=r"has none to validate on; raise tokenize\.validation_fraction or set .*validation_tokens=0"):
            self.checked(without)
        assert self.checked(without, validation_tokens=0)[0].train
        with TokenShardWriter(tmp_path / "empty.bin", VOCABULARY):
            pass
        empty = tuple(File.of(f"train/empty{suffix}", tmp_path / f"empty{suffix}") for suffix in (".bin", ".idx"))
        with pytest.raises(UserError, match=r"pretrain\.needs\.web: its shards hold no token to train on"):
            self.checked(replace(found, files=(*empty, *found.select("validation"), *found.select("index"))))

    def test_a_model_whose_vocabulary_is_smaller_than_the_tokenizer_s_is_refused(self, tmp_path: Path) -> None:
        _, tokenizer, _ = save_assistant(tmp_path / "assistant")
        corpus = self.artifact(tmp_path, "web")
        inputs = {
            "corpus": replace(corpus, files=tuple(replace(file, records=1) for file in corpus.files)),
            "tokenizer": Artifact("tokenizer", "t", "t", str(tmp_path / "assistant"), (), {}),
        }
        ctx = context(pretrain, tmp_path / "stage", **inputs)
        params = PretrainParams(model=ModelConfig(vocab_size=100))
        with pytest.raises(
            UserError, match=rf"pretrain\.model: vocab_size 100 .* the tokenizer's {tokenizer.vocab_size}; set vocab_size=0"
        ):
            pretrain(ctx, params)
