"""Documents to be shown, found again by their ids: the beginnings of their texts, with personal data masked."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

SHOWN_CHARACTERS = 6_000
_MARGIN = 300  # read and masked beyond what is shown, so that nothing personal stands cut in two at the end
_COLUMNS = ("id", "url", "title", "date", "extractor", "text")


@dataclass(frozen=True)
class Shown:
    """A document as it may be shown. `text` is its beginning, `characters` its whole length."""

    id: str
    url: str
    title: str
    date: str
    extractor: str
    text: str
    characters: int


def find(path: str | os.PathLike[str], ids: Collection[str], personal_data: bool = False) -> list[Shown]:
    """The documents of one file with one of these ids. Only row groups that hold one are read, but for their ids."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    found = []
    with pyarrow.parquet.ParquetFile(os.fspath(path)) as file:
        for group in range(file.num_row_groups):
            chosen = pyarrow.compute.is_in(
                file.read_row_group(group, columns=["id"], use_threads=False)["id"], pyarrow.array(sorted(ids), pyarrow.string())
            )
            if pyarrow.compute.any(chosen).as_py():
                rows = file.read_row_group(group, columns=list(_COLUMNS), use_threads=False).filter(chosen)
                found += [shown(*row.values(), personal_data=personal_data) for row in rows.select(_COLUMNS).to_pylist()]
    return found


def shown(identity: str, url: str, title: str, date: str, extractor: str, text: str, *, personal_data: bool = False) -> Shown:
    """The beginning of a document, masked unless `personal_data` is asked for."""
    if personal_data:
        return Shown(identity, url, title, date, extractor, text[:SHOWN_CHARACTERS], len(text))
    beginning = masked(text[: SHOWN_CHARACTERS + _MARGIN])[:SHOWN_CHARACTERS]
    return Shown(identity, masked_url(url), masked(title), date, extractor, beginning, len(text))


def masked(text: str) -> str:
    """The text with placeholders for personal data."""
    from data_prep.pii import scrub

    return scrub(text)[0]


def masked_url(url: str) -> str:
    """The URL without secrets, credentials and e-mail addresses: the rest of one has too many numbers that are nobody's."""
    from data_prep.pii import scrub

    return scrub(url, kinds=("secret", "credentials", "email"))[0]
