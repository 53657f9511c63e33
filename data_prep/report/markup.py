"""Pieces of HTML. Whatever comes from outside goes through `text`, which leaves nothing that a browser could take for markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

# Characters that show nothing, or turn or break what stands around them: controls, lone surrogates, overrides of the writing
# direction, zero-width spaces, and what is no character. The joiners of Persian and Indic scripts and of emoji are none of these.
_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)


def text(value: object) -> str:
    """Any text as HTML: escaped, with odd characters as their code points in a frame."""
    escaped = html.escape(str(value), quote=True)
    return _ODD.sub(lambda match: f'<i class="odd">{ord(match[0]):04X}</i>', escaped)


def clipped(value: str, characters: int) -> str:
    """The beginning of a text as HTML, with an ellipsis where it goes on."""
    return text(value) if len(value) <= characters else text(value[:characters]) + '<span class="muted"> …</span>'


def passage(value: str, characters: int) -> str:
    """A text with its lines, in whatever direction its script runs."""
    return f'<div class="text" dir="auto">{clipped(value, characters)}</div>'


def number(value: float) -> str:
    """1234567 → 1,234,567."""
    return f"{value:,.0f}"


def rough(value: float) -> str:
    """Three digits and a word: 2.5 billion, 12.3 million; below a million as it is."""
    for size, word in ((1e15, "quadrillion"), (1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def compact(value: float) -> str:
    """The same in as little room as it takes: 2.5 B, 12.3 M."""
    words = rough(value)
    for word in ("quadrillion", "trillion", "billion", "million"):
        words = words.replace(word, word[0].upper())
    return words


def size(value: float) -> str:
    """Bytes in decimal units."""
    for unit, word in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:,.3g} {word}" if value < 1000 * unit else f"{value / unit:,.0f} {word}"
    return f"{value:.0f} bytes"


def share(part: float, whole: float) -> str:
    """A share in percent; a dash of nothing."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if part and percent < 0.05:
        return "&lt; 0.1 %"
    if part < whole and percent > 99.95:
        return "&gt; 99.9 %"
    return f"{percent:.1f} %"


def bar(part: float, whole: float, behind: float | None = None) -> str:
    """A horizontal bar, `part` of `whole` long; a fainter one `behind` it."""
    back = f'<b style="width:{_width(behind, whole)}"></b>' if behind else ""
    front = f'<i style="width:{_width(part, whole)}"></i>' if part else ""
    return f'<span class="bar">{back}{front}</span>'


def _width(part: float, whole: float) -> str:
    return f"{max(0.0, min(100.0, 100 * part / whole)) if whole else 0:.2f}%"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table of cells that are HTML already; the first `words` columns are words, the others numbers."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{'' if place < words else ' class=n'}>{cell}</{tag}>" for place, cell in enumerate(row))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells(header, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def details(summary: str, content: str, opened: bool = False) -> str:
    """Content that shows when its summary is chosen. Both are HTML."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary>{content}</details>"


def section(identity: str, title: str, content: str, lead: str = "") -> str:
    """A section with a heading that the page's index leads to; nothing where it has no content."""
    if not content:
        return ""
    said = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{identity}"><h2>{title}</h2>{said}{content}</section>'


def plural(count: int, word: str) -> str:
    """1 stage, 2 stages."""
    return f"{number(count)} {word}" if count == 1 else f"{number(count)} {word}s"
