"""The stage that takes personal data out of texts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from data_prep.pii.spans import DEFAULT_KINDS, Kind
from pipeline.stage import Counts, File, MapRun, Metrics, Shard, ShardResult, StageContext, UserError, stage, units_of

URL_KINDS: tuple[Kind, ...] = ("secret", "credentials", "email")  # the rest of a URL has too many numbers that are none


@dataclass(frozen=True)
class ScrubParams:
    """Personal data in texts and URLs is replaced; documents that hold too much of it are dropped."""

    kinds: Annotated[tuple[Kind, ...], Meta(description="what to look for; `name` needs the extra `names`")] = DEFAULT_KINDS
    replacement: Annotated[
        Literal["placeholder", "pseudonym", "removal"],
        Meta(description="`[EMAIL]`; `[EMAIL:3f9a0c41d2e7]`, keyed by the file in scrub.sources; or nothing"),
    ] = "placeholder"
    min_confidence: Annotated[float, Meta(ge=0, le=1, description="findings below it stay: see data_prep/pii")] = 0.5
    language: Annotated[str | None, Meta(description="ISO 639-1: whose national telephone numbers; null: those of ten countries")] = None
    private_ips: Annotated[bool, Meta(description="also IP addresses of private networks")] = False
    max_density: Annotated[float, Meta(ge=0, le=1, description="largest share of characters that are personal data")] = 0.2
    min_findings: Annotated[int, Meta(ge=1, description="findings from which on max_density is asked")] = 10
    names_model: Annotated[str, Meta(description="spaCy model of the names, a package or a folder")] = "en_core_web_lg"
    show_rejected: Annotated[bool, Meta(description="write the values found into the rejects; by default only their number")] = False


def scrub_shard(shard: Shard) -> ShardResult:
    """One file of documents with the personal data replaced, and what was found by kind."""
    import json
    from dataclasses import replace
    from pathlib import Path

    from data_prep.documents import DocumentWriter, Reject, RejectWriter, read_documents
    from data_prep.pii.replace import density, scrub
    from data_prep.pii.spans import SURE

    params: ScrubParams = shard.params
    key = Path(shard.side["key"].path).read_bytes() if "key" in shard.side else b""
    settings: dict[str, Any] = {"replacement": params.replacement, "key": key, "min_confidence": params.min_confidence}
    found = {kind: {"findings": 0, "unsure": 0, "documents": 0} for kind in params.kinds}
    changed = urls = dense = 0
    with DocumentWriter(shard.path("documents", ".parquet")) as kept, RejectWriter(shard.path("rejects", ".parquet")) as rejects:
        for document in read_documents(shard.unit.paths[0]):
            text, spans = scrub(
                document.text,
                params.language,
                kinds=params.kinds,
                private_ips=params.private_ips,
                names_model=params.names_model,
                **settings,
            )
            url, in_url = scrub(document.url, kinds=set(URL_KINDS) & set(params.kinds), **settings)
            changed, urls = changed + bool(spans), urls + bool(in_url)
            for span in spans:
                found[span.kind]["findings"] += 1
                found[span.kind]["unsure"] += span.confidence < SURE
            for kind in {span.kind for span in spans}:
                found[kind]["documents"] += 1
            share = density(document.text, spans)
            if len(spans) >= params.min_findings and share > params.max_density:
                dense += 1
                detail = f"{share:.3f} > {params.max_density:g}, {len(spans)} findings"
                if params.show_rejected:
                    detail += ": " + " · ".join(document.text[span.start : span.end] for span in spans)
                rejects.write(Reject(document.id, url, document.source, "pii_density", detail))
            else:
                kept.write(replace(document, text=text, url=url))
    counts = {kind: numbers for kind, numbers in found.items() if numbers["findings"]}
    Path(shard.path("found", ".json")).write_text(json.dumps(counts, indent=1) + "\n")
    return ShardResult(
        records={"documents": kept.records, "rejects": rejects.records, "found": 1},
        counts=Counts(kept.records + dense, kept.records, {"pii_density": dense} if dense else {}),
        metrics={kind: numbers["findings"] for kind, numbers in counts.items()} | {"documents_changed": changed, "urls_changed": urls},
    )


def check_scrub(name: str, params: ScrubParams, run: MapRun, sources: Sequence[str], roles: Collection[str]) -> None:
    """Refuse pseudonyms without a key, and to look for nothing."""
    if not params.kinds:
        raise UserError(f"{name}.kinds: empty, nothing would be scrubbed; name some kinds, or leave the stage out of the recipe")
    if params.replacement == "pseudonym" and len(sources) != 1:
        raise UserError(f"{name}.replacement=pseudonym: needs a key, one file of random bytes kept secret: {name}.sources=[/path/to/key]")


@stage(version=2, reads="corpus", needs=("corpus",), check=check_scrub)
def scrub(ctx: StageContext, params: ScrubParams) -> Metrics:
    """Replace personal data. `report.json` and the metrics count what was found by kind; values are kept nowhere."""
    import json

    from data_prep.pii.replace import MIN_KEY_BYTES

    side: dict[str, File] = {}
    if params.replacement == "pseudonym":
        if len(ctx.sources) != 1 or ctx.sources[0].bytes < MIN_KEY_BYTES:
            raise UserError(
                f"{ctx.name}: pseudonyms need a key: a file of {MIN_KEY_BYTES} random bytes or more, kept secret, as {ctx.name}.sources=[…]"
            )
        side["key"] = ctx.sources[0]
    mapped = ctx.map_shards(scrub_shard, units_of(ctx.inputs["corpus"].select("documents")), params, side)
    ctx.publish_shards(mapped)
    total: dict[str, dict[str, int]] = {}
    for file in mapped.select("found"):
        with open(file.path) as stream:
            for kind, numbers in json.load(stream).items():
                into = total.setdefault(kind, dict.fromkeys(numbers, 0))
                for name, number in numbers.items():
                    into[name] += number
    with open(ctx.path("report.json"), "w") as stream:
        json.dump(dict(sorted(total.items())), stream, indent=1)
        stream.write("\n")
    ctx.publish("report.json")
    return mapped.metrics
