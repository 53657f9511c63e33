"""From documents to tokenizer and token shards: deterministic, complete, and split by document id."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from data_prep.documents import Document
from data_prep.stages import TokenizeParams, TokenizerParams, tokenize, tokenize_shard, tokenizer
from data_prep.stages.tokens import _sampled, check_tokenizer
from data_prep.token_shards import TokenShard, open_shards, read_index
from data_prep.tokenizer import Tokenizer
from pipeline.stage import Artifact, Counts, File, MapRun, Shard, Unit, UserError
from tests.data_prep.contexts import context, corpus, published, write_documents

VOCABULARY = TokenizerParams(vocab_size=340, sample_bytes=20_000)


def identity(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def tale(number: int) -> str:
    return f"Tale {number}: the fox, the hen and the {number * 7} eggs went to market with {'aeiou'[number % 5]}rn{number % 9}st.\n" * (
        number % 5
    )


DOCUMENTS = [Document(identity(number), "", tale(number), "", f"x#{number}") for number in range(300)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Artifact:
    root = tmp_path_factory.mktemp("tokenizer")
    ctx = context(tokenizer, root / "stage", corpus=corpus(root / "corpus", DOCUMENTS[:100], DOCUMENTS[100:]))
    metrics = tokenizer(ctx, VOCABULARY)
    assert metrics["vocab_size"] == 340
    assert metrics["sample_bytes"] >= 20_000 > metrics["sample_bytes"] - 500
    assert 1 < metrics["bytes_per_token"] < 16
    assert metrics["encoder"] == "gigatoken"
    return published(ctx)


class TestTokenizerStage:
    def test_publishes_a_directory_that_loads_everywhere(self, trained: Artifact) -> None:
        import transformers

        names = {file.name for file in trained.files}
        theirs_too = {"tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}
        assert names == theirs_too | {"encoder.json", "fertility.jsonl"}
        assert names == set(os.listdir(trained.directory))
        ours, theirs = Tokenizer.load(trained.directory), transformers.AutoTokenizer.from_pretrained(trained.directory)
        assert ours.encode(DOCUMENTS[4].text) == theirs(DOCUMENTS[4].text)["input_ids"]

    def test_division_into_files_and_their_order_change_no_byte(self, trained: Artifact, tmp_path: Path) -> None:
        divided = corpus(tmp_path / "corpus", DOCUMENTS[200:], [], DOCUMENTS[:50], DOCUMENTS[50:200])
        ctx = context(tokenizer, tmp_path / "stage", corpus=divided)
        tokenizer(ctx, VOCABULARY)
        assert [(file.name, file.sha256) for file in ctx.published] == [(file.name, file.sha256) for file in trained.files]

    def test_an_unreachable_vocabulary_is_a_user_error(self, tmp_path: Path) -> None:
        ctx = context(tokenizer, tmp_path / "stage", corpus=corpus(tmp_path / "corpus", DOCUMENTS))
        with pytest.raises(UserError, match=r"vocab_size=9000.*at most \d+"):
            tokenizer(ctx, TokenizerParams(vocab_size=9_000))
        assert not ctx.published

    def test_weights_decide_how_much_of_each_corpus_and_language_is_sampled(self, tmp_path: Path) -> None:
        german = [
            Document(identity(1_000 + number), "", f"Der Fuchs und die {number} Hühner. " * 4, "", f"y#{number}") for number in range(100)
        ]
        books = [
            Document(identity(2_000 + number), "", f"Chapter {number}: of whales and of ships. " * 4, "", f"b#{number}")
            for number in range(100)
        ]
        documents = corpus(tmp_path / "corpus", DOCUMENTS, german)
        inputs = {
            "corpus": documents,
            "scores": scores(tmp_path / "scores", ["en"] * len(DOCUMENTS), ["de"] * len(german), of=[DOCUMENTS, german]),
            "books": corpus(tmp_path / "books", books),
            "books_scores": scores(tmp_path / "books_scores", ["en"] * len(books), of=[books]),
        }
        params = TokenizerParams(vocab_size=330, sample_bytes=4_000, weights={"corpus": 3, "books": 1}, language_weights={"en": 1, "de": 3})
        training, held_out = _sampled(context(tokenizer, tmp_path / "stage", **inputs), params)
        drawn = {"corpus en": 0, "corpus de": 0, "books en": 0}
        for text in training:
            drawn[("books " if "whales" in text.text else "corpus ") + text.language] += len(text.text.encode())
        assert [round(size, -3) for size in drawn.values()] == [1_000, 2_000, 1_000]
        assert {text.id for text in training + held_out} == {document.id for document in [*DOCUMENTS, *german, *books]}
        assert not {text.id for text in training} & {text.id for text in held_out}

    def test_a_large_corpus_is_drawn_from_by_tasks_and_gives_the_same_sample(self, tmp_path: Path) -> None:
        documents = corpus(tmp_path / "corpus", DOCUMENTS[:130], DOCUMENTS[130:])
        languages = scores(tmp_path / "scores", ["en", "de"] * 65, ["en", "de"] * 85, of=[DOCUMENTS[:130], DOCUMENTS[130:]])
        params = TokenizerParams(sample_bytes=2_000, language_weights={"en": 2, "other": 1})
        ctx = context(tokenizer, tmp_path / "stage", corpus=documents, scores=languages)
        assert sum(file.bytes for file in documents.files) > 2_000
        by_tasks = _sampled(ctx, params)
        assert ctx.shards_computed == 4
        assert {text.language for text in by_tasks[0]} == {"en", "de"}
        larger = replace(documents, files=tuple(replace(file, bytes=1) for file in documents.files))
        assert _sampled(context(tokenizer, tmp_path / "small", corpus=larger, scores=languages), params) == by_tasks

    def test_what_is_not_there_cannot_be_weighted(self) -> None:
        with pytest.raises(UserError, match=r"needs\.scores"):
            check_tokenizer("tokenizer", TokenizerParams(language_weights={"en": 1}), MapRun(), (), ("corpus",))
        with pytest.raises(UserError, match=r"weights\.boks.*corpus"):
            check_tokenizer("tokenizer", TokenizerParams(weights={"boks": 1}), MapRun(), (), ("corpus", "scores"))
        check_tokenizer("tokenizer", TokenizerParams(language_weights={"en": 1}, weights={"corpus": 1}), MapRun(), (), ("corpus", "scores"))
        with pytest.raises(ValueError, match="all 0"):
            TokenizerParams(weights={"corpus": 0})

    def test_scores_of_another_corpus_are_refused(self, tmp_path: Path) -> None:
        documents = corpus(tmp_path / "corpus", DOCUMENTS, DOCUMENTS[:3])
        fewer = scores(tmp_path / "scores", ["en"] * 300, of=[DOCUMENTS])
        with pytest.raises(UserError, match="part-1"):
            tokenizer(context(tokenizer, tmp_path / "stage", corpus=documents, scores=fewer), VOCABULARY)
        others = scores(tmp_path / "others", ["en"] * 290, ["en"] * 3, of=[DOCUMENTS[:290], DOCUMENTS[:3]])
        with pytest.raises(UserError, match="score this corpus"):
            tokenizer(context(tokenizer, tmp_path / "other", corpus=documents, scores=others), VOCABULARY)

    def test_fertility_is_reported_by_language(self, tmp_path: Path) -> None:
        documents = corpus(tmp_path / "corpus", DOCUMENTS)
        languages = scores(tmp_path / "scores", ["en", "de"] * 150, of=[DOCUMENTS])
        ctx = context(tokenizer, tmp_path / "stage", corpus=documents, scores=languages)
        assert tokenizer(ctx, TokenizerParams(vocab_size=340, sample_bytes=9_000))["languages"] == 2
        rows = [json.loads(line) for line in Path(ctx.path("fertility.jsonl")).read_text().splitlines()]
        assert [row["language"] for row in rows] == ["de", "en"]
        assert all(row["held_out"] and 1 < row["tokens_per_word"] < 8 and 1 < row["bytes_per_token"] < 8 for row in rows)


def tales(first: int, sentence: str) -> list[Document]:
    return [Document(identity(first + number), "", sentence.format(number) * 4, "", f"y#{first + number}") for number in range(100)]


def scores(directory: Path, *languages: Sequence[str], of: Sequence[Sequence[Document]]) -> Artifact:
    files = []
    directory.mkdir()
    for number, (codes, documents) in enumerate(zip(languages, of, strict=True)):
        path = directory / f"part-{number}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"id": [document.id for document in documents], "language": list(codes)}), path)
        files.append(File.of(f"scores/part-{number}.parquet", path, len(documents)))
    return Artifact("score", "e" * 64, "d" * 64, str(directory), tuple(files), {})


def shard(directory: Path, documents: Sequence[Document], trained: Artifact, params: TokenizeParams) -> Shard:
    path = write_documents(directory / "input.parquet", documents)
    return Shard(Unit("pages", "", None, (str(path),)), params, {"tokenizer.model": trained.file("tokenizer.model")}, str(directory))


class TestTokenizeShard:
    def test_every_document_is_in_one_split_whole_and_ended(self, trained: Artifact, tmp_path: Path) -> None:
        result = tokenize_shard(shard(tmp_path, DOCUMENTS, trained, TokenizeParams(validation_fraction=0.2)))
        loaded = Tokenizer.load(trained.directory)
        splits = {split: TokenShard.open(tmp_path / split / "pages-0000.bin") for split in ("train", "validation")}
        seen = {"train": 0, "validation": 0}
        rows = read_index(tmp_path / "index" / "pages.parquet")
        for row, document in zip(rows, DOCUMENTS, strict=True):
            ids = splits[row.split].document(seen[row.split]).tolist()
            seen[row.split] += 1
            assert ids[-1] == loaded.eos_id
            assert loaded.decode(ids[:-1]) == document.text
            assert (row.id, row.tokens, row.bytes) == (document.id, len(ids), len(document.text.encode()))
        assert seen == {split: len(opened) for split, opened in splits.items()}
        assert 30 < seen["validation"] < 90
        assert result.records == {f"{split}-0000{end}": seen[split] for split in seen for end in (".bin", ".idx")} | {"index": 300}
        assert result.metrics["encoded_by_gigatoken"] == 300
        assert result.counts == Counts(total=300, kept=300)
        assert result.metrics["train_tokens"] == len(splits["train"].tokens)
        assert result.metrics["validation_tokens"] == len(splits["validation"].tokens)
        assert result.metrics["train_bytes"] + result.metrics["validation_bytes"] == sum(len(d.text.encode()) for d in DOCUMENTS)

    def test_the_end_of_document_can_be_left_out(self, trained: Artifact, tmp_path: Path) -> None:
        tokenize_shard(shard(tmp_path, DOCUMENTS, trained, TokenizeParams(append_eos=False, validation_fraction=0)))
        opened = TokenShard.open(tmp_path / "train" / "pages-0000.bin")
        assert Tokenizer.load(trained.directory).eos_id not in opened.tokens
        assert opened.lengths[0] == 0  # the first document is empty

    def test_a_document_keeps_its_split_in_other_company_and_a_larger_fraction_only_adds(self, trained: Artifact, tmp_path: Path) -> None:
        def held_out(name: str, documents: Sequence[Document], fraction: float) -> set[str]:
            directory = tmp_path / name
            tokenize_shard(shard(directory, documents, trained, TokenizeParams(validation_fraction=fraction)))
            return {row.id for row in read_index(directory / "index" / "pages.parquet") if row.split == "validation"}

        whole = held_out("whole", DOCUMENTS, 0.2)
        assert held_out("half", DOCUMENTS[::-2], 0.2) == whole & {document.id for document in DOCUMENTS[::-2]}
        assert whole < held_out("more", DOCUMENTS, 0.4)
        assert not held_out("none", DOCUMENTS, 0)

    def test_a_budget_of_tokens_divides_a_file_into_several_shards(self, trained: Artifact, tmp_path: Path) -> None:
        whole = tokenize_shard(shard(tmp_path / "whole", DOCUMENTS, trained, TokenizeParams(validation_fraction=0.2)))
        params = TokenizeParams(validation_fraction=0.2, shard_tokens=2_000)
        result = tokenize_shard(shard(tmp_path / "divided", DOCUMENTS, trained, params))
        for split in ("train", "validation"):
            parts = [TokenShard.open(path) for path in sorted((tmp_path / "divided" / split).glob("*.bin"))]
            assert len(parts) > 1
            assert all(len(part.tokens) <= 2_000 for part in parts)
            assert [len(part) for part in parts] == [result.records[f"{split}-{number:04}.bin"] for number in range(len(parts))]
            undivided = TokenShard.open(tmp_path / "whole" / split / "pages-0000.bin")
            assert np.array_equal(np.concatenate([part.tokens for part in parts]), undivided.tokens)
        assert result.metrics == whole.metrics
        assert (tmp_path / "divided" / "index" / "pages.parquet").read_bytes() == (
            tmp_path / "whole" / "index" / "pages.parquet"
        ).read_bytes()

    def test_a_shard_whose_ids_differ_from_sentencepieces_is_encoded_by_sentencepiece(self, trained: Artifact, tmp_path: Path) -> None:
        wrong = tmp_path / "wrong"
        shutil.copytree(trained.directory, wrong)
        encoder = json.loads((wrong / "encoder.json").read_text())
        pieces = encoder["model"]["vocab"]
        pieces["1"], pieces["2"] = pieces["2"], pieces["1"]
        (wrong / "encoder.json").write_text(json.dumps(encoder))
        right = tokenize_shard(shard(tmp_path / "right", DOCUMENTS, trained, TokenizeParams()))
        one = shard(tmp_path / "one", DOCUMENTS, trained, TokenizeParams())
        result = tokenize_shard(replace(one, side={"tokenizer.model": File.of("tokenizer.model", wrong / "tokenizer.model")}))
        assert result.metrics["encoded_by_sentencepiece"] == right.metrics["encoded_by_gigatoken"] == 300
        same = [(tmp_path / name / "train" / "pages-0000.bin").read_bytes() for name in ("one", "right")]
        assert same[0] == same[1]

    def test_a_shard_without_documents_is_valid(self, trained: Artifact, tmp_path: Path) -> None:
        result = tokenize_shard(shard(tmp_path, [], trained, TokenizeParams()))
        assert result.counts == Counts()
        assert [len(TokenShard.open(tmp_path / split / "pages-0000.bin")) for split in ("train", "validation")] == [0, 0]
        assert read_index(tmp_path / "index" / "pages.parquet") == []

    def test_the_same_documents_give_the_same_bytes(self, trained: Artifact, tmp_path: Path) -> None:
        for name in ("one", "two"):
            tokenize_shard(shard(tmp_path / name, DOCUMENTS, trained, TokenizeParams(validation_fraction=0.1)))
        files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
        assert len(files) == 6
        assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


class TestTokenizeStage:
    def test_maps_every_file_and_reuses_what_it_has_until_the_tokenizer_changes(self, trained: Artifact, tmp_path: Path) -> None:
        params = TokenizeParams(validation_fraction=0.2)
        documents = corpus(tmp_path / "corpus", DOCUMENTS[:100], [], DOCUMENTS[100:])
        ctx = context(tokenize, tmp_path / "stage", corpus=documents, tokenizer=trained)
        metrics = tokenize(ctx, params)
        artifact = published(ctx)
        train, validation = open_shards(artifact.select("train")), open_shards(artifact.select("validation"))
        assert [len(a) + len(b) for a, b in zip(train, validation, strict=True)] == [100, 0, 200]
        assert metrics["train_tokens"] == sum(len(opened.tokens) for opened in train)
        assert ctx.counts == Counts(total=300, kept=300)
        assert sum(file.records for file in artifact.select(tokenize.keeps)) == 300
        assert (ctx.shards_computed, ctx.shards_reused) == (3, 0)

        tokenize(ctx, params)
        assert (ctx.shards_computed, ctx.shards_reused) == (3, 3)

        other = context(tokenizer, tmp_path / "other", corpus=documents)
        tokenizer(other, TokenizerParams(vocab_size=310))
        ctx.inputs = {"corpus": documents, "tokenizer": published(other)}
        tokenize(ctx, params)
        assert (ctx.shards_computed, ctx.shards_reused) == (6, 3)

    def test_an_artifact_without_a_tokenizer_is_a_user_error(self, tmp_path: Path) -> None:
        documents = corpus(tmp_path / "corpus", DOCUMENTS)
        ctx = context(tokenize, tmp_path / "stage", corpus=documents, tokenizer=documents)
        with pytest.raises(UserError, match=r"tokenizer\.model"):
            tokenize(ctx, TokenizeParams())

    def test_a_corpus_of_which_nothing_is_held_out_says_so(self, trained: Artifact, tmp_path: Path) -> None:
        def said(fraction: float) -> list[str]:
            root = tmp_path / str(fraction)
            ctx = context(tokenize, root / "stage", corpus=corpus(root / "corpus", DOCUMENTS[:40]), tokenizer=trained)
            tokenize(ctx, TokenizeParams(validation_fraction=fraction))
            events = map(json.loads, Path(ctx.progress.path).read_text().splitlines())
            return [event["text"] for event in events if event["event"] == "note"]

        [line] = said(0.0)
        assert line.startswith("none of 40 documents is held out (validation_fraction=0)") and "\n" not in line
        assert said(0.5) == []
