"""Which part of a host was registered by its owner, by the Public Suffix List (publicsuffix.org) as publicsuffixlist ships it."""

from __future__ import annotations

import functools
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.urls.address import canonical_host

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList


@functools.lru_cache(maxsize=1 << 16)
def registered_domain(host: str) -> str:
    """The public suffix of a canonical host and one label more: `news.bbc.co.uk` → `bbc.co.uk`, `a.b.github.io` → `b.github.io`.

    The list's private part counts (a blog of its own on `blogspot.com` is a site of its own); an unknown top-level domain is a suffix.
    "" for a host that is a public suffix itself, an address, or no name.
    """
    if is_address(host):
        return ""
    return _list().privatesuffix(host) or ""


def is_public_suffix(host: str) -> bool:
    """Whether strangers register names below this host, so that it says nothing about them: `com`, `co.uk`, `github.io`."""
    exact, parents = _rules()
    if "." in host and host not in exact and host not in parents and host.partition(".")[2] not in parents:
        return False  # what the library would say too, in a tenth of the time
    return not is_address(host) and _list().is_public(host)


def is_address(host: str) -> bool:
    """Whether the host is an IP address; version 6 in brackets."""
    if not host.startswith("[") and not host[-1:].isdigit():
        return False
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


@functools.cache
def _rules() -> tuple[frozenset[str], frozenset[str]]:
    """The names of the list, and those below which any name is one (`*.ck`)."""
    from publicsuffixlist import PSLFILE

    lines = Path(PSLFILE).read_text("utf-8").splitlines()
    rules = [line.split()[0] for line in lines if line.strip() and not line.startswith("//")]
    parents = frozenset(canonical_host(rule[2:]) for rule in rules if rule.startswith("*."))
    return frozenset(canonical_host(rule) for rule in rules if rule[0] not in "*!"), parents


@functools.cache
def _list() -> PublicSuffixList:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
