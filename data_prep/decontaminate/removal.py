"""What is done with a text in which evaluation data was found: the whole text goes, or what surrounds the overlap."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.decontaminate.index import Index, Overlap


@dataclass(frozen=True, slots=True)
class Removal:
    """What is cut out around an overlap and what of a text may stay (the figures of GPT-3, Brown et al. 2020, appendix C).

    margin          characters that are removed on both sides of an overlap, as far as to the end of a word
    max_cuts        a text with more than so many cuts is dropped
    min_characters  what remains between cuts and is shorter is removed, too
    """

    margin: int = 200
    max_cuts: int = 10
    min_characters: int = 200


def reason(overlaps: Sequence[Overlap]) -> str:
    """`contaminated_` and the name of the set with most words among the overlaps, in letters, digits and underscores."""
    words: Counter[str] = Counter()
    for overlap in overlaps:
        words[overlap.evaluation] += overlap.words
    name = min(words, key=lambda name: (-words[name], name))
    return "contaminated_" + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def remove(text: str, index: Index, removal: Removal) -> tuple[str, int]:
    """The text without what overlaps with the index, and the number of cuts; ("", cuts) where the whole text is to go.

    Pieces are joined by a newline. What then stands side by side is searched again.
    """
    cuts = 0
    while overlaps := index.find(text):
        windows = _windows(text, overlaps, removal.margin)
        cuts += len(windows)
        if cuts > removal.max_cuts:
            return "", cuts
        edges = [0, *(edge for window in windows for edge in window), len(text)]
        pieces = [text[start:end].strip() for start, end in zip(edges[::2], edges[1::2], strict=True)]
        text = "\n".join(piece for piece in pieces if len(piece) >= removal.min_characters)
    return text, cuts


def _windows(text: str, overlaps: Sequence[Overlap], margin: int) -> list[tuple[int, int]]:
    """The overlaps with their margins, widened to white space, merged where they touch."""
    windows: list[tuple[int, int]] = []
    for overlap in overlaps:
        start, end = max(0, overlap.start - margin), min(len(text), overlap.end + margin)
        while start > 0 and not text[start - 1].isspace():
            start -= 1
        while end < len(text) and not text[end].isspace():
            end += 1
        if windows and start <= windows[-1][1]:
            windows[-1] = windows[-1][0], max(end, windows[-1][1])
        else:
            windows.append((start, end))
    return windows
