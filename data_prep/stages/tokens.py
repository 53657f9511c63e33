"""Stages that turn documents into a vocabulary and into token shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pipeline.stage import Counts, MapRun, Metrics, Shard, ShardResult, StageContext, Unit, UserError, joined, stage, stem, units_of

if TYPE_CHECKING:
    from data_prep.tokenizer.sampling import Text

Weight = Annotated[float, Meta(ge=0)]

HELD_OUT_BYTES = 4_000_000  # text that is drawn beside the sample, for the table of fertilities
MARGIN = 1.5  # times what is wanted is drawn, since the hashes' shares are known only roughly
CHECKED_BYTES = 1 << 16  # of each shard are encoded by sentencepiece, too


@dataclass(frozen=True)
class TokenizerParams:
    """A byte-pair vocabulary trained on a sample of its corpora: the inputs of every role but `scores` and `<role>_scores`."""

    vocab_size: Annotated[int, Meta(ge=300, le=262_144, description="ids, control tokens and bytes included")] = 32_768
    sample_bytes: Annotated[int, Meta(ge=1, description="text to train on, bytes; chosen by the hash of the document's id")] = 100_000_000
    weights: Annotated[
        dict[str, Weight], Meta(description="role of a corpus: its share of the sample; empty: in proportion to its text")
    ] = field(default_factory=dict)
    language_weights: Annotated[
        dict[str, Weight],
        Meta(description="language: its share of each corpus's sample, `other` for all not named; empty: as the text has them"),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("weights", "language_weights"):
            weights = getattr(self, name)
            if weights and not sum(weights.values()) > 0:
                raise ValueError(f"{name} are all 0, which samples nothing; set one of them above 0")


def measure_shard(shard: Shard) -> ShardResult:
    """One file of documents to the bytes of its texts by language, as metrics."""
    return ShardResult(metrics=dict(sorted(_sizes([shard.unit]).items())))


def draw_shard(shard: Shard) -> ShardResult:
    """One file of documents to those whose hash is below the share of their language (`unit.argument`)."""
    import pyarrow
    import pyarrow.parquet

    from data_prep.tokenizer.sampling import OTHER, hash_fraction

    shares: Mapping[str, float] = shard.unit.argument
    drawn = [text for text in _texts(shard.unit) if hash_fraction(text.id, "tokenizer") < shares.get(text.language, shares.get(OTHER, 0.0))]
    table = pyarrow.table({name: pyarrow.array([getattr(text, name) for text in drawn], pyarrow.string()) for name in DRAWN})
    pyarrow.parquet.write_table(table, shard.path("drawn", ".parquet"), compression="zstd", write_statistics=False)
    return ShardResult(records={"drawn": len(drawn)})


DRAWN = ("id", "language", "text")


def _all_texts(units: Sequence[Unit]) -> Iterator[Text]:
    for unit in units:
        yield from _texts(unit)


def _texts(unit: Unit) -> Iterator[Text]:
    """The documents of a file with their languages, which stand in the file of scores if there is one."""
    import pyarrow.parquet

    from data_prep.documents import read_batches
    from data_prep.tokenizer.sampling import Text

    documents, *scores = unit.paths
    languages: dict[str, str] = {}
    for path in scores:
        table = pyarrow.parquet.read_table(path, columns=["id", "language"], use_threads=False)
        languages |= zip(table["id"].to_pylist(), table["language"].to_pylist(), strict=True)
    for batch in read_batches(documents, ["id", "text"]):
        for identity, text in zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True):
            if scores and identity not in languages:
                raise UserError(f"{scores[0]} has no score of {identity} of {documents}: score this corpus")
            yield Text(identity, languages.get(identity, "und"), text)


def check_tokenizer(name: str, params: TokenizerParams, run: MapRun, sources: Sequence[str], roles: Collection[str]) -> None:
    """Refuse weights of corpora that are not there, and of languages that nothing tells."""
    corpora = sorted(role for role in roles if not role.endswith("scores"))
    if unknown := sorted({*params.weights} - {*corpora}):
        raise UserError(f"{name}.weights.{unknown[0]}: there is no such corpus in {name}.needs, which has {', '.join(corpora)}")
    for role in corpora if params.language_weights else ():
        if (scores := _scores_role(role)) not in roles:
            raise UserError(f"{name}.language_weights: the languages of {role} are not known; set {name}.needs.{scores}")


@stage(version=2, needs=("corpus", "*"), check=check_tokenizer)
def tokenizer(ctx: StageContext, params: TokenizerParams) -> Metrics:
    """Train the tokenizer and publish it as sentencepiece and as Hugging Face files that give the same ids."""
    import json

    from data_prep.tokenizer import ENCODER, Tokenizer, check_export, export, fast_encoder, train
    from data_prep.tokenizer.export import CHECKED_BYTES as EXPORT_CHECKED_BYTES
    from data_prep.tokenizer.fertility import fertility
    from data_prep.tokenizer.sampling import beginning

    training, held_out = _sampled(ctx, params)
    texts = [text.text for text in training]
    model = train(texts, params.vocab_size)
    contents = {"tokenizer.model": model, **export(model)}
    checked = check_export(model, contents["tokenizer.json"].decode(), texts)
    encoder = fast_encoder(model)
    trained = Tokenizer.from_model(model, encoder).verified(beginning(texts, EXPORT_CHECKED_BYTES))
    if trained.encoder == "gigatoken":  # or every shard would have to find out what is known here
        contents[ENCODER] = encoder
    table = [language.row() for language in fertility(trained, held_out, training)]
    contents["fertility.jsonl"] = "".join(json.dumps(row) + "\n" for row in table).encode()
    for name, content in contents.items():
        with open(ctx.path(name), "wb") as stream:
            stream.write(content)
        ctx.publish(name)
    return {
        "vocab_size": trained.vocab_size,
        "sample_documents": len(texts),
        "sample_bytes": sum(len(text.encode()) for text in texts),
        "bytes_per_token": round(checked.bytes / checked.tokens, 4),
        "languages": len(table),
        "encoder": trained.encoder,
    }


def _sampled(ctx: StageContext, params: TokenizerParams) -> tuple[list[Text], list[Text]]:
    """The texts to train on, in the order of their hashes, and others, of which the tokenizer knows nothing."""
    from data_prep.tokenizer.sampling import HashPrefix, Recipe, in_hash_order

    recipe = Recipe(params.sample_bytes, params.weights, params.language_weights)
    corpora = {role: _units(ctx, role) for role in sorted(ctx.inputs) if not role.endswith("scores")}
    stored = sum(file.bytes for role in corpora for file in ctx.inputs[role].select("documents"))
    small = stored <= params.sample_bytes  # hardly more text than is wanted: read here, sooner than any task could begin
    sizes = {
        (role, language): int(size)
        for role, units in corpora.items()
        for language, size in (_sizes(units) if small else ctx.map_shards(measure_shard, units).metrics).items()
    }
    wanted = recipe.wanted(sizes)
    training: list[Text] = []
    held_out: list[Text] = []
    for role, units in corpora.items():
        available: Counter[str] = Counter()
        for (corpus, language), size in sizes.items():
            available[recipe.group(language)] += size * (corpus == role)
        prefixes = {group: HashPrefix(size + HELD_OUT_BYTES) for (corpus, group), size in wanted.items() if corpus == role}
        shares = {group: min(1.0, MARGIN * (wanted[role, group] + HELD_OUT_BYTES) / available[group]) for group in prefixes}
        for text in _all_texts(units) if small else _drawn(ctx, units, shares):
            if recipe.group(text.language) in prefixes:
                prefixes[recipe.group(text.language)].add(text)
        for group, prefix in prefixes.items():
            first, rest = prefix.divided(wanted[role, group])
            training += first
            held_out += rest
    return in_hash_order(training), in_hash_order(held_out)


def _sizes(units: Sequence[Unit]) -> dict[str, float]:
    sizes: Counter[str] = Counter()
    for text in _all_texts(units):
        sizes[text.language] += len(text.text.encode())
    return {language: float(size) for language, size in sizes.items()}


def _drawn(ctx: StageContext, units: Sequence[Unit], shares: Mapping[str, float]) -> Iterator[Text]:
    from data_prep.documents import read_batches
    from data_prep.tokenizer.sampling import Text

    for file in ctx.map_shards(draw_shard, [replace(unit, argument=dict(shares)) for unit in units]).files:
        for batch in read_batches(file.path, DRAWN):
            yield from map(Text, *(batch.column(name).to_pylist() for name in DRAWN))


def _scores_role(role: str) -> str:
    return "scores" if role == "corpus" else f"{role}_scores"


def _units(ctx: StageContext, role: str) -> list[Unit]:
    """The files of a corpus, each with its file of scores where the role of those is given."""
    files = ctx.inputs[role].select("documents")
    scores_role = _scores_role(role)
    if scores_role not in ctx.inputs:
        return units_of(files)
    scores = {stem(file.name): file for file in ctx.inputs[scores_role].select("scores")}
    units = []
    for file in files:
        name = stem(file.name)
        if name not in scores:
            raise UserError(f"{ctx.name}.needs.{scores_role} has no scores of {file.name}: it must name the scores of needs.{role}")
        units.append(joined(name, file, scores[name]))
    return units


@dataclass(frozen=True)
class TokenizeParams:
    """Token shards from documents."""

    append_eos: Annotated[bool, Meta(description="end every document with the tokenizer's end-of-document id")] = True
    validation_fraction: Annotated[float, Meta(ge=0, lt=1, description="share of documents held out, by the hash of their ids")] = 0.01
    shard_tokens: Annotated[int, Meta(ge=1, description="tokens of a shard at most, unless a single document has more")] = 100_000_000


def tokenize_shard(shard: Shard) -> ShardResult:
    """One file of documents to training and validation shards, and the index that names their documents."""
    from contextlib import ExitStack
    from pathlib import Path

    import numpy as np

    from data_prep.documents import read_batches
    from data_prep.token_shards import IndexRow, TokenShardsWriter, write_index
    from data_prep.tokenizer import Tokenizer, hash_fraction
    from data_prep.tokenizer.sampling import beginning

    params: TokenizeParams = shard.params
    tokenizer = Tokenizer.load(Path(next(iter(shard.side.values())).path).parent)
    end = np.array([tokenizer.eos_id] if params.append_eos else [], np.uint32)
    rows: list[IndexRow] = []
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(TokenShardsWriter(_numbered(shard, split), tokenizer.vocab_size, params.shard_tokens))
            for split in ("train", "validation")
        }
        for path in shard.unit.paths:
            for batch in read_batches(path, ["id", "text"]):
                texts = batch.column("text").to_pylist()
                if not rows:
                    tokenizer = tokenizer.verified(beginning(texts, CHECKED_BYTES))
                for identity, text, ids in zip(batch.column("id").to_pylist(), texts, tokenizer.encode_arrays(texts), strict=True):
                    split = "validation" if hash_fraction(identity, "validation") < params.validation_fraction else "train"
                    writers[split].write(np.concatenate((ids, end)))
                    rows.append(IndexRow(identity, split, len(ids) + len(end), len(text.encode())))
    write_index(shard.path("index", ".parquet"), rows)
    metrics: dict[str, float] = {f"{split}_tokens": writer.tokens for split, writer in writers.items()}
    records = {"index": len(rows)}
    for split, writer in writers.items():
        metrics[f"{split}_documents"] = sum(writer.documents)
        metrics[f"{split}_bytes"] = sum(row.bytes for row in rows if row.split == split)
        records |= {f"{split}{_number(place)}{suffix}": n for place, n in enumerate(writer.documents) for suffix in (".bin", ".idx")}
    metrics[f"encoded_by_{tokenizer.encoder}"] = len(rows)
    return ShardResult(records=records, counts=Counts(total=len(rows), kept=len(rows)), metrics=metrics)


def _numbered(shard: Shard, split: str) -> Callable[[int], str]:
    return lambda place: shard.path(split, f"{_number(place)}.bin")


def _number(place: int) -> str:
    return f"-{place:04}"


@stage(version=2, reads="corpus", keeps="index", needs=("corpus", "tokenizer"))
def tokenize(ctx: StageContext, params: TokenizeParams) -> Metrics:
    """Turn documents into token shards for training and validation."""
    from data_prep.tokenizer import TOKENIZER_FILES

    side = {file.name: file for file in ctx.inputs["tokenizer"].files if file.name in TOKENIZER_FILES}
    if not side:
        raise UserError(f"its tokenizer holds none of {', '.join(TOKENIZER_FILES)}: set {ctx.name}.needs.tokenizer to another stage")
    mapped = ctx.map_shards(tokenize_shard, units_of(ctx.inputs["corpus"].select("documents")), params, side)
    ctx.publish_shards(mapped)
    if mapped.counts and mapped.counts.kept and not mapped.metrics["validation_documents"]:
        ctx.progress.event(
            "note",
            text=f"none of {mapped.counts.kept:,} documents is held out (validation_fraction={params.validation_fraction:g}): "
            "training on them will have no validation loss; raise it for one",
        )
    return mapped.metrics
