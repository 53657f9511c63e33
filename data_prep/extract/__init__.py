"""From an HTML page to its main text, within limits that depend on the page alone.

Three extractors, and the default, which chooses between two of them page by page:

blocks       the page cut into blocks, those of the main text by their place, names and links (`main_text`); some 500 pages a second
resiliparse  resiliparse's own main text, without comments of readers and texts of images; faster still, with more that is no text
trafilatura  trafilatura in its default setting; the most careful, and thirty times slower
cascade      `blocks`, and where its result is doubtful (`main_text.Choice.doubt`) `trafilatura`

Parsers need time in proportion to tags × depth, extraction to nodes × depth, so a page of a megabyte can keep either busy for hours.
Two checks keep that away: the numbers of start tags and of end tags (`</p>` alone makes an element), counted before parsing in the
plain text (wherever they stand, so nothing can hide one), bound what parsing may cost; the depth of the parsed tree bounds the
extraction. The tree is measured, not guessed from the tags, because which tag ends which element is the parser's own business. What
these do not catch (a million attributes in one tag, say) is left to the clock of `data_prep.isolation`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from data_prep.decode import decode_html
from data_prep.extract.blocks import TooDeep, read_blocks
from data_prep.extract.main_text import MAX_DOUBT, choose
from data_prep.extract.metadata import metadata
from data_prep.extract.render import render, render_all

if TYPE_CHECKING:
    from resiliparse.parse.html import HTMLTree

Method = Literal["cascade", "blocks", "resiliparse", "trafilatura"]

_TAGS = {"start": re.compile(r"<[A-Za-z]"), "end": re.compile(r"</[A-Za-z]")}
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\xad]")
_LINE_ENDS = re.compile(r"\r\n?|\x85|\u2028|\u2029")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_UNWANTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u2028\u2029\ud800-\udfff]")  # any of these: most texts have none


@dataclass(frozen=True, slots=True)
class Limits:
    """What a page may cost: so many start tags and so many end tags, and elements so deep.

    The deepest of 2,296 real pages has depth 40, the one with most tags 12,500.
    """

    max_tags: int = 30_000
    max_depth: int = 512


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was found in a page; or, with all else empty, the reason why it was not parsed or not read.

    text    the main text
    method  whose text it is: "blocks", "resiliparse" or "trafilatura"
    title, published, language_hint   what the page says of itself: see `data_prep.extract.metadata`
    """

    text: str = ""
    title: str = ""
    method: str = ""
    published: str = ""
    language_hint: str = ""
    refused: str = ""
    detail: str = ""


def extract(
    html: bytes | str,
    method: Method = "cascade",
    charset: str | None = None,
    limits: Limits = Limits(),
    max_doubt: float = MAX_DOUBT,
    markdown: bool = False,
) -> Extraction:
    """The main text of one page, in the form that `data_prep.extract.render` describes.

    html       the page; bytes are decoded as `data_prep.decode` describes
    charset    what the server declared for bytes
    max_doubt  of `cascade`, 0 to 1: pages with more are given to trafilatura, too
    markdown   keep headings, lists, code and tables as Markdown

    >>> page = b"<html lang=en><title>Tides</title><nav><a href=/>Home</a></nav><h1>Tides</h1><p>The moon pulls the sea.</p></html>"
    >>> found = extract(page)
    >>> found.text, found.title, found.method, found.language_hint
    ('Tides\\n\\nThe moon pulls the sea.', 'Tides', 'blocks', 'en')
    """
    from resiliparse.parse.html import HTMLTree

    page = decode_html(html, charset) if isinstance(html, bytes) else html.encode(errors="replace").decode()  # no lone surrogates
    if page.count("<") > limits.max_tags:
        for kind, tag in _TAGS.items():
            if (tags := len(tag.findall(page))) > limits.max_tags:
                return Extraction(refused="too_many_tags", detail=f"{tags} {kind} tags, the limit is {limits.max_tags}")
    tree = HTMLTree.parse(page)
    try:
        text, whose = _main_text(page, tree, method, limits.max_depth, max_doubt, markdown)
    except TooDeep:
        return Extraction(refused="too_deep", detail=f"elements nested deeper than {limits.max_depth}")
    title, published, language_hint = metadata(tree, page)
    return Extraction(normalise(text), normalise(title), whose, published, language_hint)


def _main_text(page: str, tree: HTMLTree, method: Method, max_depth: int, max_doubt: float, markdown: bool) -> tuple[str, str]:
    """(text, whose text it is)."""
    if method in ("resiliparse", "trafilatura"):
        if _is_deeper(tree, max_depth):
            raise TooDeep
        return _resiliparse(tree, markdown) if method == "resiliparse" else _trafilatura(page, markdown), method
    blocks = read_blocks(tree, max_depth=max_depth, mark_code=markdown)
    choice = choose(blocks)
    text = render(blocks, choice.kept, markdown)
    if method == "cascade" and choice.doubt > max_doubt and not _is_deeper(tree, max_depth):
        other = _trafilatura(page, markdown)
        if len(other) > len(text):  # doubt says that too little was found
            return other, "trafilatura"
    return text, "blocks"


def _resiliparse(tree: HTMLTree, markdown: bool) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    how = "minimal_html" if markdown else True
    text = str(extract_plain_text(tree, preserve_formatting=how, main_content=True, comments=False, alt_texts=False))
    return render_all(read_blocks(HTMLTree.parse(text), mark_code=True), markdown) if markdown else text


def _trafilatura(page: str, markdown: bool) -> str:
    from data_prep.extract.precise import precise_blocks

    return render_all(precise_blocks(page, mark_code=markdown), markdown)


def _is_deeper(tree: HTMLTree, depth: int) -> bool:
    """Whether any element has `depth` or more ancestors: a selector of a chain of children, matched in C. A short chain first, since
    the long one takes twice its time, and no real page is that deep."""
    chains = [" > ".join(["*"] * (levels + 1)) for levels in sorted({min(depth, 64), depth})]
    return all(tree.document.query_selector(chain) is not None for chain in chains)


def normalise(text: str) -> str:
    """The form in which all texts are kept: newline as the only line end, no other control characters but tabs, no lone
    surrogates, no spaces at the ends of lines, at most one blank line in a row, nothing before or behind. Letters, their Unicode
    form and inner spaces stay as they are."""
    if _UNWANTED.search(text):
        text = _LINE_ENDS.sub("\n", text)
        text = _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))
    lines = [line.rstrip() for line in text.split("\n")]
    return "\n".join(line for number, line in enumerate(lines) if line or (number and lines[number - 1])).strip()
