"""From an HTML page to its main text, by resiliparse, within limits that depend on the page alone.

The parser needs time in proportion to tags × depth, the extraction to nodes × depth, so a page of a megabyte can keep either busy
for hours. Three checks keep that away: the number of start tags, counted before parsing in the plain text (wherever they stand, so
nothing can hide one), bounds what parsing may cost; the depth and the number of nodes of the parsed tree bound the extraction. The
tree is measured, not guessed from the tags, because which tag ends which element is the parser's own business.
What these do not catch (a million attributes in one tag, say) is left to the clock of `data_prep.isolation`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_prep.decode import decode_html

if TYPE_CHECKING:
    from resiliparse.parse.html import HTMLTree

_START_TAG = re.compile(r"<[A-Za-z]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f]")
_LINE_ENDS = re.compile(r"\r\n?|\x85|\u2028|\u2029")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a page may cost. The deepest of 2,296 real pages has depth 40, the one with most tags 12,500."""

    max_tags: int = 30_000
    max_depth: int = 512


@dataclass(frozen=True, slots=True)
class Extraction:
    """Main text and title of a page; or, with both empty, the reason why it was not parsed or not read."""

    text: str = ""
    title: str = ""
    refused: str = ""
    detail: str = ""


def extract(html: bytes | str, charset: str | None = None, limits: Limits = Limits()) -> Extraction:
    """The main text of one page, without comments of readers; blocks end in newlines, list items start with a bullet.

    html     the page; bytes are decoded as `data_prep.decode` describes
    charset  what the server declared for bytes
    """
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    page = decode_html(html, charset) if isinstance(html, bytes) else html
    tags = page.count("<")
    if tags > limits.max_tags and (tags := len(_START_TAG.findall(page))) > limits.max_tags:
        return Extraction(refused="too_many_tags", detail=f"{tags} start tags, the limit is {limits.max_tags}")
    tree = HTMLTree.parse(page)
    if tags >= limits.max_depth - 3 and _is_deeper(tree, limits.max_depth):  # html, head and body need no tags
        return Extraction(refused="too_deep", detail=f"elements nested deeper than {limits.max_depth}")
    text = extract_plain_text(tree, main_content=True, comments=False)
    return Extraction(normalise(text), normalise(tree.title or ""))


def _is_deeper(tree: HTMLTree, depth: int) -> bool:
    """Whether any element has `depth` or more ancestors: a selector of a chain of children, matched in C."""
    return tree.document.query_selector(" > ".join(["*"] * (depth + 1))) is not None


def normalise(text: str) -> str:
    """The form in which all texts are kept: newline as the only line end, no other control characters but tabs, no lone
    surrogates, no spaces at the ends of lines, at most one blank line in a row, nothing before or behind. Letters, their Unicode
    form and inner spaces stay as they are."""
    text = _LINE_ENDS.sub("\n", text)
    text = _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))
    lines = [line.rstrip() for line in text.split("\n")]
    return "\n".join(line for number, line in enumerate(lines) if line or (number and lines[number - 1])).strip()
