"""Hosts on a list are blocked with their sub-domains, and nothing that only looks like them, one by one as in batches."""

import doctest
import gzip
import hashlib
import json
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data_prep.urls
from data_prep.urls import OWN_LISTS, Blocklist, UrlFilter, Words, compile_entries, compile_lists, list_kind
from data_prep.urls.hashing import Names, name_hashes
from data_prep.urls.lists import Entry, read_entries
from pipeline.stage import UserError

LABEL = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)

SOME = compile_entries(
    {
        "adult": ["bad.com", "dating.org", "blogspot.com", "bücher.example", "[2001:db8::1]", "192.0.2.7"],
        "dating": ["dating.org", "bad.com/love", "forum.net/singles"],
        "spam": [".github.io", "forum.net/a?b=1", "news.net/", "www.shop.net"],
    },
    allow=["good.bad.com", "bad.com/love/letters", "help.github.io", "clean.com"],
    words=Words(strict=("freehats",), hard=("hats",), soft=("sun", "rain", "snow")),
)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://bad.com/", "blocked_adult"),
        ("https://WWW.Bad.com:8080/x", "blocked_adult"),
        ("http://a.b.bad.com/", "blocked_adult"),
        ("http://notbad.com/", None),
        ("http://bad.com.org/", None),
        ("http://good.bad.com/", None),
        ("http://very.good.bad.com/hats", None),
        ("http://bad.com/love", "blocked_dating"),
        ("http://bad.com/love/letters/1", None),
        ("http://bad.com/lovely", "blocked_adult"),
        ("http://dating.org/", "blocked_adult"),
        ("http://forum.net/singles?page=2", "blocked_dating"),
        ("http://www.forum.net/Singles/all/", "blocked_dating"),
        ("http://sub.forum.net/singles", None),
        ("http://forum.net/single", None),
        ("http://forum.net/singlesbar", None),
        ("http://forum.net/a?b=1&c=2", "blocked_spam"),
        ("http://forum.net/a?b=12", None),
        ("http://forum.net/a", None),
        ("http://news.net", "blocked_spam"),
        ("http://news.net/#top", "blocked_spam"),
        ("http://news.net/story", None),
        ("http://news.net/?id=1", None),
        ("http://shop.net/", "blocked_spam"),
        ("http://blogspot.com/", "blocked_adult"),
        ("http://mine.blogspot.com/", None),
        ("http://me.github.io/", "blocked_spam"),
        ("http://help.github.io/hats", None),
        ("http://xn--bcher-kva.example/", "blocked_adult"),
        ("http://www.BÜCHER.example/", "blocked_adult"),
        ("http://[2001:db8::1]/", "blocked_adult"),
        ("http://192.0.2.7:81/", "blocked_adult"),
        ("http://x.org/free-h.a.t.s/", "blocked_strict_word"),
        ("http://x.org/Hats/1", "blocked_hard_word"),
        ("http://hats.org/", "blocked_hard_word"),
        ("http://x.org/whats/chats", None),
        ("http://x.org/sun-sun", None),
        ("http://x.org/sun-rain", "blocked_soft_words"),
        ("http://clean.com/sun-rain-hats", None),
        ("http://a@b@bad.com/", "blocked_adult"),
        ("http://bad.com@x.org/", None),
        ("//bad.com/hats", None),
        ("", None),
        (f"http://{'a.' * 130}bad.com/", None),
    ],
)
def test_the_most_specific_entry_decides(url: str, reason: str | None) -> None:
    urls = UrlFilter(SOME)
    assert urls.check(url) == reason
    assert urls.check_batch(["http://x.org/", url]) == [None, reason]


def test_the_example_of_the_package_runs() -> None:
    assert doctest.testmod(data_prep.urls).failed == 0


def test_what_is_blocked_is_named() -> None:
    urls = UrlFilter(SOME)
    entries = {
        url: urls.judge(url) for url in ("http://a.bad.com/", "http://www.forum.net/singles/x", "http://x.org/snow/sun", "http://x.org/")
    }
    assert [blocked and blocked.entry for blocked in entries.values()] == ["bad.com", "forum.net/singles", "snow sun", None]


def test_soft_words_are_counted_as_the_setting_says() -> None:
    assert UrlFilter(SOME, soft_words=1).check("http://x.org/sun") == "blocked_soft_words"
    assert UrlFilter(SOME, soft_words=3).check("http://x.org/sun/rain") is None
    assert UrlFilter(SOME, soft_words=3).check_batch(["http://x.org/sun/rain", "http://x.org/sun/rain?snow"]) == [
        None,
        "blocked_soft_words",
    ]


@given(sub=st.lists(LABEL, max_size=4), prefix=LABEL)
def test_a_blocked_host_blocks_its_sub_domains_only(sub: list[str], prefix: str) -> None:
    urls = UrlFilter(compile_entries({"x": ["web.com", "bad.example.org"]}))
    for host in ("web.com", "bad.example.org"):
        assert urls.check(f"https://{'.'.join([*sub, host])}/a") == "blocked_x"
        assert urls.check(f"https://{prefix}{host}/a") is None
        assert urls.check(f"https://{host}.{prefix}0/a") is None
    assert urls.check("https://eb.com/") is None
    assert urls.check("https://example.org/") is None


PIECE = st.sampled_from(
    ["http://", "https://", "HTTPS://", "hTTp://", "http:/", " ", "bad.com", "good.", "www.", "github.io", "blogspot.com", "forum.net",
     "a.", "1", "-", "_", "/singles", "/love", "/letters", "/", "//", "?", "?b=1", "&c", "#", ":80", "@", "hats", "free", "sun", "-rain",
     "h-a-t-s", "\n", "\t", "\\", "%62", "é", "\u212a", "İ", "\ud800", "\0", "[2001:db8::1]", "x" * 70, "."]
)  # fmt: skip


@given(
    st.lists(
        st.one_of(
            st.lists(PIECE, max_size=8).map("".join), st.lists(PIECE, max_size=6).map(lambda parts: "http://" + "".join(parts)), st.text()
        ),
        max_size=12,
    )
)
def test_a_batch_is_judged_as_its_urls_one_by_one(batch: list[str]) -> None:
    urls = UrlFilter(SOME)
    assert urls.check_batch(batch) == [urls.check(url) for url in batch]


def test_batches_of_any_size_are_judged_in_order() -> None:
    urls = UrlFilter(SOME)
    many = [f"http://site{number}.{'bad.com' if number % 7 == 0 else 'org'}/{number}" for number in range(10_000)]
    assert urls.check_batch(many) == ["blocked_adult" if number % 7 == 0 else None for number in range(10_000)]
    assert urls.check_batch([]) == []


@given(st.lists(st.lists(LABEL, min_size=1, max_size=4).map(".".join), min_size=1, max_size=8))
def test_hashes_of_many_names_are_those_of_each(names: list[str]) -> None:
    text = "".join(names).upper()
    whole, parents, rows = Names(numpy.frombuffer(text.encode(), numpy.uint8), numpy.cumsum([len(name) for name in names])).hashes()
    for row, name in enumerate(names):
        assert [int(whole[row]), *map(int, parents[rows == row])] == name_hashes(name)
        assert name_hashes(name)[1:2] == name_hashes(name.partition(".")[2])[: "." in name]


def test_hashes_are_the_same_on_every_machine() -> None:
    assert name_hashes("example.com") == [4347226275605714149, 262202394922252168]


def test_nothing_listed_blocks_nothing() -> None:
    urls = UrlFilter(compile_entries({}))
    assert urls.check_batch(["http://example.com/", "http://www.pornhub.com/"]) == [None, None]


# Files


def test_a_file_is_a_list_by_its_name() -> None:
    kinds = {
        "ut1/adult/domains": ("hosts", "adult"),
        "blacklists/strict_redirector/urls": ("urls", "strict_redirector"),
        "ads.domains.txt.gz": ("hosts", "ads"),
        "phishing.urls": ("urls", "phishing"),
        "Steven-Black.hosts": ("hosts", "steven_black"),
        "hosts": ("hosts", "host"),
        "x/allow.domains": ("hosts", "allow"),
        "soft.words": ("words", "soft"),
    }
    for name, (kind, category) in kinds.items():
        found = list_kind(name)
        assert found and (found.kind, found.category) == (kind, category)
    assert [list_kind(name) for name in ("a.warc.gz", "domains.jsonl", "adult/usage", "words", "a.txt")] == [None] * 5
    with pytest.raises(UserError, match=r"strict\.words"):
        list_kind("bad.words")


@pytest.mark.parametrize("packed", [False, True])
def test_lists_of_hosts_and_hosts_files_are_read(tmp_path: Path, packed: bool) -> None:
    text = "\ufeff# a list\nBad.example\n\n0.0.0.0 ads.example tracker.example # two\n127.0.0.1 localhost\n::1 ip6-localhost\n"
    text += "*.wild.example\r\nwww.site.example\n.all.example\nhttps://phish.example/login?x=1\nfront.example/#ce\nbücher.example\n2001:db8::1\n-\n..\n"
    path = tmp_path / "list.hosts"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert list(read_entries(path)) == [
        Entry("bad.example"), Entry("ads.example"), Entry("tracker.example"), Entry("wild.example", below=True), Entry("site.example"),
        Entry("all.example", below=True), Entry("phish.example", "/login?x=1"), Entry("front.example", "/#ce"),
        Entry("xn--bcher-kva.example"), Entry("[2001:db8::1]"), Entry("-"), None,
    ]  # fmt: skip


def test_lines_of_a_list_of_urls_never_block_a_whole_host(tmp_path: Path) -> None:
    (tmp_path / "phishing.urls").write_text("shared.example\nfront.example/#ne\npaths.example/a/\n")
    urls = UrlFilter(compile_lists([("phishing.urls", tmp_path / "phishing.urls")]))
    for host in ("shared.example", "front.example"):
        assert urls.check(f"http://www.{host}/") == "blocked_phishing" and urls.check(f"http://{host}/other") is None
    assert urls.check("http://paths.example/a/b") == "blocked_phishing" and urls.check("http://paths.example/") is None


def test_what_is_no_list_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.domains").write_text("good.example\nthis is prose\n")
    with pytest.raises(UserError, match=r"a\.domains, line 2"):
        compile_lists([("a.domains", tmp_path / "a.domains")])
    (tmp_path / "b.domains.gz").write_bytes(gzip.compress(b"good.example\n" * 1000)[:-10])
    with pytest.raises(UserError, match="damaged gzip"):
        compile_lists([("b.domains.gz", tmp_path / "b.domains.gz")])
    (tmp_path / "hard.words").write_text("fine\ntwo words\n")
    with pytest.raises(UserError, match=r"hard\.words, line 2"):
        compile_lists([("hard.words", tmp_path / "hard.words")])
    with pytest.raises(UserError, match=r"notes\.txt"):
        compile_lists([("notes.txt", tmp_path / "notes.txt")])
    with pytest.raises(UserError, match="neither a host nor a URL"):
        compile_entries({"x": [".."]})


def test_a_compiled_file_holds_the_same_list_whatever_the_order_of_its_parts(tmp_path: Path) -> None:
    lists = {
        "a.domains": ["one.com", "two.com", "github.io", "x.org/p"],
        "b.domains": ["two.com", "three.com"],
        "allow.domains": ["www.two.com"],
    }
    digests = set()
    for turn in (1, -1):
        for name, entries in lists.items():
            (tmp_path / name).write_text("\n".join(entries[::turn]))
        compiled = compile_lists([(name, tmp_path / name) for name in [*lists][::turn]])
        compiled.save(tmp_path / "compiled")
        digests.add(hashlib.sha256((tmp_path / "compiled").read_bytes()).hexdigest())
        loaded = Blocklist.load(tmp_path / "compiled")
        assert loaded.facts == compiled.facts and loaded.categories == ("a", "b")
        urls = ["http://one.com", "http://two.com", "http://three.com", "http://a.github.io", "http://x.org/p/q", "http://four.com"]
        assert UrlFilter(loaded).check_batch(urls) == ["blocked_a", None, "blocked_b", None, "blocked_a", None]
    assert len(digests) == 1
    assert (loaded.facts.distinct, loaded.facts.public_suffixes, loaded.facts.collisions) == (6, 1, 0)
    assert loaded.facts.entries == {"a": 4, "allow": 1, "b": 2}


def test_another_file_is_not_taken_for_a_compiled_list(tmp_path: Path) -> None:
    for content in (b"", b"example.com\n", b"\xff" * 100, (8).to_bytes(8, "little") + b'{"a":{}}'):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(UserError, match="not a compiled block list"):
            Blocklist.load(tmp_path / "other")


def test_the_own_lists_are_shipped_and_sound() -> None:
    urls = UrlFilter()
    assert urls.check("https://anything.xxx/") == "blocked_adult"
    assert urls.check("https://www.bet365.com/") == "blocked_gambling"
    assert urls.check("https://site.example/free-porn/1") == "blocked_strict_word"
    assert urls.check("https://site.example/porn/1") == "blocked_hard_word"
    for innocent in (
        "popcorn/pornography-law",
        "essex-chat",
        "sussexvideos",
        "siriporn-cumshaw",
        "coloured-tubes",
        "pornsit-ekachai",
        "sexual-health",
        "analysis-casino",
        "class/ass",
    ):
        assert urls.check(f"https://site.example/{innocent}") is None


# Real lists and pages


def test_real_lists_block_all_their_hosts(shared_data: Path) -> None:
    path = shared_data / "urls" / "blocklists" / "gambling.domains.txt.gz"
    hosts = gzip.decompress(path.read_bytes()).decode().split()
    urls = UrlFilter(compile_lists([(path.name, path)]))
    assert set(urls.check_batch([f"http://www.{host}/a" for host in hosts if host != "bet.br"])) == {"blocked_gambling"}
    assert urls.check_batch(["http://bet.br/", "http://www.bet.br/", "https://en.wikipedia.org/wiki/Gambling"]) == [
        "blocked_gambling",
        None,
        None,
    ]


def test_all_real_lists_reject_nine_of_the_real_pages(shared_data: Path) -> None:
    files = sorted((shared_data / "urls" / "blocklists").glob("*.gz"))
    urls = UrlFilter(compile_lists([*((path.name, path) for path in files), *((path, path) for path in OWN_LISTS)]))
    with gzip.open(shared_data / "web" / "manifest.jsonl.gz", "rt") as lines:
        pages = [json.loads(line)["url"] for line in lines]
    blocked = [found for page in pages if (found := urls.judge(page))]
    assert urls.check_batch(pages) == [urls.check(page) for page in pages]
    assert {found.entry for found in blocked} == {"refinery29.com", "allmonitors.net", "grasscity.com", "verajohn.com", "tmz.com"}
    assert len(blocked) == 9
