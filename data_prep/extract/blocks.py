"""A page's text in blocks: what stands between the borders of block elements, with the elements around it.

One walk over the parsed tree keeps all that choosing the main text and rendering it need, and nothing else is asked of the
tree again. Both lists of `Blocks` are in reading order, so an element stands before its children, and sums over elements need
one pass from the end.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resiliparse.parse.html import HTMLTree

HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
# What is never text, whatever stands in it.
_SKIPPED = frozenset((
    "applet", "area", "audio", "canvas", "datalist", "embed", "head", "iframe", "input", "link", "map", "math", "meta", "object",
    "option", "script", "select", "style", "svg", "template", "textarea", "video",
))  # fmt: skip
# What begins and ends a block.
_BLOCKS = HEADINGS | frozenset((
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "footer", "form", "header", "hr", "legend", "li", "main", "menu", "nav", "ol", "p", "pre", "section",
    "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
))  # fmt: skip
# Chrome: elements that hold something else than the main text by their nature, and words that say so in classes and ids.
_CHROME_TAGS = frozenset(("aside", "button", "dialog", "fieldset", "figcaption", "footer", "form", "label", "menu", "nav", "noscript"))
_PARTS_OF_WORDS = (
    "advert", "author", "banner", "breadcrumb", "button", "byline", "caption", "carousel", "comment", "consent", "cookie", "disqus",
    "footer", "hidden", "menu", "modal", "navigation", "newsletter", "outbrain", "overlay", "pagination", "popup", "promo", "rating",
    "recommend", "related", "share", "sharing", "sidebar", "slide", "social", "sponsor", "subscri", "taboola", "teaser", "widget",
)  # fmt: skip
_WORDS = (
    "ad", "ads", "bio", "categories", "category", "complementary", "contentinfo", "copyright", "credit", "credits", "embed", "gallery",
    "gdpr", "gutter", "hide", "line-no", "linenos", "login", "meta", "nav", "next", "pager", "prev", "print", "reply", "respond",
    "search", "signup", "sr-only", "tag", "tags", "toc", "toolbar", "tooltip",
)  # fmt: skip
_SELDOM_CHROME = frozenset(("body", "main", "article"))  # whose classes tell of what is in them, `has-sidebar` for one
_HIDDEN = '[hidden],[aria-hidden="true"],[style*="display:none"],[style*="display: none"]'
_BREAK = "\r"  # no parsed text holds one
_PERMALINK = "¶"  # behind headings of manuals, a link to the heading itself


class TooDeep(Exception):
    """Elements are nested deeper than the limit."""


@dataclass(slots=True)
class Blocks:
    """Elements that begin blocks, and the blocks.

    parent  of every element, the number of the one around it; -1 for the first, the body
    tag     its name
    chrome  whether tag, class or id say that it is no part of the main text
    home    of every block, the element it stands in directly
    text    with single spaces and newlines only and none at its ends; in `pre` as it is
    linked  how many of its characters are links to other pages
    """

    parent: list[int] = field(default_factory=list)
    tag: list[str] = field(default_factory=list)
    chrome: list[bool] = field(default_factory=list)
    home: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    linked: list[int] = field(default_factory=list)


def read_blocks(tree: HTMLTree, *, max_depth: int = sys.maxsize, mark_code: bool = False) -> Blocks:
    """The blocks of a page; with `mark_code`, code inside of other text stands between backticks.

    Raises TooDeep if an element that may hold text is nested more than `max_depth` deep, html and body counted.
    """
    blocks = Blocks(parent=[-1], tag=["body"], chrome=[False])
    if tree.body is not None:
        for node in tree.body.query_selector_all(_HIDDEN):
            node["class"] = "hidden"
        _walk(tree.body, blocks, max_depth, mark_code)
    return blocks


def _walk(body: Any, blocks: Blocks, max_depth: int, mark_code: bool) -> None:
    """Depth first, with a stack of its own: what is open around the node, outermost first.

    This loop is run for every node of every page, so it calls little: a page has 1,300 nodes and 160 blocks in the mean.
    """
    parent, tags, chrome = blocks.parent, blocks.tag, blocks.chrome
    pieces: list[str] = []  # of the block that is being read
    linked = 0
    number, is_block, is_link, is_pre, is_code = 0, True, False, False, False  # of the element whose children are being read
    stack: list[tuple[Any, int, bool, bool, bool, bool]] = []
    node = body.first_child
    while True:
        if node is None:
            if is_code:
                pieces.append("`")
            if pieces and is_block:
                _end_block(blocks, number, pieces, linked, is_pre)
                linked = 0
            if not stack:
                return
            node, number, is_block, is_link, is_pre, is_code = stack.pop()
            node = node.next
            continue
        tag = node.tag
        if tag == "#text":
            text = node.value
            if pieces or is_pre or not text.isspace():
                pieces.append(text)
                if is_link:
                    linked += len(text.strip())
        elif tag == "br":
            pieces.append(_BREAK)
        elif tag not in _SKIPPED and tag[0] != "#":
            if tag in _CHROME_TAGS:
                is_chrome = True
            elif tag in _SELDOM_CHROME:
                is_chrome = False
            else:
                is_chrome = ((names := node.class_name) and _names_chrome(names)) or ((name := node.id) and _names_chrome(name)) or False
            stack.append((node, number, is_block, is_link, is_pre, is_code))
            if len(stack) > max_depth - 2:
                raise TooDeep
            if is_chrome or tag in _BLOCKS:
                if pieces:
                    _end_block(blocks, number, pieces, linked, is_pre)
                    linked = 0
                is_block = True
                parent.append(number)
                number = len(parent) - 1
                tags.append(tag)
                chrome.append(is_chrome)
            else:
                is_block = False
            if tag == "a":
                is_link = is_link or _leads_away(node)
            elif tag == "pre":
                is_pre = True
            is_code = mark_code and tag == "code" and not is_pre
            if is_code:
                pieces.append("`")
            node = node.first_child
            continue
        node = node.next


def _end_block(blocks: Blocks, home: int, pieces: list[str], linked: int, is_pre: bool) -> None:
    text = "".join(pieces)
    pieces.clear()
    if is_pre:
        text = text.replace(_BREAK, "\n").strip("\n").rstrip()
    elif _BREAK in text:
        text = "\n".join([" ".join(line.split()) for line in text.split(_BREAK)]).strip("\n")
    else:
        text = " ".join(text.split()).removesuffix(_PERMALINK).rstrip()
    if text:
        blocks.home.append(home)
        blocks.text.append(text)
        blocks.linked.append(min(linked, len(text)))


def _leads_away(node: Any) -> bool:
    target = node.getattr("href")
    return bool(target) and target[0] != "#"


def _any_of(words: Iterable[str]) -> str:
    """A pattern for any of the words, those with the same first letter together, which makes it twice as fast."""
    return "|".join(f"{first}(?:{'|'.join(word[1:] for word in alike)})" for first, alike in groupby(sorted(words), lambda word: word[0]))


_CHROME = re.compile(rf"{_any_of(_PARTS_OF_WORDS)}|(?<![a-z])(?:{_any_of(_WORDS)})(?![a-z])")


@functools.lru_cache(maxsize=1 << 15)
def _names_chrome(names: str) -> bool:
    """Whether a class or id holds one of the words; sites repeat their names from page to page."""
    return _CHROME.search(names.lower()) is not None
