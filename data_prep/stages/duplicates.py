"""Stages that keep one of many alike: the same text, the same URL, nearly the same text."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from data_prep.dedup.near import THRESHOLD
from data_prep.dedup.removals import Removal
from data_prep.dedup.signed import SUFFIXES, Collection, Part, Signing
from data_prep.documents import Document
from pipeline.stage import (
    Artifact,
    Counts,
    File,
    Mapped,
    MapRun,
    Metrics,
    Shard,
    ShardResult,
    StageContext,
    Unit,
    UserError,
    joined,
    stage,
    stem,
    units_of,
)

EXACT_PARTITION, NEAR_PARTITION = 10_000_000, 1_000_000  # documents a comparing task holds something of
RANKS = ("oldest", "newest", "longest")
MOST_PARTITIONS = 512  # files that a task keeps open at once


@dataclass(frozen=True)
class CompareRun(MapRun):
    """How a stage that compares documents across files is run."""

    partitions: Annotated[
        int,
        Meta(
            ge=0,
            le=MOST_PARTITIONS,
            description="tasks a comparison is cut into; memory goes with documents ÷ partitions; 0: enough for 1 GB each",
        ),
    ] = 0


@dataclass(frozen=True)
class DedupParams:
    """Exact duplicates by normalised text, of which the oldest stays; nothing to set."""


@dataclass(frozen=True)
class DedupUrlParams:
    """Which of the documents with one normalised URL stays."""

    keep: Annotated[Literal["newest", "oldest"], Meta(description="which date stays; then the smallest id")] = "newest"


def hash_shard(shard: Shard) -> ShardResult:
    """One file of documents to the table of its hashed texts."""
    from data_prep.dedup.exact import text_key

    return _hashed(shard, text_key)


def hash_urls_shard(shard: Shard) -> ShardResult:
    """One file of documents to the table of its hashed URLs."""
    from data_prep.dedup.exact import url_key

    return _hashed(shard, url_key)


def _hashed(shard: Shard, key: Callable[[Document], bytes]) -> ShardResult:
    from data_prep.dedup.exact import write_hashes
    from data_prep.documents import read_documents

    return ShardResult(records={"hashes": write_hashes(shard.path("hashes", ".parquet"), read_documents(shard.unit.paths[0]), key)})


def compare_shard(shard: Shard) -> ShardResult:
    """One partition of the keys of all tables to what is to be removed from each file."""
    from data_prep.dedup.exact import removals

    partition, partitions, names = shard.unit.argument
    lists = removals(shard.unit.paths, shard.params == "newest", partition, partitions)
    return _found(shard, dict(zip(names, lists, strict=True)))


@stage(version=2, run=CompareRun, reads="corpus", needs=("corpus",))
def dedup(ctx: StageContext, params: DedupParams) -> Metrics:
    """Keep one of all documents with the same text. A file is rewritten only when its own removal list has changed."""
    return _without_equal(ctx, hash_shard, "oldest", remove_shard)


@stage(version=1, run=CompareRun, reads="corpus", needs=("corpus",))
def dedup_url(ctx: StageContext, params: DedupUrlParams) -> Metrics:
    """Keep one of all documents with the same URL; those without one stay."""
    return _without_equal(ctx, hash_urls_shard, params.keep, remove_url_shard)


def _without_equal(
    ctx: StageContext, hashed: Callable[[Shard], ShardResult], keep: str, removed: Callable[[Shard], ShardResult]
) -> Metrics:
    corpus = ctx.inputs["corpus"].select("documents")
    tables = ctx.map_shards(hashed, units_of(corpus))
    ctx.publish_shards(tables)
    return filtered(ctx, removed, ctx.map_shards(compare_shard, comparisons(ctx, tables.files, EXACT_PARTITION), keep).files)


@dataclass(frozen=True)
class NearDedupParams:
    """Which documents are nearly the same, and which of them stays."""

    threshold: Annotated[
        float, Meta(gt=0, le=1, description="Jaccard similarity of shingles from which a document is removed for one that stays")
    ] = THRESHOLD
    rank: Annotated[
        str, Meta(min_length=1, description="what stays: oldest, newest, longest, or more of a column of needs.scores; then the oldest")
    ] = "oldest"
    signature: Signing = field(default_factory=Signing)


def sign_shard(shard: Shard) -> ShardResult:
    """One file of documents to its signatures (see data_prep/dedup/signed.py)."""
    from data_prep.dedup.signed import write_signed
    from data_prep.documents import read_documents

    documents = write_signed(lambda suffix: shard.path("signatures", suffix), read_documents(shard.unit.paths[0]), shard.params)
    return ShardResult(records={"signatures": documents})


def merit_shard(shard: Shard) -> ShardResult:
    """The column `params` of one file's scores, as float64, for the documents that are still there."""
    from data_prep.dedup.signed import write_merit

    facts, scores = shard.unit.paths
    return ShardResult(records={"merit": write_merit(shard.path("merit", ".f64"), facts, scores, shard.params)})


def link_shard(shard: Shard) -> ShardResult:
    """One partition of the band keys of all documents to links between documents that look alike."""
    from data_prep.dedup.near import links

    partition, partitions, first_new = shard.unit.argument
    collection = Collection.read(shard.unit.paths[0])
    found = links(*collection.entries(partition, partitions), collection.minima, shard.params, first_new)
    with open(shard.path("links", ".i64"), "wb") as stream:
        stream.write(found.astype("<i8").tobytes())
    return ShardResult(records={"links": len(found)})


def cluster_shard(shard: Shard) -> ShardResult:
    """All links to clusters: as many files of their members as the unit's argument says, each cluster in one of them."""
    from data_prep.dedup.clusters import write_members

    catalogue, *linked = shard.unit.paths
    partitions, _ = shard.unit.argument
    paths = [shard.path(f"members-{one:04}", ".parquet") for one in range(partitions)]
    members = write_members(paths, linked, Collection.read(catalogue), shard.params, shard.directory)
    return ShardResult(records={f"members-{one:04}": number for one, number in enumerate(members)})


def settle_shard(shard: Shard) -> ShardResult:
    """The members of some clusters to those that are to be removed."""
    from data_prep.dedup.clusters import settled

    members, catalogue = shard.unit.paths
    found = settled(
        members, Collection.read(catalogue), shard.params.rank == "newest", shard.params.threshold, shard.params.signature.sketch
    )
    return _found(shard, found)


def check_near_dedup(name: str, params: NearDedupParams, run: CompareRun, sources: Sequence[str], roles: Container[str]) -> None:
    """Refuse a rank that is no score, or one of scores that are not there."""
    if params.rank in RANKS:
        return
    from data_prep.quality.lines import SCORES as LINE_SCORES
    from data_prep.quality.tables import SCORES

    if params.rank not in (*SCORES, *LINE_SCORES):
        raise UserError(f"{name}.rank={params.rank}: neither {', '.join(RANKS)} nor a score; {', '.join([*SCORES, *LINE_SCORES])} are")
    if "scores" not in roles:
        raise UserError(f"{name}.rank={params.rank}: a score, but of no stage; set {name}.needs.scores to the stage that has it")


@stage(version=1, run=CompareRun, reads="corpus", needs=("corpus", "scores?", "*"), check=check_near_dedup)
def near_dedup(ctx: StageContext, params: NearDedupParams) -> Metrics:
    """Remove each document that is verified to be nearly the same as one of higher rank that stays.

    Inputs besides the corpus: `scores` where `rank` names a column of them; any whose role begins with `earlier` is the artifact of
    this stage for an earlier corpus: its documents stay as they are and outrank all others, and their texts are not read.
    """
    corpus = ctx.inputs["corpus"].select("documents")
    signed = ctx.map_shards(sign_shard, units_of(corpus), params.signature)
    ctx.publish_shards(signed)
    merits = _merits(ctx, signed, params.rank)
    earlier = [artifact for role, artifact in sorted(ctx.inputs.items()) if role.startswith("earlier")]
    lists = [file for artifact in earlier for file in artifact.select("removals")]
    parts = [part for artifact in earlier for part in _earlier_parts(artifact, params.signature)] + _parts(signed.files, merits=merits)
    collection = Collection(parts, params.signature.bands * params.signature.rows)
    catalogue = ctx.path("catalogue.json")  # where files are today: not published
    collection.write(catalogue)

    files = [file for artifact in earlier for file in artifact.select("signatures")] + list(signed.files)
    partitions = _partitions(ctx, len(collection), NEAR_PARTITION)
    compared = _content(file for file in files if file.name.endswith((".keys", ".minima")))
    units = [Unit(f"partition-{one:04}", compared, [one, partitions, collection.first_new], (catalogue,)) for one in range(partitions)]
    linked = ctx.map_shards(link_shard, units, params.threshold)
    facts = _content([*linked.files, *merits.values(), *lists, *(file for file in files if file.name.endswith(".parquet"))])
    names = [[part.name, part.earlier] for part in parts]
    whole = Unit("clusters", facts, [partitions, names], (catalogue, *(file.path for file in linked.files)))
    clustered = ctx.map_shards(cluster_shard, [whole], params.rank)
    units = [Unit(file.name.split("/")[0], file.sha256, None, (file.path, catalogue)) for file in clustered.files]
    settled = ctx.map_shards(settle_shard, units, params)
    return filtered(ctx, remove_near_shard, settled.files) | {"alike": sum(file.records for file in clustered.files)}


def remove_shard(shard: Shard) -> ShardResult:
    """One file of documents without those on its removal list (the second path, if there is one): the same text."""
    return _without_removed(shard, "duplicate")


def remove_url_shard(shard: Shard) -> ShardResult:
    """The same for removals of the same URL."""
    return _without_removed(shard, "duplicate_url")


def remove_near_shard(shard: Shard) -> ShardResult:
    """The same for removals of nearly the same text; the similarity stands in the detail, too."""
    return _without_removed(shard, "near_duplicate")


def _without_removed(shard: Shard, reason: str) -> ShardResult:
    from data_prep.dedup.removals import read_removals
    from data_prep.documents import DocumentWriter, Reject, RejectWriter, read_documents

    documents, *lists = shard.unit.paths
    removals = {row: removal for path in lists for row, removal in read_removals(path).items()}
    total = 0
    with DocumentWriter(shard.path("documents", ".parquet")) as kept, RejectWriter(shard.path("rejects", ".parquet")) as rejects:
        for row, document in enumerate(read_documents(documents)):
            total += 1
            removal = removals.get(row)
            if removal is None:
                kept.write(document)
            else:
                detail = f"{removal.survivor} {removal.similarity:.3f}" if reason == "near_duplicate" else removal.survivor
                rejects.write(Reject(document.id, document.url, document.source, reason, detail))
    return ShardResult(
        records={"documents": kept.records, "rejects": rejects.records},
        counts=Counts(total=total, kept=kept.records, rejected={reason: rejects.records} if rejects.records else {}),
    )


def _found(shard: Shard, found: Mapping[str, Sequence[Removal]]) -> ShardResult:
    from data_prep.dedup.removals import table_of, write_found

    tables = {name: table_of(removals) for name, removals in found.items()}
    write_found(shard.path("found", ".parquet"), tables, table_of(()).schema)
    return ShardResult(records={"found": sum(map(len, found.values()))})


def filtered(ctx: StageContext, function: Callable[[Shard], ShardResult], found: Sequence[File], argument: Any = None) -> dict[str, Any]:
    """Publish the corpus as `function` leaves it, and for each of its files the list of what was found about it.

    `function` gets a file of documents and its list; without a list where nothing was found, so that a list of another file changes
    nothing here.
    """
    from data_prep.dedup.removals import Found, write_list

    units = []
    with Found([file.path for file in found]) as lists:
        for file in ctx.inputs["corpus"].select("documents"):
            name = stem(file.name)
            entries = lists.of(name)
            if entries is None:
                units.append(Unit(name, file.sha256, argument, (file.path,)))
                continue
            own_name = f"removals/{name}.parquet"
            write_list(ctx.path(own_name), entries)
            ctx.publish(own_name, entries.num_rows)
            units.append(joined(name, file, ctx.published[-1], argument=argument))
    mapped = ctx.map_shards(function, units)
    ctx.publish_shards(mapped)
    return dict(mapped.metrics)


def comparisons(ctx: StageContext, tables: Sequence[File], each: int) -> list[Unit]:
    """A unit for each partition of a comparison of all tables; its argument is the partition, their number, and the files' names."""
    corpus = ctx.inputs["corpus"].select("documents")
    names, partitions = [stem(file.name) for file in corpus], _partitions(ctx, sum(file.records for file in corpus), each)
    return [joined(f"partition-{one:04}", *tables, argument=[one, partitions, names]) for one in range(partitions)]


def _partitions(ctx: StageContext, documents: int, each: int) -> int:
    return ctx.run.partitions or min(MOST_PARTITIONS, max(1, -(-documents // each)))


def _content(files: Iterable[File]) -> str:
    return joined("", *files).content


def _merits(ctx: StageContext, signed: Mapped, rank: str) -> dict[str, File]:
    """By the name of a file of documents, what ranks them; nothing where that is no column of scores."""
    if rank in RANKS:
        return {}
    scores = {stem(file.name): file for file in ctx.inputs["scores"].select("scores")}
    units = []
    for file in signed.files:
        name = stem(file.name)
        if not file.name.endswith(".parquet"):
            continue
        if name not in scores:
            raise UserError(f"needs.scores has no scores of {name}: score the corpus that needs.corpus comes from")
        units.append(joined(name, file, scores[name]))
    return {stem(file.name): file for file in ctx.map_shards(merit_shard, units, rank).files}


def _earlier_parts(artifact: Artifact, signing: Signing) -> list[Part]:
    params = artifact.manifest.get("params", {})
    if params.get("signature") != asdict(signing):
        where = f"{artifact.stage} {artifact.fingerprint[:12]}"
        raise UserError(f"{where}: its documents are not signed alike ({params.get('signature')}); set signature.* as there")
    removed = {stem(file.name): file.path for file in artifact.select("removals")}
    return _parts(artifact.select("signatures"), prefix=f"{artifact.fingerprint[:12]}/", removed=removed)


def _parts(
    files: Sequence[File], prefix: str | None = None, removed: Mapping[str, str] | None = None, merits: Mapping[str, File] | None = None
) -> list[Part]:
    """The signed files by the file of documents they belong to, in their order; with a prefix for those of an earlier corpus."""
    groups: dict[str, dict[str, File]] = {}
    for file in files:
        groups.setdefault(stem(file.name), {})["." + file.name.rpartition(".")[2]] = file
    return [
        Part(
            name=f"{prefix or ''}{name}",
            documents=group[".parquet"].records,
            files={suffix: group[suffix].path for suffix in SUFFIXES},
            earlier=prefix is not None,
            removed=(removed or {}).get(name, ""),
            merit=merits[name].path if merits else "",
        )
        for name, group in groups.items()
    ]
