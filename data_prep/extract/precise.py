"""The main text as trafilatura finds it, as an HTML tree that is rendered like any other.

Barbaresi, "Trafilatura: A Web Scraping Library and Command-Line Tool for Text Discovery and Extraction", 2021.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from data_prep.extract.blocks import Blocks, read_blocks

if TYPE_CHECKING:
    from trafilatura.settings import Extractor

# Its names of elements, where they are not those of HTML.
_HTML = {"list": "ul", "item": "li", "quote": "blockquote", "lb": "br", "row": "tr", "del": "s", "ref": "span", "hi": "span"}


def precise_blocks(page: str, mark_code: bool = False) -> Blocks:
    """The blocks of the main text, without comments of readers; none if it finds no text."""
    from lxml import etree
    from resiliparse.parse.html import HTMLTree
    from trafilatura import bare_extraction
    from trafilatura.settings import Document

    document = bare_extraction(page, options=_options())
    if not isinstance(document, Document):
        return Blocks()
    body = document.body
    for element in body.iter(etree.Element):
        if (tag := _html_tag(element)) != element.tag:  # damaged pages have names that may be read, but not set
            element.tag = tag
        element.attrib.clear()
    body.tag = "body"
    return read_blocks(HTMLTree.parse(etree.tostring(body, encoding="unicode", method="html")), mark_code=mark_code)


@functools.cache
def _options() -> Extractor:
    import logging

    from trafilatura.settings import Extractor

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # pages without text are no errors here
    # The format decides only what `body` would be turned into, which is done here instead.
    return Extractor(output_format="xml", comments=False)


def _html_tag(element: Any) -> str:
    tag = str(element.tag)
    if tag == "head":
        return str(element.get("rend") or "h2")
    if tag == "list" and element.get("rend") == "ol":
        return "ol"
    if tag == "cell":
        return "th" if element.get("role") == "head" else "td"
    if tag == "code":
        parent = element.getparent()
        return "pre" if parent is None or parent.getparent() is None or "\n" in "".join(element.itertext()) else "code"
    return _HTML.get(tag, tag)
