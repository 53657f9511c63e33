"""The records of a source to documents and rejects: each is accounted for, in the order of the source.

A document's id is the first 32 hex digits of the sha256 of its record's key and, in 4 bytes, of how often the same key came before
in the same file. The key is the digest of a WARC record's WARC-Record-ID, URL, date and whole block, of a JSONL line, of a Parquet
row's text, URL, id and date, or of a saved page: it does not know which file the record stands in, so neither cutting a crawl into
other files nor moving or renaming them changes an id. A part of a divided file counts alone, as a file does, and saved pages that
are taken together count as one.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from data_prep.documents import Document, DocumentWriter, Reject, RejectWriter
from data_prep.extract import Extraction, Limits, Method, extract, normalise
from data_prep.isolation import OUT_OF_MEMORY, Isolated, Killed
from data_prep.sources import Damaged, Other, Outcome, Page, PlainText, Record, Rejected
from data_prep.urls import UrlFilter

EXTRACTION_CPU_S = 30.0  # a backstop: the slowest of 2,296 real pages takes .3 s
EXTRACTION_MEMORY_BYTES = 4 << 30  # likewise, half of it for a page: the most that pages of 32 MB took is .8 GB

_SPACED_DATE = re.compile(r"^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.0*)?(?:Z|\+00:00)?$")  # as Arrow writes it
_BATCH_PAGES = 16
_BATCH_BYTES = 4 << 20
_BATCH_RECORDS = 1_000


@dataclass(frozen=True)
class Settings:
    """How pages are read: the parameters of `data_prep.extract.extract`; and the longest text that is kept, in characters."""

    method: Method
    limits: Limits
    max_doubt: float
    markdown: bool
    max_characters: int


@dataclass
class Ingested:
    """What became of the records of one file: total = kept + rejected + errored."""

    total: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    errored: int = 0
    other: int = 0  # records that never hold a document, not in total
    characters: int = 0  # of the kept texts
    extractors: Counter[str] = field(default_factory=Counter)  # documents by whose text they have
    killed: int = 0  # of the rejected and errored: those a backstop decided about
    errors: list[str] = field(default_factory=list)  # the first errored ones, `file#offset: what is wrong`


def ingest_records(
    name: str, outcomes: Iterable[Outcome], urls: UrlFilter, settings: Settings, documents: DocumentWriter, rejects: RejectWriter
) -> Ingested:
    """Write the documents and rejects of a source's records (errored ones have the reason `errored`). `name` is the file they
    stand in, "" where their locations say that."""
    result = Ingested()
    identities = _Identities()
    how = settings.limits, settings.max_doubt, settings.markdown
    with Isolated(extract, EXTRACTION_CPU_S, EXTRACTION_MEMORY_BYTES) as extractor:
        for batch in _batches(_filtered(outcomes, urls)):
            pages = [(outcome.body, settings.method, outcome.charset, *how) for outcome in batch if isinstance(outcome, Page)]
            extractions = iter(extractor.map(pages)) if pages else iter(())
            for outcome in batch:
                if isinstance(outcome, Other):
                    result.other += 1
                    continue
                result.total += 1
                record = outcome.record
                source = f"{name}#{record.location}" if name else record.location
                identity = identities.next(record)
                final = _settled(outcome, extractions, settings.max_characters)
                if isinstance(final, Extraction):
                    told = final.method, final.title, final.published, final.language_hint
                    documents.write(Document(identity, record.url, final.text, _date(record.date), source, *told))
                    result.kept += 1
                    result.characters += len(final.text)
                    result.extractors.update([final.method] if final.method else [])
                    continue
                result.killed += isinstance(final, Killed)
                if isinstance(final, Rejected) or (isinstance(final, Killed) and final.reason == OUT_OF_MEMORY):
                    reason = final.reason
                    result.rejected[reason] += 1
                else:
                    reason = "errored"
                    result.errored += 1
                    if len(result.errors) < _NAMED_ERRORS:
                        result.errors.append(f"{source}: {normalise(final.detail)}")
                rejects.write(Reject(identity, record.url, source, reason, normalise(final.detail)))
    return result


_NAMED_ERRORS = 3


def _filtered(outcomes: Iterable[Outcome], urls: UrlFilter) -> Iterator[Outcome]:
    for outcome in outcomes:
        if isinstance(outcome, Page | PlainText) and (blocked := urls.judge(outcome.record.url)):
            outcome = Rejected(outcome.record, blocked.reason, blocked.entry)
        yield outcome


def _date(date: str) -> str:
    """One form of a point in time, `2026-01-31T12:00:00Z`, so that dates of all sources compare as strings; anything else as it is."""
    return _SPACED_DATE.sub(r"\1T\2Z", date)


def _batches(outcomes: Iterable[Outcome]) -> Iterator[list[Outcome]]:
    """The outcomes in order, so many at a time that extraction is called for several pages at once and memory stays bounded."""
    batch: list[Outcome] = []
    pages = size = 0
    for outcome in outcomes:
        batch.append(outcome)
        if isinstance(outcome, Page):
            pages, size = pages + 1, size + len(outcome.body)
        elif isinstance(outcome, PlainText):
            size += len(outcome.text)
        if pages >= _BATCH_PAGES or size >= _BATCH_BYTES or len(batch) >= _BATCH_RECORDS:
            yield batch
            batch, pages, size = [], 0, 0
    yield batch


def _settled(
    outcome: Page | PlainText | Rejected | Damaged, extractions: Iterator[Extraction | Killed], max_characters: int
) -> Extraction | Rejected | Damaged | Killed:
    """The text of the record, or why there is none."""
    if isinstance(outcome, Rejected | Damaged):
        return outcome
    if isinstance(outcome, Page):
        extraction = next(extractions)
    else:
        told = map(normalise, (outcome.title, outcome.published, outcome.language_hint))
        extraction = Extraction(normalise(outcome.text), *told)
    if isinstance(extraction, Killed):
        return extraction
    if extraction.refused:
        return Rejected(outcome.record, extraction.refused, extraction.detail)
    if len(extraction.text) > max_characters:
        return Rejected(outcome.record, "too_long", f"{len(extraction.text)} characters > {max_characters}")
    return extraction if extraction.text else Rejected(outcome.record, "empty_text")


class _Identities:
    """Ids of the records of one file; about 100 bytes are kept for each record."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def next(self, record: Record) -> str:
        """The empty id for a damaged stretch, of which nothing is known."""
        if not record.key:
            return ""
        key = record.key[:16]
        occurrence = self._seen.get(key, 0)
        self._seen[key] = occurrence + 1
        return hashlib.sha256(record.key + occurrence.to_bytes(4, "big")).hexdigest()[:32]
