"""Blocks to text: plain, or with simple structure as Markdown.

Plain: a blank line between paragraphs; items of lists (`- ` or `1. ` before them), rows of tables (` | ` between cells) and lines of
code follow each other. Markdown adds marks of headings, fences around code, the frame of tables, and indents lists in lists. What
looks like Markdown by accident is not escaped: the text is to be read, not to be rendered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from data_prep.extract.blocks import HEADINGS, Blocks

_CELL_CHARACTERS = 500  # a table with a longer cell lays out the page
_LISTS = frozenset(("ul", "ol", "dl"))
_CELLS = frozenset(("td", "th"))


def render(blocks: Blocks, kept: Sequence[int], markdown: bool = False) -> str:
    """The text of the blocks with these numbers, in their order."""
    parts: list[str] = []
    before = 0
    for group, text in _pieces(blocks, kept, markdown):
        if parts:
            parts.append("\n" if group and group == before else "\n\n")
        parts.append(text)
        before = group
    return "".join(parts)


def render_all(blocks: Blocks, markdown: bool = False) -> str:
    """The text of all blocks."""
    return render(blocks, range(len(blocks.text)), markdown)


class _Around:
    """For each element, the number of the item, row and so on that it is or stands in; 0 for none."""

    def __init__(self, blocks: Blocks) -> None:
        number = len(blocks.tag)
        self.item, self.list, self.depth, self.code, self.cell, self.table = ([0] * number for _ in range(6))
        self.rank = [0] * number  # of an item among those of its list, from 1
        self.cells: dict[int, list[int]] = {}  # of each row
        self.layout: set[int] = set()  # tables with tables or code in them
        ranks: dict[int, int] = {}
        for element in range(1, number):
            tag, up = blocks.tag[element], blocks.parent[element]
            self.item[element], self.list[element], self.depth[element] = self.item[up], self.list[up], self.depth[up]
            self.code[element], self.cell[element], self.table[element] = self.code[up], self.cell[up], self.table[up]
            if tag == "li":
                self.item[element] = element
                self.rank[element] = ranks[up] = ranks.get(up, 0) + 1
            elif tag in _LISTS:
                self.list[element] = self.list[up] or element
                self.depth[element] += 1
            elif tag == "pre":
                self.code[element] = self.code[up] or element
                self.layout.add(self.table[up])
            elif tag == "table":
                self.layout.add(self.table[up])
                self.item[element] = self.list[element] = self.depth[element] = self.cell[element] = 0
                self.table[element] = element
            elif tag in _CELLS:
                self.cell[element] = element
                self.cells.setdefault(up, []).append(element)


def _pieces(blocks: Blocks, kept: Sequence[int], markdown: bool) -> Iterator[tuple[int, str]]:
    """Pieces of text with the list or table they belong to, if any: pieces of the same one stand on consecutive lines."""
    around = _Around(blocks)
    layout = _layout_tables(blocks, around, kept)
    begun: set[int] = set()  # items and tables of which something is written

    def unit(block: int) -> tuple[str, int]:
        """What the block is a piece of: a row of a table, code, an item, or nothing but itself."""
        element = blocks.home[block]
        if around.cell[element] and around.table[element] not in layout:
            return "row", blocks.parent[around.cell[element]]
        if around.code[element]:
            return "code", around.code[element]
        if around.item[element]:
            return "item", around.item[element]
        return "block", -block

    for (kind, number), members in groupby(kept, unit):
        run = list(members)
        element = blocks.home[run[0]]
        text = "\n".join([blocks.text[block] for block in run])
        if kind == "row":
            cells = {cell: [] for cell in around.cells[number]}  # type: dict[int, list[str]]
            for block in run:
                cells[around.cell[blocks.home[block]]] += blocks.text[block].split("\n")
            table = around.table[element]
            yield table, _row([" ".join(words) for words in cells.values()], markdown, table not in begun)
            begun.add(table)
        elif kind == "code":
            yield 0, f"```\n{text}\n```" if markdown else text
        elif kind == "item":
            mark = "" if number in begun else f"{around.rank[number]}. " if blocks.tag[blocks.parent[number]] == "ol" else "- "
            begun.add(number)
            yield around.list[number], _item(text, mark, around.depth[number], markdown)
        else:
            tag = blocks.tag[element]
            yield around.list[element], f"{'#' * int(tag[1])} {' '.join(text.split())}" if markdown and tag in HEADINGS else text


def _layout_tables(blocks: Blocks, around: _Around, kept: Sequence[int]) -> set[int]:
    """The tables that hold no data, but lay out the page: with one column, long cells, code or tables in them."""
    characters: dict[int, int] = {}
    for block in kept:
        if cell := around.cell[blocks.home[block]]:
            characters[cell] = characters.get(cell, 0) + len(blocks.text[block])
    wide = {around.table[row] for row, cells in around.cells.items() if len(cells) > 1}
    long = {around.table[cell] for cell, number in characters.items() if number > _CELL_CHARACTERS}
    return around.layout | long | (set(around.table) - wide)


def _row(cells: list[str], markdown: bool, first: bool) -> str:
    if not markdown:
        return " | ".join(filter(None, cells))
    row = f"| {' | '.join(cells)} |"
    return f"{row}\n|{' --- |' * len(cells)}" if first else row


def _item(text: str, mark: str, depth: int, markdown: bool) -> str:
    if not markdown:
        return mark + text
    indent = "  " * (depth - 1)
    return indent + (mark or "  ") + text.replace("\n", f"\n{indent}  ")
