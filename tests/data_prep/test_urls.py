"""Hosts on a list are blocked with their sub-domains, and nothing that only looks like them."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.urls import OWN_BLOCKLIST, UrlFilter, host_of, read_blocklist
from pipeline.stage import UserError

LABEL = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://www.Example.com/a?b#c", "www.example.com"),
        ("http://user:secret@example.com:8080/", "example.com"),
        ("http://example.com?x=http://other.org", "example.com"),
        ("http://example.com./", "example.com"),
        ("https://[2001:db8::1]:80/x", "[2001:db8::1]"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("http://example.com@evil.org/", "evil.org"),
        ("mailto:a@example.com", ""),
        ("/relative/path", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert host_of(url) == host


@given(sub=st.lists(LABEL, max_size=4), prefix=LABEL)
def test_a_blocked_host_blocks_its_sub_domains_only(sub: list[str], prefix: str) -> None:
    urls = UrlFilter(["web.com", "bad.example.org"])
    for host in ("web.com", "bad.example.org"):
        assert urls.check(f"https://{'.'.join([*sub, host])}/a") == "blocked_host"
        assert urls.check(f"https://{prefix}{host}/a") is None
        assert urls.check(f"https://{host}.{prefix}0/a") is None
    assert urls.check("https://eb.com/") is None
    assert urls.check("https://example.org/") is None


def test_words_are_blocked_when_they_stand_alone() -> None:
    urls = UrlFilter([], ["porn"])
    assert urls.check("https://site.example/free-porn/1") == "blocked_word"
    assert urls.check("https://porn.site.example/") == "blocked_word"
    assert urls.check("https://site.example/popcorn/pornography-law") is None


def test_a_record_without_url_passes() -> None:
    assert UrlFilter(["example.com"]).check("") is None


@pytest.mark.parametrize("packed", [False, True])
def test_lists_of_hosts_and_hosts_files_are_read(tmp_path: Path, packed: bool) -> None:
    text = "# a list\nBad.example\n\n0.0.0.0 ads.example tracker.example # two\n127.0.0.1 localhost\n::1 ip6-localhost\n*.wild.example\r\n"
    path = tmp_path / ("list.hosts.gz" if packed else "list.hosts")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert list(read_blocklist(path)) == ["bad.example", "ads.example", "tracker.example", "wild.example"]


def test_what_is_no_list_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.domains").write_text("good.example\nthis is prose\n")
    with pytest.raises(UserError, match=r"a\.domains, line 2"):
        list(read_blocklist(tmp_path / "a.domains"))
    (tmp_path / "b.domains.gz").write_bytes(gzip.compress(b"good.example\n" * 1000)[:-10])
    with pytest.raises(UserError, match="damaged gzip"):
        list(read_blocklist(tmp_path / "b.domains.gz"))


def test_the_own_list_is_shipped_and_sound() -> None:
    hosts = list(read_blocklist(OWN_BLOCKLIST))
    assert len(hosts) == len(set(hosts)) > 20
    assert UrlFilter(hosts).check("https://anything.xxx/") == "blocked_host"


def test_real_lists_block_their_hosts(shared_data: Path) -> None:
    path = shared_data / "urls" / "blocklists" / "gambling.domains.txt.gz"
    hosts = list(read_blocklist(path))
    urls = UrlFilter(hosts)
    assert all(urls.check(f"http://www.{host}/") == "blocked_host" for host in hosts[:500])
    assert urls.check("https://en.wikipedia.org/wiki/Gambling") is None
