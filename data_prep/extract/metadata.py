"""What a page says about itself: its title, when it was published, its language. "" where it says nothing sound."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resiliparse.parse.html import HTMLTree

_TITLE_CHARACTERS = 500
_YEARS = range(1990, 2100)  # others stand for "no date"
# Names of `meta` elements, most trusted first.
_TITLES = ("og:title", "twitter:title", "dc.title")
_DATES = (
    "article:published_time", "og:article:published_time", "datepublished", "date", "pubdate", "publish_date", "publish-date",
    "publication_date", "dc.date", "dc.date.issued", "dcterms.created", "dcterms.date", "dcterms.issued", "parsely-pub-date",
    "sailthru.date",
)  # fmt: skip
_LANGUAGES = ("content-language", "og:locale", "dc.language")
_JSON_DATE = re.compile(r'"datePublished"\s*:\s*"([^"]{8,40})"')
_DATE = re.compile(r"(\d{4})[-/](\d{2})[-/](\d{2})(?!\d)")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8}){0,4}")


def metadata(tree: HTMLTree, page: str) -> tuple[str, str, str]:
    """(title, published, language) of a parsed page and its source.

    title      that a `meta` names for the article, else the page's, else the first `h1`; in one line of at most 500 characters
    published  `YYYY-MM-DD` of a `meta`, JSON-LD, microdata or a `time` element in an article, the first that holds a date
    language   of the `html` element, else of a `meta`: a language tag (BCP 47) in the page's own spelling: "de", "pt-BR"
    """
    named: dict[str, str] = {}
    if tree.head is not None:
        for node in tree.head.get_elements_by_tag_name("meta"):
            name = node.getattr("property") or node.getattr("name") or node.getattr("itemprop") or node.getattr("http-equiv")
            if name and (content := node.getattr("content")):
                named.setdefault(name.lower(), content)
    title = next((text for text in map(_line, _titles(tree, named)) if text), "")
    published = next((date for date in map(_date, _dates(tree, page, named)) if date), "")
    language = next((tag for tag in map(_tag, _languages(tree, named)) if tag), "")
    return title, published, language


def _titles(tree: HTMLTree, named: dict[str, str]) -> Iterator[str]:
    yield from (named[name] for name in _TITLES if name in named)
    yield tree.title or ""
    if (heading := tree.document.query_selector("h1")) is not None:
        yield heading.text or ""


def _dates(tree: HTMLTree, page: str, named: dict[str, str]) -> Iterator[str]:
    yield from (named[name] for name in _DATES if name in named)
    yield from (match[1] for match in _JSON_DATE.finditer(page))
    for selector in ("[itemprop=datePublished]", "article time[datetime]"):
        if (node := tree.document.query_selector(selector)) is not None:
            yield node.getattr("datetime") or node.getattr("content") or ""


def _languages(tree: HTMLTree, named: dict[str, str]) -> Iterator[str]:
    if (root := tree.document.query_selector("html")) is not None:
        yield root.getattr("lang") or ""
        yield root.getattr("xml:lang") or ""
    yield from (named[name] for name in _LANGUAGES if name in named)


def _line(text: str) -> str:
    return " ".join(text.split())[:_TITLE_CHARACTERS].rstrip()


def _date(text: str) -> str:
    match = _DATE.match(text.strip())
    if match is None or int(match[1]) not in _YEARS:
        return ""
    try:
        return datetime.date(*map(int, match.groups())).isoformat()
    except ValueError:
        return ""


def _tag(text: str) -> str:
    match = _LANGUAGE.fullmatch(text.strip().replace("_", "-"))
    return match[0] if match else ""
