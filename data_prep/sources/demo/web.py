"""The demo's web: ordinary pages and labelled trouble, mixed, with the truth about where each page must end."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from data_prep.sources.demo import arithmetic, articles, trouble
from data_prep.sources.demo.archive import record_id, response, warc
from data_prep.sources.demo.articles import Article
from data_prep.sources.demo.sites import SITES, Site, encode, render
from data_prep.sources.demo.world import World, generator

ORDINARY = "ordinary"
# Each is a little stricter than the filters' .20, .20 and .15.
MAX_MARKS = 0.18  # numbers and punctuation ÷ these and words
MAX_PAIR = 0.16  # characters of the most frequent pair of words
MAX_RUNS = 0.13  # words in runs of five that stood there before
_MARK = re.compile(r"\d+|[^\w\s]")
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")

# Ordinary pages that are no lessons: of which kind, in parts.
PARTS = {"story": 9, "encyclopedia": 5, "questions": 2, "forum": 3, "shop": 1}


@dataclass(frozen=True)
class Lessons:
    """How much arithmetic stands on ordinary pages: the share of lessons among them, the additions of a lesson, and
    whether every lesson and every page of questions shows one addition with its short working."""

    share: float
    problems: int
    short_form: bool


@dataclass(frozen=True)
class Page:
    """One record of the crawl: its address, the HTTP response, and where it must end: the stage that drops it with the
    reason, or `kept`. `article` is what it says in truth, where that is known."""

    url: str
    label: str
    message: bytes
    stage: str = "kept"
    reason: str = ""
    article: Article | None = None


def _article(world: World, seed: int, number: int, lessons: Lessons, train: Sequence[arithmetic.Problem], name: str) -> Article:
    """The article of one page. It is drawn again when it is hardly prose, about once in ten times."""
    draw = generator(seed, name, number)
    kind = "lesson" if draw.random() < lessons.share else draw.choices(list(PARTS), list(PARTS.values()))[0]
    while True:
        article = _of_kind(kind, world, draw, lessons, train)
        if is_prose(article.text):
            return article


def is_prose(text: str) -> bool:
    """Whether quality filters take a text for prose by a safe distance: few marks, no pair of words all over it, and hardly any
    run of five words twice."""
    words = _WORD.findall(text)
    marks = sum(map(bool, map(_MARK.fullmatch, words)))
    (first, second), times = Counter(pairwise(words)).most_common(1)[0]
    runs = list(zip(*(words[start:] for start in range(5)), strict=False))
    return (
        marks <= MAX_MARKS * len(words)
        and times * len(f"{first} {second}") <= MAX_PAIR * len(text)
        and 5 * (len(runs) - len(set(runs))) <= MAX_RUNS * len(words)
    )


def _of_kind(kind: str, world: World, draw: random.Random, lessons: Lessons, train: Sequence[arithmetic.Problem]) -> Article:
    match kind:
        case "story":
            return articles.story_article(world, draw)
        case "encyclopedia":
            return articles.encyclopedia(world, draw)
        case "questions":
            return articles.questions(world, draw, draw.sample(train, int(lessons.short_form)))
        case "forum":
            return articles.forum(world, draw)
        case "shop":
            return articles.shop(world, draw)
    return articles.lesson(world, draw, draw.sample(train, lessons.problems), lessons.short_form)


def _site(article: Article, draw: random.Random) -> Site:
    return draw.choice([site for site in SITES if site.kind == article.kind])


def _url(host: str, label: str, number: int, title: str) -> str:
    slug = re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
    return f"https://{host}/{label}/{number}-{slug}.html"


def make_pages(world: World, seed: int, *, pages: int, trouble_pages: int, lessons: Lessons) -> list[Page]:
    """`pages` ordinary pages and `trouble_pages` of every kind of trouble, in the order of the crawl.

    Copies follow their originals. The texts of ordinary pages are all different.
    """
    train = arithmetic.problems(seed, "train")
    made: list[tuple[float, Page]] = []
    originals: list[tuple[float, Site, Article]] = []
    texts: set[str] = set()
    number = 0
    while len(originals) < pages:
        number += 1
        article = _article(world, seed, number, lessons, train, "article")
        if article.text in texts:
            continue
        texts.add(article.text)
        draw = generator(seed, "page", number)
        site, place = _site(article, draw), draw.random()
        url = _url(site.host, article.kind, number, article.title)
        made.append((place, Page(url, ORDINARY, response(*encode(site, render(site, article, draw))), article=article)))
        originals.append((place, site, article))

    for label, kind in trouble.TROUBLES.items():
        # A copy has an original of its own, so that every group of duplicates has two members.
        copied = generator(seed, "copied", label).sample(range(len(originals)), trouble_pages)
        for number in range(trouble_pages):
            draw = generator(seed, label, number)
            if kind.own_article:
                article = _article(world, seed, number, lessons, train, f"{label} article")
                site, place = _site(article, draw), draw.random()
            else:
                original_place, site, article = originals[copied[number]]
                place = original_place + (1 - original_place) * draw.random()
            host, message = kind.make(trouble.Source(world, draw, number, site, article))
            made.append(
                (place, Page(_url(host, label.replace("_", "-"), number, article.title), label, message, kind.stage, kind.reason, article))
            )
    made.sort(key=lambda item: (item[0], item[1].url))
    return [page for _, page in made]


def pack(pages: Sequence[Page], seed: int, files: int) -> Iterator[tuple[str, bytes, int]]:
    """(name, content, records) of each WARC file: consecutive pages of the crawl."""
    for file in range(files):
        start, end = file * len(pages) // files, (file + 1) * len(pages) // files
        responses = [(number, pages[number].url, pages[number].message) for number in range(start, end)]
        yield f"demo-{file:02d}.warc.gz", warc(seed, file, responses), end - start


def truth(pages: Sequence[Page], seed: int) -> Iterator[dict[str, Any]]:
    """A row for each page, in the order of the crawl."""
    for number, page in enumerate(pages):
        yield {
            "url": page.url,
            "record_id": record_id(seed, number),
            "label": page.label,
            "expected": {"stage": page.stage, "reason": page.reason},
        }


def blocklist() -> str:
    """Hosts of the demo that must not be crawled, in the usual format of such lists."""
    return "# hosts of the demo that no page may come from\n" + "".join(f"{host}\n" for host in trouble.BLOCKED)
