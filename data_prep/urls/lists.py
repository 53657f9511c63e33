"""Files of block lists and word lists: what kind a file is by its name, and the entries in it.

    <category>/domains   <category>.domains   hosts, one a line                       (folders as UT1 has them, or flat files)
    <category>/urls      <category>.urls      URL prefixes: host and start of a path
    hosts                <category>.hosts     hosts files: `0.0.0.0 host …`
    strict.words  hard.words  soft.words      word rules

Any of them may end in `.txt` or `.gz` too. The category `allow` is the list of exceptions; a file without one has the category
`host`. `#` at a line's start or behind a space starts a comment. A leading `.` or `*.` says that a name is meant with all below it
even where it is a public suffix.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from data_prep.urls.suffixes import is_address
from pipeline.stage import UserError

ENDINGS = (".domains", ".urls", ".hosts", ".words")
OWN_LISTS = tuple(sorted(str(path) for path in Path(__file__).with_name("lists").iterdir()))
ALLOW = "allow"
UNNAMED = "host"

Kind = Literal["hosts", "urls", "words"]

_NAMES = frozenset(["domains", "urls", "hosts"])
_WORD_RULES = ("strict", "hard", "soft")
_PLAIN_HOST = re.compile(rb"(?:www\.)?([a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63}){0,9}\.[a-z][a-z0-9-]{0,50}[a-z])")
_NO_WORD = re.compile(r"[^a-z0-9]+")
_COMMENT = re.compile(rb"(?:^|\s)#.*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LOCAL = frozenset(
    ["localhost", "localhost.localdomain", "local", "broadcasthost", "ip6-localhost", "ip6-loopback", "ip6-localnet", "ip6-mcastprefix",
     "ip6-allnodes", "ip6-allrouters", "ip6-allhosts", "0.0.0.0"]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ListKind:
    """What a file holds: hosts, URL prefixes or words, and of which category (for words: of which rule)."""

    kind: Kind
    category: str


class Entry(NamedTuple):
    """One line's host, or host and path. `below` is said of names that are meant with all below them, whatever they are."""

    host: str
    path: str = ""
    below: bool = False


def list_kind(name: str) -> ListKind | None:
    """The kind of a file of this name; None for a file that is no list."""
    path = name.lower().removesuffix(".gz").removesuffix(".txt")
    folder, _, base = path.rpartition("/")
    if base in _NAMES:
        return ListKind("urls" if base == "urls" else "hosts", _category(folder.rpartition("/")[2]))
    ending = next((ending for ending in ENDINGS if base.endswith(ending)), None)
    if ending is None:
        return None
    category = base.removesuffix(ending)
    if ending == ".words":
        if category not in _WORD_RULES:
            raise UserError(f"word list {name}: its name must be {', '.join(f'{rule}.words' for rule in _WORD_RULES)}; rename it")
        return ListKind("words", category)
    return ListKind("urls" if ending == ".urls" else "hosts", _category(category))


def _category(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name).strip("_") or UNNAMED


def open_list(path: str | os.PathLike[str]) -> BinaryIO:
    """The list's bytes, unpacked if they are gzip."""
    file = open(path, "rb")  # noqa: SIM115
    return gzip.open(file) if file.peek(2)[:2] == b"\x1f\x8b" else file  # type: ignore[return-value]


def read_words(path: str | os.PathLike[str]) -> list[str]:
    """The words of one list in small letters. UserError for one that is not of ASCII letters and digits."""
    words = []
    for number, line in _lines(path):
        word = line.decode("utf-8", "replace").strip().lower()
        if _NO_WORD.search(word):
            raise UserError(
                f"word list {Path(path).name}, line {number}: {word[:60]!r} is not one word of the letters a-z and digits; mend or drop it"
            )
        words.append(word)
    return words


def read_entries(path: str | os.PathLike[str]) -> Iterator[Entry | None]:
    """The entries of one list of hosts or URL prefixes, in order; None for a name that no host can have.

    Raises UserError naming file and line where prose stands, or where the file is damaged.
    """
    for number, line in _lines(path):
        if plain := _PLAIN_HOST.fullmatch(line):  # nearly all are, and take a quarter of the time
            yield Entry(plain[1].decode())
            continue
        fields = line.decode("utf-8", "replace").split()
        if len(fields) > 1:
            if not is_address(fields[0]) and not is_address(f"[{fields[0].partition('%')[0]}]"):
                where = f"block list {Path(path).name}, line {number}"
                raise UserError(f"{where}: expected a host, a URL or `address host`, found {line[:60]!r}; mend or drop the line")
            fields = fields[1:]
        for name in fields:
            if name.lower() not in _LOCAL:
                yield parse_entry(name)


def parse_entry(name: str) -> Entry | None:
    """`example.com`, `.example.com`, `*.example.com`, `example.com/path`, or a URL; None where there is no host that could be one.

    A leading `www.` is dropped: both names lead to one site.
    """
    from data_prep.urls.address import host_of
    from data_prep.urls.hashing import is_hashable

    match = _SCHEME.match(name)
    rest = name[match.end() :] if match else name
    below = rest.startswith((".", "*."))
    rest = rest.removeprefix("*").lstrip(".") if below else rest
    if ":" in rest and is_address(address := f"[{rest.strip('[]')}]"):
        rest = address
    cut = re.search(r"[/?#]", rest)
    host = without_www(host_of(f"http://{rest[: cut.start()] if cut else rest}"))
    path = rest[cut.start() :] if cut else ""
    if not is_hashable(host) or ".." in host or host.startswith("."):
        return None
    return Entry(host, "" if path == "/" and match else path, below)


def without_www(host: str) -> str:
    return host[4:] if host.startswith("www.") and "." in host[4:] else host


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers, without comments, spaces around them, and those that are empty then."""
    try:
        with open_list(path) as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                line = _COMMENT.sub(b"", line).strip() if b"#" in line else line.strip()
                if line:
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"list {Path(path).name}: damaged gzip ({error}); fetch it again") from None
