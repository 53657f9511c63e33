"""From source files to units of work, and from a unit to its records.

A small file is one unit. A large one is divided into parts that are read apart from each other (WARC by records, Parquet by row
groups, plain JSONL by lines), so that it keeps many cores busy and an interrupted run goes on in its middle. Files that hold one
page each are taken together, some hundreds to a unit. A list of paths or a data set's name stands for many units.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from data_prep.sources import Outcome
from data_prep.sources.files import is_remote
from data_prep.sources.html import read_html
from data_prep.sources.huggingface import read_arrow, read_dataset, read_descriptor, shards_of
from data_prep.sources.jsonl import read_jsonl
from data_prep.sources.parquet import read_parquet, row_groups
from data_prep.sources.warc import read_warc
from pipeline.stage import File, Unit, UserError, joined

Reader = Callable[..., Iterator[Outcome]]

DIVIDED: dict[str, Reader] = {  # kinds of files whose readers take a start and an end in bytes
    ".warc": read_warc, ".warc.gz": read_warc, ".wet": read_warc, ".wet.gz": read_warc, ".jsonl": read_jsonl,
}  # fmt: skip
READERS: dict[str, Reader] = {
    **DIVIDED, ".jsonl.gz": read_jsonl, ".jsonl.zst": read_jsonl, ".parquet": read_parquet, ".arrow": read_arrow,
}  # fmt: skip
PAGES = (".html", ".htm", ".xhtml")
LISTS = (".paths", ".paths.gz")
DATASET = ".dataset.json"
KINDS = (*READERS, *PAGES, *LISTS, DATASET)

PAGES_OF_A_UNIT = 256  # on average


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a unit reads, as its argument: one of these, or the plain name of a whole file.

    name, start, end         a part of a file: bytes, or row groups of a Parquet file
    name, url                a file behind a URL
    pages                    files that hold a page each
    name, dataset, shard, of a shard of a data set of the hub
    """

    name: str = ""
    start: int = 0
    end: int | None = None
    url: str = ""
    pages: tuple[str, ...] = ()
    dataset: dict[str, str] | None = None
    shard: int = 0
    of: int = 1


def kind_of(name: str) -> str | None:
    """The ending that names the file's format, or None for a format that is not read."""
    return next((ending for ending in sorted(KINDS, key=len, reverse=True) if name.lower().endswith(ending)), None)


def plan_units(files: Sequence[File], split_bytes: int, paths_prefix: str) -> list[Unit]:
    """The units of all files, in their order, those of single pages last.

    split_bytes   files larger than this are divided into parts of about this size; 0: none are
    paths_prefix  what stands before the lines of lists of paths
    UserError for a file of a kind that is not read.
    """
    pages = [file for file in files if kind_of(file.name) in PAGES]
    others = [file for file in files if kind_of(file.name) not in PAGES]
    units: list[Unit] = []
    for unit, file in zip(unit_names([file.name for file in others]), others, strict=True):
        kind = kind_of(file.name)
        if kind is None:
            raise UserError(f"{file.name} is no kind of file that is read ({', '.join(KINDS)}); leave it out of the sources")
        if kind in LISTS:
            units.extend(_listed(unit, file, paths_prefix))
        elif kind == DATASET:
            dataset = read_descriptor(file.path)
            try:
                shards = shards_of(dataset)
            except (OSError, ValueError) as error:
                raise UserError(f"{file.name}: {dataset['path']} cannot be opened ({str(error)[:200]})") from error
            name = f"{dataset['path']}@{dataset['revision']}"
            units.extend(_unit(f"{unit}-{n:05d}", file, Part(name, dataset=dataset, shard=n, of=shards), ()) for n in range(shards))
        elif len(parts := list(_parts(file, kind, split_bytes))) > 1:
            units.extend(_unit(f"{unit}-part-{number:05d}", file, part, (file.path,)) for number, part in enumerate(parts))
        else:
            units.append(Unit(unit, file.sha256, file.name, (file.path,)))
    return units + list(_page_units(pages))


def open_unit(argument: object, paths: Sequence[str], max_bytes: int) -> tuple[str, Iterator[Outcome]]:
    """The name that stands before its records' locations ("" where these are names themselves), and the records of a unit."""
    if isinstance(argument, str):
        return argument, _reader(argument)(paths[0], max_bytes)
    part = msgspec.convert(argument, Part)
    if part.pages:
        return "", read_html(paths, part.pages, max_bytes)
    if part.dataset:
        name = f"{part.name}/{part.shard}" if part.of > 1 else part.name
        return name, read_dataset(part.dataset, max_bytes, part.shard, part.of)
    if part.url:
        return part.name, _reader(part.name)(part.url, max_bytes)
    return part.name, _reader(part.name)(paths[0], max_bytes, part.start, part.end)


def unit_names(names: Sequence[str]) -> list[str]:
    """A name for the output of each file: its path without ending, in one word; with a digest where two would be the same."""
    words = [re.sub(r"[/.]+", "-", name[: -len(kind_of(name) or "")] or name) for name in names]
    times = Counter(words)
    return [
        word if times[word] == 1 else f"{word}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for word, name in zip(words, names, strict=True)
    ]


def _reader(name: str) -> Reader:
    kind = kind_of(name)
    if kind not in READERS:
        raise ValueError(f"{name}: no reader for this kind of file")
    return READERS[kind]


def _unit(name: str, file: File, part: Part, paths: tuple[str, ...]) -> Unit:
    return Unit(name, file.sha256, msgspec.to_builtins(part), paths)


def _parts(file: File, kind: str, split_bytes: int) -> Iterator[Part]:
    """The parts of a file; nothing for one that is read as a whole."""
    if not split_bytes or file.bytes <= split_bytes:
        return
    if kind in DIVIDED:
        number = -(-file.bytes // split_bytes)
        for part in range(number):
            yield Part(file.name, part * file.bytes // number, (part + 1) * file.bytes // number if part + 1 < number else None)
    elif kind == ".parquet":
        start = size = 0
        groups = row_groups(file.path)
        for group, group_bytes in enumerate(groups):
            size += group_bytes
            if size >= split_bytes or group + 1 == len(groups):
                yield Part(file.name, start, group + 1)
                start, size = group + 1, 0


def _listed(unit: str, file: File, prefix: str) -> Iterator[Unit]:
    """A unit for each line. What stands at an address is taken never to change, so the address is its content."""
    try:
        with (
            gzip.open(file.path, "rt", encoding="utf-8")
            if file.name.lower().endswith(".gz")
            else open(file.path, encoding="utf-8") as stream
        ):
            lines = [line.strip() for line in stream]
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{file.name}: damaged list of paths ({error}); fetch it again") from None
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        if kind_of(line) not in READERS:
            raise UserError(f"{file.name}, line {number}: {line[:80]!r} is no kind of file that is read; leave it out of the list")
        url = line if is_remote(line) or line.startswith("/") else prefix + line
        yield Unit(f"{unit}-{number:06d}", hashlib.sha256(url.encode()).hexdigest(), msgspec.to_builtins(Part(line, url=url)))


def _page_units(files: Sequence[File]) -> Iterator[Unit]:
    """Files of one page each, in the order of their names, a unit beginning where a name's digest says so: a new file changes one unit."""
    group: list[File] = []
    for file in sorted(files, key=lambda file: file.name):
        digest = hashlib.sha256(file.name.encode()).digest()
        if group and int.from_bytes(digest[:4], "big") % PAGES_OF_A_UNIT == 0:
            yield _page_unit(group)
            group = []
        group.append(file)
    if group:
        yield _page_unit(group)


def _page_unit(files: Sequence[File]) -> Unit:
    names = tuple(file.name for file in files)
    word = hashlib.sha256(json.dumps(names[:1]).encode()).hexdigest()[:12]  # of the first one, where the unit begins
    return joined(f"pages-{word}", *files, argument=msgspec.to_builtins(Part(pages=names)))
