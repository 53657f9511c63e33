"""The demo's web sites: hosts, charsets and the HTML around an article (menus, adverts, scripts, footers)."""

from __future__ import annotations

import html
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from data_prep.sources.demo.articles import Article, Block


@dataclass(frozen=True)
class Site:
    """One host. `charset` is the encoding of its bytes; `declared` says where a browser learns it: `header`, `meta`, `bom`
    or `nowhere`. `byline`, if any, stands under every article."""

    host: str
    name: str
    kind: str
    layout: str
    charset: str = "utf-8"
    declared: str = "meta"
    byline: str = ""
    curly: bool = False  # sets quotation marks and apostrophes as printers do


SITES = (
    Site("www.storybox.example", "The Story Box", "story", "article"),
    Site(
        "oldtales.example",
        "Old Tales",
        "story",
        "table",
        charset="windows-1252",
        declared="header",
        byline="Written down at the Café Zoë — a warm place on cold days.",
        curly=True,
    ),
    Site("arvenpedia.example", "Arvenpedia", "encyclopedia", "article"),
    Site(
        "guide.lunevalley.example",
        "Lune Valley Guide",
        "encyclopedia",
        "columns",
        charset="iso-8859-1",
        byline="Come and visit us, the rooms are clean and the crème brûlée is good.",
    ),
    Site("sums.villageschool.test", "Village School", "lesson", "columns", declared="header"),
    Site("www.askarven.example", "Ask Arven", "questions", "article"),
    Site("board.villagers.test", "The Village Board", "forum", "board", declared="nowhere"),
    Site("market-lane.example", "Market Lane", "shop", "columns", declared="bom"),
)

MENU = ("Home", "News", "About us", "Contact", "Sign in", "Help", "Map", "Archive", "Gallery", "Press")
FOOTER = ("Imprint", "Privacy", "Terms", "Jobs")
ADVERTS = (
    "Big sale! Everything must go today!",
    "Buy two hats, get one free",
    "Are your shoes too small? Click here",
    "Win a trip to the Warm Sea now",
    "New lamps for old lamps",
    "Join our club and save half",
    "Best soap in town, only three coins",
)
BLOCKS = {"post": ('<div class="post"><p>', "</p></div>"), "li": ("<ul><li>", "</li></ul>")}
_OPENING = re.compile(r'(?<![^ (])"')
_TAG = re.compile(r"(<[^>]*>)")
RELATED = ("Most read today", "You may also like", "More from this site", "From our friends")


def _curly(text: str) -> str:
    """Typewriter quotation marks to printed ones: one after a space or at the start opens."""
    return _OPENING.sub("“", text).replace('"', "”").replace("'", "’")


def _escape(text: str, draw: random.Random) -> str:
    """HTML text, with some characters as entities, as writers of HTML mix them."""
    escaped = html.escape(text, quote=False)
    if draw.random() < 0.5:
        escaped = escaped.replace('"', "&quot;").replace("'", "&#39;")
    return escaped


def _body(article: Article, byline: str, draw: random.Random) -> str:
    parts = [f"<h1>{_escape(article.title, draw)}</h1>"]
    for block in (*article.blocks, *([Block("p", byline)] if byline else [])):
        opening, closing = BLOCKS.get(block.tag, (f"<{block.tag}>", f"</{block.tag}>"))
        parts.append(f"{opening}{_escape(block.text, draw)}{closing}")
    return "\n".join(parts)


def _links(draw: random.Random, labels: tuple[str, ...], number: int) -> str:
    return "".join(f'<li><a href="/{label.lower().replace(" ", "-")}">{label}</a></li>' for label in draw.sample(labels, number))


def _advert(draw: random.Random) -> str:
    return f'<div class="advert" id="ad-{draw.randrange(1000)}"><a href="/ad?{draw.randrange(10**6)}">{draw.choice(ADVERTS)}</a></div>'


def _article_layout(site: Site, body: str, draw: random.Random) -> str:
    return f"""<header class="site-header"><a class="logo" href="/">{site.name}</a><nav><ul>{_links(draw, MENU, 6)}</ul></nav></header>
{_advert(draw)}
<main><article class="entry-content">
{body}
</article></main>
<aside class="sidebar"><h3>{draw.choice(RELATED)}</h3><ul>{_links(draw, MENU, 4)}</ul>{_advert(draw)}</aside>
<div class="cookie-banner" role="dialog">We use cookies. <button>Accept all</button></div>"""


def _columns_layout(site: Site, body: str, draw: random.Random) -> str:
    return f"""<div id="header"><b>{site.name}</b><ul class="menu">{_links(draw, MENU, 7)}</ul></div>
<div id="wrapper"><div id="sidebar" class="sidebar">{_advert(draw)}<ul>{_links(draw, MENU, 5)}</ul></div>
<div id="content" class="content">
{body}
</div></div>"""


def _table_layout(site: Site, body: str, draw: random.Random) -> str:
    return f"""<TABLE width="100%" border=0><TR><TD colspan=2 class="header"><FONT size="6">{site.name}</FONT></TD></TR>
<TR><TD width="20%" class="navigation"><UL>{_links(draw, MENU, 6)}</UL></TD><TD class="content">
{body}
</TD></TR></TABLE>{_advert(draw)}"""


def _board_layout(site: Site, body: str, draw: random.Random) -> str:
    return f"""<nav class="breadcrumb"><a href="/">{site.name}</a> &raquo; <a href="/threads">Threads</a></nav>
<div class="login-form"><form action="/login"><input name="user"><input type="password" name="word"><button>Log in</button></form></div>
<div id="main" class="thread-content">
{body}
</div>
<div class="pagination"><a href="?page=1">1</a> <a href="?page=2">2</a> <a href="?page=3">3</a></div>"""


LAYOUTS: dict[str, Callable[[Site, str, random.Random], str]] = {
    "article": _article_layout,
    "columns": _columns_layout,
    "table": _table_layout,
    "board": _board_layout,
}


def render(site: Site, article: Article, draw: random.Random) -> str:
    """The whole page as HTML text, not yet encoded."""
    body = _body(article, site.byline, draw)
    if site.curly:
        body = _curly_text(body)
    meta = f'<meta charset="{site.charset}">' if site.declared == "meta" else ""
    title = html.escape(f"{article.title} - {site.name}")
    return f"""<!DOCTYPE html>
<html lang="en"><head>{meta}<title>{title}</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/style-{draw.randrange(100)}.css">
<style>body {{ font: 16px serif; }} .advert {{ float: right; }}</style>
<script>window.data = {{"page": {draw.randrange(10**6)}, "track": true}}; if (1 < 2 && track) {{ send("<p>seen</p>"); }}</script>
</head><body>
<!-- served by {site.host} -->
{LAYOUTS[site.layout](site, body, draw)}
<footer class="footer"><p>&copy; {site.name}. All rights reserved.</p><ul>{_links(draw, FOOTER, 3)}</ul></footer>
<script src="/app.js" async></script></body></html>
"""


def _curly_text(body: str) -> str:
    """Curly quotes in text only: attributes keep their straight ones."""
    body = body.replace("&quot;", '"').replace("&#39;", "'")
    return "".join(part if part.startswith("<") else _curly(part) for part in _TAG.split(body))


def encode(site: Site, page: str) -> tuple[bytes, str]:
    """The bytes of a page and the Content-Type its server sends."""
    content = page.encode(site.charset)
    if site.declared == "bom":
        content = {"utf-8": b"\xef\xbb\xbf", "utf-16-le": b"\xff\xfe"}[site.charset] + content
    return content, f"text/html; charset={site.charset}" if site.declared == "header" else "text/html"
