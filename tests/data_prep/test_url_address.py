"""One form for all URLs of a page, and whose page it is."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from publicsuffixlist import PublicSuffixList

from data_prep.urls import host_of, is_public_suffix, normalise, registered_domain

LIBRARY = PublicSuffixList()
PIECE = st.sampled_from(
    ["http://", "HTTPS://", "ftp:", "//", "/", "\\", ".", "..", "%", "%2", "%2e", "%2F", "%41", "%C3%A9", "é", "。", "／", "?", "&", "=",
     "#", ":", "@", "[", "]", "[::1]", ":443", ":80", ":0080", "a", "B", "xn--", "example.com", "utm_source=x", "%75tm_source", "id=1",
     ";jsessionid=7", " ", "\t", "\n", "\0", "\ud800", "😀", "ß"]
)  # fmt: skip
URL = st.one_of(
    st.lists(PIECE, max_size=14).map("".join), st.lists(PIECE, max_size=10).map(lambda parts: "http://a.b/" + "".join(parts)), st.text()
)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://www.Example.com/a?b#c", "www.example.com"),
        ("http://user:secret@example.com:8080/", "example.com"),
        ("http://example.com?x=http://other.org", "example.com"),
        ("http://example.com./", "example.com"),
        ("https://[2001:db8::1]:80/x", "[2001:db8::1]"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://faß.de/", "xn--fa-hia.de"),
        ("https://ＥＸＡＭＰＬＥ。com/", "example.com"),
        ("https://ex%61mple.com/", "example.com"),
        ("http://example.com@evil.org/", "evil.org"),
        ("http://a@b@evil.org/", "evil.org"),
        ("http://evil.org\\@example.com/", "evil.org"),
        ("  http://example.com/\n", "example.com"),
        ("http://exam\nple.com/", "example.com"),
        ("http://a／b.com/", "a／b.com"),
        ("mailto:a@example.com", ""),
        ("/relative/path", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTP://Example.COM", "http://example.com/"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("https://example.com:0443/a", "https://example.com/a"),
        ("http://example.com:/a", "http://example.com/a"),
        ("http://example.com/a#part", "http://example.com/a"),
        ("http://example.com/?", "http://example.com/"),
        ("http://example.com?b=2&a=1", "http://example.com/?b=2&a=1"),
        ("http://example.com/?utm_source=x&id=7&fbclid=y", "http://example.com/?id=7"),
        ("http://example.com/?UTM_Campaign=x&%75tm_medium=y", "http://example.com/"),
        ("http://example.com/?id=7&&&name=", "http://example.com/?id=7&name="),
        ("http://example.com/a;jsessionid=0AF?b=1", "http://example.com/a?b=1"),
        ("http://example.com/shop?PHPSESSID=0af&b=1", "http://example.com/shop?b=1"),
        ("http://example.com/a/./b/../c", "http://example.com/a/c"),
        ("http://example.com/../a/..", "http://example.com/"),
        ("http://example.com/a/%2e%2E/b", "http://example.com/b"),
        ("http://example.com/a//b/", "http://example.com/a//b/"),
        ("http://example.com/%7euser/%c3%a9 é", "http://example.com/~user/%C3%A9%20%C3%A9"),
        ("http://example.com/100%", "http://example.com/100%25"),
        ("http://example.com/a%2Fb?x=%26", "http://example.com/a%2Fb?x=%26"),
        ("http://bücher.example/ü", "http://xn--bcher-kva.example/%C3%BC"),
        ("http://me@example.com/", "http://me@example.com/"),
        ("http://www.example.com/a/", "http://www.example.com/a/"),
        (" ftp://Example.com/ ", "ftp://Example.com/"),
        ("http://example.com:port/", "http://example.com:port/"),
        ("not a url", "not a url"),
        ("", ""),
    ],
)
def test_the_normal_form(url: str, normal: str) -> None:
    assert normalise(url) == normal


@given(URL)
@example("http://a.b/%%34%31")
@example("http://a.b/.%2e/;jsessionid=1;jsessionid=2")
def test_the_normal_form_is_its_own_and_keeps_the_host(url: str) -> None:
    once = normalise(url)
    assert normalise(once) == once
    assert host_of(once) == host_of(url)


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("www.example.com", "example.com"),
        ("example.com", "example.com"),
        ("news.bbc.co.uk", "bbc.co.uk"),
        ("a.b.github.io", "b.github.io"),
        ("github.io", ""),
        ("com", ""),
        ("www.ck", "www.ck"),
        ("a.b.ck", "a.b.ck"),
        ("xn--55qx5d.cn", ""),
        ("shop.xn--55qx5d.cn", "shop.xn--55qx5d.cn"),
        ("deep.name.unknown-end", "name.unknown-end"),
        ("192.0.2.1", ""),
        ("[2001:db8::1]", ""),
        ("", ""),
    ],
)
def test_the_registered_domain(host: str, domain: str) -> None:
    assert registered_domain(host) == domain


@given(
    st.lists(
        st.sampled_from(["a", "www", "com", "co", "uk", "ck", "kobe", "city", "jp", "github", "io", "1", "compute", "amazonaws"]),
        min_size=1,
        max_size=5,
    )
)
def test_public_suffixes_are_those_of_the_library(labels: list[str]) -> None:
    host = ".".join(labels)
    assert is_public_suffix(host) == LIBRARY.is_public(host)
