"""The demo's labelled trouble: what real crawls are full of, each kind with the stage and reason where it must end."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from data_prep.sources.demo.archive import chunked, gzip_stored, response
from data_prep.sources.demo.articles import Article, paragraphs
from data_prep.sources.demo.sites import Site, encode, render
from data_prep.sources.demo.templates import read_parts
from data_prep.sources.demo.world import FOODS, MONTHS, TOWNS, World

BLOCKED = ("free-hats.example", "win-a-trip.test", "spamfarm.example")
MIRROR = Site("mirror.pagekeeper.example", "Page Keeper", "mirror", "article")
PLAIN = Site("home.someone.example", "Home of Someone", "any", "columns")


@dataclass(frozen=True)
class Source:
    """What a piece of trouble may be made of: an article of its own with its site, and a random generator."""

    world: World
    draw: random.Random
    number: int
    site: Site
    article: Article

    def page(self, article: Article | None = None, site: Site | None = None) -> str:
        return render(site or self.site, article or self.article, self.draw)

    def town(self) -> str:
        return self.draw.choice(TOWNS)


@dataclass(frozen=True)
class Trouble:
    """One kind of trouble. `make` gives the host and the HTTP response; `own_article` is False for copies of other pages."""

    stage: str
    reason: str
    make: Callable[[Source], tuple[str, bytes]]
    own_article: bool = True


def _sent(source: Source, site: Site, article: Article | None = None) -> tuple[str, bytes]:
    content, content_type = encode(site, source.page(article, site))
    return site.host, response(content, content_type)


def _plain(source: Source, *texts: str, title: str = "") -> tuple[str, bytes]:
    return _sent(source, PLAIN, Article("trouble", title or f"A page from {source.town()}", paragraphs(*texts)))


# Copies


def exact_duplicate(source: Source) -> tuple[str, bytes]:
    """The same text at another address: on the same site, or in other HTML on a mirror."""
    if source.number % 2 and not source.site.byline:
        return _sent(source, MIRROR)
    return _sent(source, source.site)


def near_duplicate(source: Source) -> tuple[str, bytes]:
    """The same text with a sentence at its end."""
    last = source.article.blocks[-1]
    note = f"{last.text} This page was changed a little in {source.draw.choice(MONTHS)}."
    return _sent(source, source.site, replace(source.article, blocks=(*source.article.blocks[:-1], replace(last, text=note))))


# Bytes that want care, and are kept


def broken_html(source: Source) -> tuple[str, bytes]:
    """Nothing is closed, an attribute's quote is missing, and there is a stray end."""
    page = source.page()
    for tag in ("</p>", "</li>", "</ul>", "</body>", "</html>", "</head>", "</td>"):
        page = page.replace(tag, "")
    page = page.replace('<meta name="viewport" content="', "</b><meta name=viewport content=").replace("<h1>", "<h1 title=it's>")
    content, content_type = encode(source.site, page)
    return source.site.host, response(content, content_type)


def _accented(source: Source) -> Article:
    return replace(
        source.article, blocks=(*source.article.blocks, *paragraphs("It was read at the Café Zoë, where the crème is always à la mode."))
    )


def lying_charset(source: Source) -> tuple[str, bytes]:
    """Windows-1252 that says it is UTF-8, or UTF-8 that says it is Latin 1."""
    true, claimed = (("windows-1252", "utf-8"), ("utf-8", "iso-8859-1"))[source.number % 2]
    page = source.page(_accented(source), replace(PLAIN, declared="meta", charset=claimed))
    return PLAIN.host, response(page.encode(true), f"text/html; charset={claimed}")


def no_charset(source: Source) -> tuple[str, bytes]:
    """Bytes that are not ASCII, and no word on what they are."""
    true = ("utf-8", "windows-1252")[source.number % 2]
    return PLAIN.host, response(source.page(_accented(source), replace(PLAIN, declared="nowhere")).encode(true), "text/html")


def utf_16(source: Source) -> tuple[str, bytes]:
    return _sent(source, replace(PLAIN, charset="utf-16-le", declared="bom"), _accented(source))


def nul_bytes(source: Source) -> tuple[str, bytes]:
    content, content_type = encode(source.site, source.page())
    return source.site.host, response(content.replace(b". ", b".\x00 ", 3).replace(b"<h1>", b"\x00<h1>"), content_type)


def chunked_body(source: Source) -> tuple[str, bytes]:
    content, content_type = encode(source.site, source.page())
    return source.site.host, response(chunked(content), content_type, headers={"Transfer-Encoding": "chunked"})


def compressed_body(source: Source) -> tuple[str, bytes]:
    content, content_type = encode(source.site, source.page())
    return source.site.host, response(gzip_stored(content), content_type, headers={"Content-Encoding": "gzip"})


def personal_data(source: Source) -> tuple[str, bytes]:
    """An e-mail address and a public IP address, which must not stay."""
    name, town = source.draw.choice(source.world.of_kind("person")).name, source.town()
    address = f"{name.lower()}.{source.draw.choice(FOODS).split()[-1]}@{town.lower()}-post.example"
    machine = f"8.{source.draw.randrange(1, 255)}.{source.draw.randrange(1, 255)}.{source.draw.randrange(1, 255)}"
    note = f"You can write to {name} at {address} and ask for more. The letter will be sent from the machine {machine} in {town}."
    return _sent(source, source.site, replace(source.article, blocks=(*source.article.blocks, *paragraphs(note))))


# Refused at the door


def blocked_host(source: Source) -> tuple[str, bytes]:
    return BLOCKED[source.number % len(BLOCKED)], _sent(source, PLAIN)[1]


def blocked_subdomain(source: Source) -> tuple[str, bytes]:
    return f"shop{source.number}.{BLOCKED[source.number % len(BLOCKED)]}", _sent(source, PLAIN)[1]


def image(source: Source) -> tuple[str, bytes]:
    return source.site.host, response(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + source.draw.randbytes(300), "image/png")


def pdf(source: Source) -> tuple[str, bytes]:
    return source.site.host, response(b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n" + source.draw.randbytes(200), "application/pdf")


def not_found(source: Source) -> tuple[str, bytes]:
    return source.site.host, response(source.page().encode(), "text/html; charset=utf-8", "404 Not Found")


def moved(source: Source) -> tuple[str, bytes]:
    body = b"<html><body><h1>Moved</h1><p>The page is <a href='/'>here</a> now.</p></body></html>"
    return source.site.host, response(body, "text/html", "301 Moved Permanently", {"Location": f"https://{source.site.host}/"})


def empty_body(source: Source) -> tuple[str, bytes]:
    return source.site.host, response(b"", "text/html")


def no_text(source: Source) -> tuple[str, bytes]:
    """A page that a script would fill."""
    script = f"<script>fetch('/api/{source.draw.randrange(10**6)}').then(show)</script>"
    return source.site.host, response(
        f"<html><head><title>Loading</title></head><body><div id='root'></div>{script}</body></html>".encode(), "text/html"
    )


def deep_nesting(source: Source) -> tuple[str, bytes]:
    depth = 600 + source.number
    body = "<div>" * depth + f"<p>{source.article.text}</p>" + "</div>" * depth
    return source.site.host, response(f"<html><body>{body}</body></html>".encode(), "text/html; charset=utf-8")


# Refused for what they say


def foreign_language(source: Source) -> tuple[str, bytes]:
    """Four paragraphs of two sentences, about 150 words, in each of the languages in turn."""
    languages = list(read_parts("foreign.txt").values())
    sentences = languages[source.number % len(languages)][0]
    town, person = source.town(), source.draw.choice(source.world.of_kind("person")).name
    told = [sentence.format(t=town, p=person) for sentence in source.draw.sample(sentences, 8)]
    return _plain(source, *[" ".join(told[start : start + 2]) for start in range(0, 8, 2)], title=town)


def thin_page(source: Source) -> tuple[str, bytes]:
    town = source.town()
    return _plain(
        source,
        f"This is the page of a shop in {town} and there is not much to read yet.",
        f"We open in {source.draw.choice(MONTHS)}, come and see us.",
    )


def spam_paragraphs(source: Source) -> tuple[str, bytes]:
    line = f"The best hats in {source.town()} are here, so come to our shop and buy one today."
    return _plain(source, "We have been selling hats to the people of this town for many years.", *[line] * 12)


def spam_phrases(source: Source) -> tuple[str, bytes]:
    hats = " and ".join(["the best hats"] * 60)
    return _plain(source, f"In {source.town()} you can buy {hats} that you have ever seen in your life.", "Come and see them today.")


def copied_sentences(source: Source) -> tuple[str, bytes]:
    """All sentences twice, in other paragraphs: no line repeats, but half of the text does."""
    sentences = [sentence.strip(' "') + "." for block in source.article.blocks for sentence in block.text.split(".") if len(sentence) > 20]
    mixed = source.draw.sample(sentences, len(sentences))
    return _plain(source, *[" ".join(pair) for pair in zip(sentences, mixed, strict=True)])


def hashtags(source: Source) -> tuple[str, bytes]:
    words = source.article.text.split()[:80]
    return _plain(source, " ".join("#" + word.strip('.,"?!:') if number % 4 == 0 else word for number, word in enumerate(words)))


def teasers(source: Source) -> tuple[str, bytes]:
    texts = [" ".join(block.text.split()[:14]).rstrip(".,!?") + "..." for block in source.article.blocks if len(block.text.split()) > 12]
    return _plain(source, *texts, "Read all of these stories when you come to our house and bring your friends with you.")


def bullet_list(source: Source) -> tuple[str, bytes]:
    """One fact of each kind, and nothing but list items."""
    kinds = {fact.attribute: fact for fact in source.draw.sample(source.world.facts, len(source.world.facts))}
    return _plain(source, *[f"- {fact.sentence}" for fact in kinds.values()])


def number_table(source: Source) -> tuple[str, bytes]:
    rows = (
        "Summer hats cost",
        "Every winter coat was sold for",
        "We found good boots at",
        "Old books went for",
        "You can get a cup or two for",
        "The lamps in the window are marked with",
        "Chairs from the north stand at",
        "What the ropes brought us this year:",
    )
    numbers = [" / ".join(str(source.draw.randrange(100, 999)) for _ in range(4)) for _ in rows]
    first = f"These are the prices of {source.town()} and of all the towns with which it trades from spring to autumn."
    return _plain(source, first, *[f"{row} {prices}." for row, prices in zip(rows, numbers, strict=True)])


def advert_copy(source: Source) -> tuple[str, bytes]:
    """English without a single one of the little words that hold sentences together."""
    offers = (
        "Hot summer sale starts right now!",
        "Order online today but pay only next month.",
        "Fast free shipping goes everywhere you want.",
        "Our lowest prices ever since we opened.",
        "Only three days left before winter.",
        "Save more money every single week.",
        "Great quality comes at small prices here.",
        "Our new shoes make your neighbours jealous.",
        "Big discounts wait for young students.",
        "Find some very good deals near you.",
        "Click here because everyone needs warm clothes.",
        "We sell more than one hundred brands.",
        "Call us now or write us tomorrow.",
        "Never pay full price again for socks.",
    )
    return _plain(
        source,
        " ".join(source.draw.sample(offers, 12)),
        f"Visit our {source.town()} store this weekend for even better offers.",
        title="Super sale",
    )


TROUBLES: Mapping[str, Trouble] = {
    "exact_duplicate": Trouble("dedup", "duplicate", exact_duplicate, own_article=False),
    "near_duplicate": Trouble("near_dedup", "near_duplicate", near_duplicate, own_article=False),
    "broken_html": Trouble("kept", "", broken_html),
    "lying_charset": Trouble("kept", "", lying_charset),
    "no_charset": Trouble("kept", "", no_charset),
    "utf_16": Trouble("kept", "", utf_16),
    "nul_bytes": Trouble("kept", "", nul_bytes),
    "chunked_body": Trouble("kept", "", chunked_body),
    "compressed_body": Trouble("kept", "", compressed_body),
    "personal_data": Trouble("kept", "", personal_data),
    "blocked_host": Trouble("ingest", "blocked_spam", blocked_host),
    "blocked_subdomain": Trouble("ingest", "blocked_spam", blocked_subdomain),
    "image": Trouble("ingest", "not_html", image),
    "pdf": Trouble("ingest", "not_html", pdf),
    "not_found": Trouble("ingest", "http_status", not_found),
    "moved": Trouble("ingest", "http_status", moved),
    "empty_body": Trouble("ingest", "empty_body", empty_body),
    "no_text": Trouble("ingest", "empty_text", no_text),
    "deep_nesting": Trouble("ingest", "too_deep", deep_nesting),
    "foreign_language": Trouble("select", "language", foreign_language),
    "thin_page": Trouble("select", "gopher_min_words", thin_page),
    "spam_paragraphs": Trouble("select", "gopher_max_duplicate_paragraphs", spam_paragraphs),
    "spam_phrases": Trouble("select", "gopher_max_top_2_gram", spam_phrases),
    "copied_sentences": Trouble("select", "gopher_max_duplicate_5_grams", copied_sentences),
    "hashtags": Trouble("select", "gopher_max_hashes_per_word", hashtags),
    "teasers": Trouble("select", "gopher_max_ellipsis_lines", teasers),
    "bullet_list": Trouble("select", "gopher_max_bullet_lines", bullet_list),
    "number_table": Trouble("select", "gopher_min_alphabetic_words", number_table),
    "advert_copy": Trouble("select", "gopher_min_stop_words", advert_copy),
}
