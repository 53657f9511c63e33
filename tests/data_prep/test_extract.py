"""Main text of pages in any charset and of any shape, within limits and, where those fail, in a process that can be killed."""

import doctest
import random
import re
import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_prep.extract
from benchmarks.extraction import Labelled, read_pages, scores
from data_prep.decode import decode_html
from data_prep.extract import Extraction, Limits, Method, extract, normalise
from data_prep.isolation import OUT_OF_TIME, Isolated, Killed

RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
FRENCH = "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie éteinte, mes yeux se fermaient."


def page(text: str, meta: str = "") -> str:
    return f"<html><head>{meta}<title>Title</title></head><body><p>{text}</p></body></html>"


@pytest.mark.parametrize(
    ("text", "charset", "declared", "meta"),
    [
        (RUSSIAN, "utf-8", None, ""),
        (RUSSIAN, "utf-8", "iso-8859-1", ""),
        (RUSSIAN, "utf-8", "windows-1251", "<meta charset=koi8-r>"),
        (RUSSIAN, "utf-8-sig", "koi8-r", ""),
        (RUSSIAN, "utf-16", None, ""),
        (RUSSIAN, "utf-16-le", "utf-16", ""),
        (RUSSIAN, "windows-1251", "windows-1251", ""),
        (RUSSIAN, "windows-1251", "utf-8", "<meta charset=windows-1251>"),
        (RUSSIAN, "koi8-r", None, "<meta charset=koi8-r>"),
        (RUSSIAN, "windows-1251", "no-such-charset", ""),
        (JAPANESE, "shift_jis", "shift_jis", ""),
        (JAPANESE, "euc_jp", None, "<meta http-equiv=Content-Type content='text/html; charset=euc-jp'>"),
        (JAPANESE, "iso2022_jp", "iso-2022-jp", ""),
        (JAPANESE, "utf-8", "iso-2022-jp", ""),
        (FRENCH, "latin-1", None, ""),
        (FRENCH, "latin-1", "utf-8", ""),
        (FRENCH, "cp1252", "iso-8859-1", ""),
        ("“quoted” – and €", "cp1252", "iso-8859-1", ""),
        ("plain", "ascii", "utf-16", ""),
    ],
)
def test_any_charset_declared_truly_falsely_or_not_is_decoded(text: str, charset: str, declared: str | None, meta: str) -> None:
    assert text in decode_html(page(text, meta).encode(charset), declared)


def test_utf8_with_a_few_bad_bytes_stays_utf8() -> None:
    body = page(RUSSIAN).encode()
    assert decode_html(body.replace("семья".encode(), "семья".encode()[:-1]), None).count("\ufffd") == 1


@given(
    body=st.binary(max_size=300), declared=st.none() | st.text(max_size=12) | st.sampled_from(["utf-8", "utf-16", "idna", "zlib", "gbk"])
)
def test_decoding_never_fails(body: bytes, declared: str | None) -> None:
    text = decode_html(body, declared)
    assert text.encode().decode() == text  # no lone surrogates: it can be written to Parquet


def test_the_main_text_is_found_without_navigation_and_scripts() -> None:
    html = f"""<html><head><title> The  page </title><style>p {{}}</style></head><body><nav><a href=/>Home</a> <a href=/x>About</a></nav>
    <main><h1>Heading</h1><p>{FRENCH}</p><ul><li>one<li>two</ul><p>{RUSSIAN}</p></main>
    <script>var a = "<p>no</p>"</script><footer>Copyright</footer></body></html>"""
    found = extract(html)
    assert found.refused == ""
    assert FRENCH in found.text and RUSSIAN in found.text and "Heading" in found.text
    assert not re.search("Home|Copyright|no<|var a", found.text)


@given(text=st.text())
def test_normalised_text_is_clean_and_stays_as_it_is(text: str) -> None:
    clean = normalise(text)
    clean.encode()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]|\n\n\n|[ \t]\n|\A\s|\s\Z", clean)
    assert normalise(clean) == clean


def test_letters_and_inner_spaces_are_not_touched() -> None:
    assert normalise(" ﬁ e\u0301  x\tz\r\nb\0c \n\n\n\nd ") == "ﬁ e\u0301  x\tz\nbc\n\nd"


@pytest.mark.parametrize("tag", ["div", "b", "p", "ul><li", "table><tr><td", "unknown", "svg><g", "span a='>'"])
def test_nesting_a_hundred_thousand_deep_is_refused_at_once(tag: str) -> None:
    start = time.process_time()
    assert extract(f"<{tag}>" * 100_000).refused == "too_many_tags"
    expected = "" if tag in ("p", "svg><g") else "too_deep"  # <p> ends <p>, and nobody looks into drawings
    assert extract(f"<{tag}>" * 3_000 + "x" + "</p></i></svg>" * 3_000).refused == expected
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "hidden",
    [
        "<!--</div>-->",
        "<a title='</div>'>",
        "<textarea></div></textarea>",
        "</span>",
        "<script></div></script>",
    ],
)
def test_end_tags_that_end_nothing_do_not_hide_depth(hidden: str) -> None:
    assert extract(("<div>" + hidden) * 1_000).refused == "too_deep"


@pytest.mark.parametrize("limit", [10, 100, 512])
def test_the_depth_limit_is_exact(limit: int) -> None:
    inner = limit - 2  # html and body are there too
    assert extract("<div>" * inner + "text" + "</div>" * inner, limits=Limits(max_depth=limit)).text == "text"
    assert extract("<div>" * (inner + 1) + "text", limits=Limits(max_depth=limit)).refused == "too_deep"


@pytest.mark.parametrize(
    "html", [b"", b"\0" * 1000, b"\xff\xfe", b"<", b"<" * 100_000, b"<!--" * 10_000, b"&#0;&#xD800;&#x110000;x", b"%PDF-1.4 \x80"]
)
def test_what_is_hardly_html_is_no_accident(html: bytes) -> None:
    found = extract(html)
    assert found.text.encode().decode() == found.text


@settings(max_examples=60)
@given(
    parts=st.lists(
        st.sampled_from(
            ["<div>", "</div>", "<p>", "<b x=1>", "<table>", "<td>", "<svg>", "<!--", "-->", "<script>", "\0", "é", "&amp", "text "]
        )
    )
)
def test_any_mixture_of_tags_is_read_alike_twice(parts: list[str]) -> None:
    html = "".join(parts)
    assert extract(html) == extract(html.encode())


def test_a_hopeless_page_is_killed_and_its_neighbours_are_not() -> None:
    attributes = " ".join(f"a{number}=1" for number in range(300_000))
    hopeless = f"<div {attributes}>text".encode()
    with Isolated(extract, cpu_s=0.5, memory_bytes=4 << 30) as extractor:
        good = (page(FRENCH).encode(),)
        first, second, third = extractor.map([good, (hopeless,), good])
        assert second == Killed(OUT_OF_TIME, "out of CPU time")
        assert isinstance(first, Extraction) and first == third == extract(*good)
        assert extractor.map([good]) == [first]


ARTICLE = "".join(f"<p>{number}. {FRENCH}</p>" for number in range(5))
COMMENTED = (
    f"<html><body><div class=story>{ARTICLE}</div><div id=comments>"
    + f"<div class=comment>{RUSSIAN * 3}</div>" * 40
    + "</div></body></html>"
)


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("markdown", [False, True])
def test_every_extractor_finds_the_article(method: Method, markdown: bool) -> None:
    head = "<html lang=fr><head><title>Title</title><meta name=date content=1999-12-31></head>"
    found = extract(
        f"{head}<body><nav><a href=/>Home</a></nav><article><h1>Heading</h1>{ARTICLE}</article></body></html>", method, markdown=markdown
    )
    assert found.text.count(FRENCH) == 5 and "Home" not in found.text
    assert found.method == ("blocks" if method == "cascade" else method)
    assert (found.title, found.published, found.language_hint) == ("Title", "1999-12-31", "fr")


def test_code_lists_and_tables_come_the_same_way_from_both_extractors_of_the_cascade() -> None:
    html = f"""<html><body><article><h2>Heading</h2>{ARTICLE}<ul><li>one<li>two</ul><ol><li>three<li>four</ol>
    <pre>if x:\n    y()</pre><table><tr><th>A<th>B<tr><td>1<td>2</table>{ARTICLE}</article></body></html>"""
    for markdown in (False, True):
        first, second = (extract(html, method, markdown=markdown).text for method in ("blocks", "trafilatura"))
        assert first == second
        assert "- one\n- two\n\n1. three\n2. four" in first and "if x:\n    y()" in first
        assert ("## Heading" in first and "| A | B |\n| --- | --- |\n| 1 | 2 |" in first) is markdown


def test_the_cascade_asks_for_a_second_opinion_where_much_is_left_out_and_takes_the_longer_text() -> None:
    assert extract(COMMENTED).method == "blocks"
    page = COMMENTED.replace("story", "story-widget")  # named like what is no text, and too little of the page to be spared
    assert extract(page, "blocks").text == ""
    found = extract(page)
    assert found.method == "trafilatura" and FRENCH in found.text
    assert found == extract(page, max_doubt=0.99) != extract(page, max_doubt=1.0) == extract(page, "blocks")


def test_soft_hyphens_are_no_part_of_words() -> None:
    assert extract("<p>Welt&shy;er&shy;nährung").text == "Welternährung"


@pytest.mark.parametrize("method", ["blocks", "trafilatura"])
@pytest.mark.parametrize(
    "html",
    [
        "<p>" + "<a href=/>x</a>" * 9_000,
        "<table><tr>" + "<td>x" * 9_000,
        "<ul>" + "<li>" * 9_000 + "x",
        ("<div>" * 400 + "x" + "</div>" * 400) * 20,
        f'<div class="{"a-b " * 300_000}">x',
        "<p>" + "&amp;" * 300_000,
        "x" * 3_000_000,
        "<s<>x</s<></s\ud800><o:p>y</o:p>\ufffe\x0b",
    ],
    ids=range(8),
)
def test_pages_within_the_limits_are_read_in_seconds(html: str, method: Method) -> None:
    start = time.process_time()
    extract(f"<html><body>{html}</body></html>", method).text.encode()
    assert time.process_time() - start < 4


def test_the_examples_in_the_documentation_are_true() -> None:
    assert doctest.testmod(data_prep.extract) == doctest.TestResults(failed=0, attempted=3)


@pytest.fixture(scope="module")
def labelled(shared_data: Path) -> list[Labelled]:
    return read_pages(shared_data)[0]


def test_main_text_of_labelled_pages_is_as_good_as_measured(labelled: list[Labelled]) -> None:
    """The numbers of `benchmarks/extraction.py`: on the pages that nothing was chosen on, and on all."""
    texts = [extract(item.page).text for item in labelled]
    found = scores(labelled, texts)
    assert found["full_text"] > 0.97 and found["segments"] > 0.93
    held_out = [(item, text) for item, text in zip(labelled, texts, strict=True) if not item.first_half]
    assert len(held_out) == 213
    found = scores(*zip(*held_out, strict=True))
    assert found["full_text"] > 0.96 and found["segments"] > 0.92


@pytest.mark.proof
def test_the_cascade_is_no_worse_than_trafilatura(labelled: list[Labelled]) -> None:
    ours, precise = (scores(labelled, [extract(item.page, method).text for item in labelled]) for method in ("cascade", "trafilatura"))
    assert all(ours[kind] > precise[kind] - 0.005 for kind in ours)


def test_mutated_real_pages_are_read_alike_twice_by_all(labelled: list[Labelled]) -> None:
    draw, pieces = random.Random(5), ["<div>", "</div>", "<td>", "<!--", "</p>", "\0", "\ud800", "<svg>", "<x:y", "&#0;", ""]
    for item in draw.sample(labelled, 30):
        page = list(item.page[:40_000])
        for _ in range(100):
            page[draw.randrange(len(page))] = draw.choice(pieces)
        for method in get_args(Method):
            assert extract("".join(page), method) == extract("".join(page), method)
