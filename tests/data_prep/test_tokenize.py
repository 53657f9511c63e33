"""From documents to tokenizer and token shards: deterministic, complete, and split by document id."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from data_prep.documents import Document, DocumentWriter
from data_prep.stages import TokenizeParams, TokenizerParams, tokenize, tokenize_shard, tokenizer
from data_prep.token_shards import TokenShard, open_shards, read_index
from data_prep.tokenizer import Tokenizer
from pipeline.lease import acquire
from pipeline.progress import Progress
from pipeline.stage import Artifact, Counts, File, MapRun, Shard, Stage, StageContext, Trajectory, Unit, UserError

VOCABULARY = TokenizerParams(vocab_size=340, sample_bytes=20_000)


def identity(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def tale(number: int) -> str:
    return f"Tale {number}: the fox, the hen and the {number * 7} eggs went to market with {'aeiou'[number % 5]}rn{number % 9}st.\n" * (
        number % 5
    )


DOCUMENTS = [Document(identity(number), "", tale(number), "", f"x#{number}") for number in range(300)]


def write_documents(path: Path, documents: Sequence[Document]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with DocumentWriter(path) as writer:
        for document in documents:
            writer.write(document)
    return path


def corpus(directory: Path, *parts: Sequence[Document]) -> Artifact:
    files = []
    for number, part in enumerate(parts):
        path = write_documents(directory / f"part-{number}.parquet", part)
        files.append(File.of(f"documents/part-{number}.parquet", path, len(part)))
    return Artifact("scrub", "f" * 64, "d" * 64, str(directory), tuple(files), {})


def context(stage: Stage, root: Path, **inputs: Artifact) -> StageContext:
    """A context over a folder, as the runner makes one. Only a stage that maps over shards starts Ray."""

    def connect() -> None:
        from pipeline.cluster import ClusterConfig, connect

        connect(ClusterConfig(cpus=1))

    own = root / "own"
    own.mkdir(parents=True)
    lease = acquire(root / "lease", lambda owner: None)
    lease.release()
    return StageContext(
        stage=stage,
        fingerprint="a" * 64,
        inputs=inputs,
        sources=(),
        run=MapRun(),
        directory=str(own),
        pool=root / "pool",
        fence=lease.fence,
        trajectory=Trajectory(str(root / "trajectory"), "a" * 16, lease.fence),
        progress=Progress(str(root / "events.jsonl"), stage.name),
        connect=connect,
    )


def published(ctx: StageContext) -> Artifact:
    return Artifact(ctx.stage.name, ctx.fingerprint, "d" * 64, ctx.directory, tuple(ctx.published), {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("tokenizer")
    ctx = context(tokenizer, root / "stage", corpus=corpus(root / "corpus", DOCUMENTS[:100], DOCUMENTS[100:]))
    metrics = tokenizer(ctx, VOCABULARY)
    assert metrics["vocab_size"] == 340
    assert metrics["sample_bytes"] >= 20_000 > metrics["sample_bytes"] - 500
    assert 1 < metrics["bytes_per_token"] < 16
    return published(ctx)


class TestTokenizerStage:
    def test_publishes_a_directory_that_loads_everywhere(self, trained: Artifact) -> None:
        import transformers

        names = {file.name for file in trained.files}
        assert names == {"tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}
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


def shard(directory: Path, documents: Sequence[Document], trained: Artifact, params: TokenizeParams) -> Shard:
    path = write_documents(directory / "input.parquet", documents)
    return Shard(Unit("pages", "", None, (str(path),)), params, {"tokenizer.model": trained.file("tokenizer.model")}, str(directory))


class TestTokenizeShard:
    def test_every_document_is_in_one_split_whole_and_ended(self, trained: Artifact, tmp_path: Path) -> None:
        result = tokenize_shard(shard(tmp_path, DOCUMENTS, trained, TokenizeParams(validation_fraction=0.2)))
        loaded = Tokenizer.load(trained.directory)
        splits = {split: TokenShard.open(tmp_path / split / "pages.bin") for split in ("train", "validation")}
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
        assert result.records == {**seen, "index": 300}
        assert result.counts == Counts(total=300, kept=300)
        assert result.metrics["train_tokens"] == len(splits["train"].tokens)
        assert result.metrics["validation_tokens"] == len(splits["validation"].tokens)
        assert result.metrics["train_bytes"] + result.metrics["validation_bytes"] == sum(len(d.text.encode()) for d in DOCUMENTS)

    def test_the_end_of_document_can_be_left_out(self, trained: Artifact, tmp_path: Path) -> None:
        tokenize_shard(shard(tmp_path, DOCUMENTS, trained, TokenizeParams(append_eos=False, validation_fraction=0)))
        opened = TokenShard.open(tmp_path / "train" / "pages.bin")
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

    def test_a_shard_without_documents_is_valid(self, trained: Artifact, tmp_path: Path) -> None:
        result = tokenize_shard(shard(tmp_path, [], trained, TokenizeParams()))
        assert result.counts == Counts()
        assert [len(TokenShard.open(tmp_path / split / "pages.bin")) for split in ("train", "validation")] == [0, 0]
        assert read_index(tmp_path / "index" / "pages.parquet") == []

    def test_the_same_documents_give_the_same_bytes(self, trained: Artifact, tmp_path: Path) -> None:
        for name in ("one", "two"):
            tokenize_shard(shard(tmp_path / name, DOCUMENTS, trained, TokenizeParams(validation_fraction=0.1)))
        files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
        assert len(files) == 6
        assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


class TestTokenizeStage:
    @pytest.fixture
    def local_ray(self) -> Iterator[None]:
        yield
        import ray

        ray.shutdown()

    def test_maps_every_file_and_reuses_what_it_has_until_the_tokenizer_changes(
        self, trained: Artifact, tmp_path: Path, local_ray: None
    ) -> None:
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
