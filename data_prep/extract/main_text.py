"""Which blocks of a page are its main text.

1. Chrome is left out: elements that tag, class or id call something else than text (`nav`, `footer`, "related", "share"), and
   lists and tables that are mostly links. An element that holds more than 40 % of the page's text outside of links is no chrome,
   whatever it is called: pages stand whole in a `form`, or in a `div` of class "with-sidebar".
2. The element that holds the main text is found from the body down: as long as one child has 85 % of what its parent has, it is the
   next. What counts are characters outside of links, those of short blocks a fifth.
3. Its blocks are the main text, without those that are mostly links, and without headings under which nothing is left. Blocks of a
   sentence between the page's `h1` and that element come first: the lead often stands outside.

The numbers were chosen on one half of the labelled pages (by host) and lie on plateaus: see docs. Linear in elements and blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.extract.blocks import HEADINGS, Blocks

CHROME_SHARE = 0.4
CONTAINER_SHARE = 0.85
LINK_SHARE = 0.5
LONG = 80  # characters; a shorter block counts less, unless it is a paragraph
SHORT_WEIGHT = 0.2
LEAD = 60  # characters
MAX_DOUBT = 0.95
_DOCUMENT = 250  # characters

_LISTS = frozenset(("ul", "ol", "dl", "table"))
_INDIVISIBLE = HEADINGS | {"p", "pre", "th"}  # never chosen to hold the main text


@dataclass(frozen=True, slots=True)
class Choice:
    """The main text of a page.

    kept   numbers of its blocks, in reading order
    kept_characters, page_characters   outside of links: of these blocks, and of all
    """

    kept: list[int]
    kept_characters: int
    page_characters: int

    @property
    def doubt(self) -> float:
        """0 to 1: the share of the page's text that is not kept; 0 if there is too little of it for a document anyway."""
        if self.page_characters < _DOCUMENT:
            return 0.0
        return 1 - self.kept_characters / self.page_characters


def choose(blocks: Blocks) -> Choice:
    """The blocks of the main text, as described above; none for a page that is all links."""
    parent, home = blocks.parent, blocks.home
    plain = [len(text) - linked for text, linked in zip(blocks.text, blocks.linked, strict=True)]
    dense = [linked > LINK_SHARE * len(text) for text, linked in zip(blocks.text, blocks.linked, strict=True)]
    left_out = _chrome(blocks, plain)
    weights = [0.0] * len(parent)
    for block, element in enumerate(home):
        if not left_out[element] and not dense[block]:
            counts_whole = len(blocks.text[block]) > LONG or blocks.tag[element] == "p"
            weights[element] += plain[block] if counts_whole else plain[block] * SHORT_WEIGHT
    container = _container(blocks, weights)
    inside = [False] * len(parent)
    for element in range(container, len(parent)):
        inside[element] = element == container or inside[parent[element]]
    kept = [block for block, element in enumerate(home) if inside[element] and not left_out[element] and not dense[block]]
    lead = [block for block in _before(blocks, kept) if not left_out[home[block]] and not dense[block] and len(blocks.text[block]) >= LEAD]
    kept = lead + _without_bare_headings(blocks, kept)
    return Choice(kept, sum(plain[block] for block in kept), sum(plain))


def _chrome(blocks: Blocks, plain: list[int]) -> list[bool]:
    """Which elements are left out."""
    parent = blocks.parent
    texts, links = [0] * len(parent), [0] * len(parent)  # characters in and under each element
    for element, characters, linked in zip(blocks.home, plain, blocks.linked, strict=True):
        texts[element] += characters
        links[element] += linked
    for element in range(len(parent) - 1, 0, -1):
        texts[parent[element]] += texts[element]
        links[parent[element]] += links[element]
    left_out = [False] * len(parent)
    for element in range(1, len(parent)):
        left_out[element] = (
            left_out[parent[element]]
            or (blocks.chrome[element] and texts[element] <= CHROME_SHARE * texts[0])
            or (blocks.tag[element] in _LISTS and links[element] > LINK_SHARE * (links[element] + texts[element]))
        )
    return left_out


def _container(blocks: Blocks, weights: list[float]) -> int:
    """The element that holds the main text; adds to the weight of every element those under it."""
    parent = blocks.parent
    heaviest = [0] * len(parent)  # child of each element; 0 for none
    for element in range(len(parent) - 1, 0, -1):
        around = parent[element]
        weights[around] += weights[element]
        if not heaviest[around] or weights[element] >= weights[heaviest[around]]:
            heaviest[around] = element
    container, child = 0, heaviest[0]
    while child and blocks.tag[child] not in _INDIVISIBLE and weights[child] >= CONTAINER_SHARE * weights[container]:
        container, child = child, heaviest[child]
    return container


def _before(blocks: Blocks, kept: list[int]) -> range:
    """The blocks between the last `h1` before the main text, if it has none itself, and the main text."""
    if kept and not any(blocks.tag[blocks.home[block]] == "h1" for block in kept):
        for block in range(kept[0] - 1, -1, -1):
            if blocks.tag[blocks.home[block]] == "h1":
                return range(block + 1, kept[0])
    return range(0)


def _without_bare_headings(blocks: Blocks, kept: list[int]) -> list[int]:
    """Without headings that nothing, or a heading of the same rank or above, follows; `h1` stays."""
    left: list[int] = []
    after = "h1"
    for block in reversed(kept):
        tag = blocks.tag[blocks.home[block]]
        if tag in HEADINGS and tag != "h1" and after in HEADINGS and after <= tag:
            continue
        left.append(block)
        after = tag
    return left[::-1]
