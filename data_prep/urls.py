"""Which URLs are not wanted: hosts on blocklists, and a few words that no wanted host or path holds."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.stage import UserError

OWN_BLOCKLIST = Path(__file__).with_name("blocked_hosts.txt")

# Words that stand alone in the host or path of adult and gambling sites. Short or ambiguous ones are left out on purpose.
BLOCKED_WORDS = frozenset(
    [
        "porn",
        "porno",
        "pornos",
        "pornstar",
        "pornstars",
        "hentai",
        "camgirl",
        "camgirls",
        "milf",
        "milfs",
        "gangbang",
        "blowjob",
        "sexcam",
        "sexcams",
    ]
)

_HOST = re.compile(r"^[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]/?#]*\]|[^/?#:]*)", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+")
_ADDRESS = re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9a-f]*:[0-9a-f:.]*", re.IGNORECASE)
_LOCAL_NAMES = frozenset(["localhost", "localhost.localdomain", "local", "broadcasthost", "ip6-localhost", "ip6-loopback"])


def host_of(url: str) -> str:
    """The host in lower case, internationalised names in their ASCII form, without a final dot; "" if there is none."""
    match = _HOST.match(url.strip())
    host = match[1].rstrip(".").lower() if match else ""
    if not host.isascii():
        with contextlib.suppress(UnicodeError):  # not a valid name: compared as it is
            host = host.encode("idna").decode("ascii")
    return host


def normalise(url: str) -> str:
    """One form of URLs that lead to the same page: scheme and host in lower case, without default port and fragment."""
    match = _HOST.match(url.strip())
    if not match:
        return url.strip()
    scheme, rest = match[0].partition("://")[0].lower(), url.strip()[match.end() :].partition("#")[0]
    default = {"http": ":80", "https": ":443"}.get(scheme, ":")
    port, slash, path = rest.partition("/")
    return f"{scheme}://{host_of(url)}{'' if port == default else port}{slash or '/'}{path}"


class UrlFilter:
    """Judges URLs. A blocked host blocks its sub-domains: `example.com` also `www.example.com`, never `anexample.com`."""

    def __init__(self, blocked_hosts: Iterable[str], blocked_words: Iterable[str] = BLOCKED_WORDS) -> None:
        self._hosts = frozenset(blocked_hosts)
        self._words = frozenset(blocked_words)

    def check(self, url: str) -> str | None:
        """The reason to reject this URL, `blocked_host` or `blocked_word`; None for a wanted one and for one without a host."""
        host = host_of(url)
        domain = host
        while domain:
            if domain in self._hosts:
                return "blocked_host"
            domain = domain.partition(".")[2]
        if host and not self._words.isdisjoint(_WORD.findall(url.lower())):
            return "blocked_word"
        return None


def read_blocklist(path: str | os.PathLike[str]) -> Iterator[str]:
    """The hosts of one list: a host a line, or the `hosts` format (`0.0.0.0 host …`); `#` starts a comment; gzip by name.

    Raises UserError naming file and line where something else stands.
    """
    with gzip.open(path, "rb") if os.fspath(path).endswith(".gz") else open(path, "rb") as file:
        try:
            for number, line in enumerate(file, 1):
                fields = line.partition(b"#")[0].decode("utf-8", "replace").split()
                if len(fields) > 1 and not _ADDRESS.fullmatch(fields[0]):
                    where = f"blocklist {Path(path).name}, line {number}"
                    raise UserError(f"{where}: expected a host or `address host`, found {line[:60]!r}; mend or drop the line")
                for name in fields[1:] if len(fields) > 1 else fields:
                    host = host_of("http://" + name.removeprefix("*.").removeprefix("."))
                    if host and host not in _LOCAL_NAMES:
                        yield host
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"blocklist {Path(path).name}: damaged gzip ({error}); fetch it again") from None
