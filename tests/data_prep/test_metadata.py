"""Title, date and language that pages give of themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree

from data_prep.extract.metadata import metadata


def told(html: str) -> tuple[str, str, str]:
    return metadata(HTMLTree.parse(html), html)


@pytest.mark.parametrize(
    ("html", "title"),
    [
        ("<title> The\n page </title><h1>Heading</h1>", "The page"),
        ("<title>Site: page</title><meta property='og:title' content='Page &amp; more'>", "Page & more"),
        ("<title></title><h1>The <b>heading</b></h1>", "The heading"),
        (f"<title>{'long ' * 200}</title>", ("long " * 100).rstrip()),
        ("<p>nothing", ""),
    ],
)
def test_the_title_is_the_best_there_is(html: str, title: str) -> None:
    assert told(html)[0] == title


@pytest.mark.parametrize(
    ("html", "published"),
    [
        ("<meta property='article:published_time' content='2024-02-29T23:59:00+09:00'>", "2024-02-29"),
        ("<meta name=DC.date content='2019/07/01'>", "2019-07-01"),
        ('<script type="application/ld+json">{"datePublished" : "2021-03-04T05:06:07Z"}</script>', "2021-03-04"),
        ("<p itemprop=datePublished content=2020-01-02>January</p>", "2020-01-02"),
        ("<article><time datetime='2018-12-31 10:00'>x</time></article>", "2018-12-31"),
        ("<footer><time datetime='2018-12-31'>x</time></footer>", ""),
        ("<meta name=date content='yesterday'><meta name=pubdate content='2020-05-05'>", "2020-05-05"),
        ("<meta name=date content='2023-02-29'>", ""),
        ("<meta name=date content='0001-01-01'>", ""),
        ("<meta name=date content='2023-02-011'>", ""),
    ],
)
def test_dates_are_real_days(html: str, published: str) -> None:
    assert told(html)[1] == published


@pytest.mark.parametrize(
    ("html", "language"),
    [
        ("<html lang=de>", "de"),
        ("<html lang='pt_BR'>", "pt-BR"),
        ("<html xml:lang='zh-Hant-TW'>", "zh-Hant-TW"),
        ("<html lang='{{ lang }}'><meta property='og:locale' content='en_US'>", "en-US"),
        ("<html lang=english>", ""),
        ("<p lang=fr>", ""),
    ],
)
def test_the_language_is_a_language_tag(html: str, language: str) -> None:
    assert told(html)[2] == language


@given(name=st.sampled_from(["og:title", "date", "content-language"]), content=st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_a_page_claims_is_a_line_a_day_and_a_tag(name: str, content: str) -> None:
    title, published, language = told(f'<html><meta name="{name}" content="{content.replace(chr(34), "")}"><body>x')
    assert len(title) <= 500 and title == " ".join(title.split())
    assert published == "" or len(published) == 10
    assert language == "" or len(language) <= 40
