"""A ladder as one SVG: loss by tokens, a line of the law for each size, a point for each training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from trainer.ladder import Ladder, Prediction, formula
from trainer.outlook import counted

WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 56, 56
POINTS_OF_LINE = 60
STYLE = """
svg { background: #fbfaf8; font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: #1c1d20; }
.muted { fill: #66696f; } .title { font-size: 16px; font-weight: 600; }
.grid { stroke: #e3e1dc; } .law { fill: none; stroke-width: 1.8; } .beyond { stroke-dasharray: 5 4; }
.interval { stroke: #b4553a; stroke-width: 2; } .held-out { fill: #fbfaf8; stroke: #b4553a; stroke-width: 2; }
"""


def plot(found: Ladder) -> str:
    """Fitted rungs are dots, a held-out one is a ring, an interval of a prediction is a bar with its ends."""
    return Drawing(found).svg()


class Drawing:
    """Where values stand: tokens and loss both on logarithmic axes."""

    def __init__(self, found: Ladder) -> None:
        self.found = found
        law = found.fit.law
        self.sizes = sorted({rung.run.parameters for rung in found.rungs} | {one.parameters for one in found.predictions})
        self.fitted = {rung.run.parameters for rung in found.rungs if not rung.held_out}
        tokens = [*(rung.run.tokens for rung in found.rungs), *(one.tokens for one in found.predictions)]
        self.tokens = min(tokens) / 1.15, max(tokens) * 1.15
        losses = [*(rung.run.loss for rung in found.rungs), *(end for one in found.predictions for end in (one.loss.low, one.loss.high))]
        losses += [law.loss(size, end) for size in self.sizes for end in self.tokens]
        self.losses = min(losses) / 1.03, max(losses) * 1.03

    def x(self, tokens: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * place(tokens, *self.tokens)

    def y(self, loss: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * place(loss, *self.losses)

    def svg(self) -> str:
        title = formula(self.found.fit.law)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
            f"<title>{title}</title><style>{STYLE}</style>",
            f'<text class="title" x="{LEFT}" y="28">{title}</text>',
            *self.axes(),
            *self.laws(),
            *self.dots(),
            *(mark for one in self.found.predictions for mark in self.interval(one)),
        ]
        return "\n".join(parts) + "\n</svg>\n"

    def axes(self) -> Iterator[str]:
        for loss in ticks(*self.losses):
            y = f"{self.y(loss):.1f}"
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
            yield f'<text class="muted" x="{LEFT - 8}" y="{y}" text-anchor="end" dominant-baseline="middle">{loss:g}</text>'
        for tokens in ticks(*self.tokens):
            x = f"{self.x(tokens):.1f}"
            yield f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            yield f'<text class="muted" x="{x}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{counted(tokens)}</text>'
        yield f'<text class="muted" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">tokens trained on, D</text>'
        yield f'<text class="muted" x="{LEFT - 8}" y="{TOP - 10}">loss, nats a token</text>'
        yield f'<text class="muted" x="{WIDTH - RIGHT + 12}" y="{TOP - 10}">parameters, N</text>'

    def laws(self) -> Iterator[str]:
        """One line a size, dashed where no rung of it was fitted, with its name at the end."""
        first, last = self.tokens
        free = math.inf
        for size in self.sizes:  # the smallest has the highest loss
            steps = [first * (last / first) ** (step / POINTS_OF_LINE) for step in range(POINTS_OF_LINE + 1)]
            points = " ".join(f"{self.x(tokens):.1f},{self.y(self.found.fit.law.loss(size, tokens)):.1f}" for tokens in steps)
            beyond = "" if size in self.fitted else " beyond"
            yield f'<polyline class="law{beyond}" stroke="{self.colour(size)}" points="{points}"/>'
            y = self.y(self.found.fit.law.loss(size, last))
            free = y if math.isinf(free) else max(y, free + 15)  # names do not cover each other
            yield f'<text x="{WIDTH - RIGHT + 12}" y="{free:.1f}" dominant-baseline="middle">{counted(size)}</text>'

    def dots(self) -> Iterator[str]:
        for rung in self.found.rungs:
            run = rung.run
            kind = 'class="held-out" r="5.5"' if rung.held_out else f'fill="{self.colour(run.parameters)}" r="4.5"'
            tip = escape(f"{rung.name}: {run.loss:.4f}")
            yield f'<circle {kind} cx="{self.x(run.tokens):.1f}" cy="{self.y(run.loss):.1f}"><title>{tip}</title></circle>'

    def interval(self, one: Prediction) -> Iterator[str]:
        x, low, high = self.x(one.tokens), self.y(one.loss.low), self.y(one.loss.high)
        ends = "".join(f"M{x - 5:.1f} {y:.1f}h10" for y in (low, high))
        tip = escape(f"{one.name}: {one.loss.value:.4f}, {self.found.confidence:.0%} interval {one.loss.low:.4f} to {one.loss.high:.4f}")
        yield f'<path class="interval" d="M{x:.1f} {low:.1f}V{high:.1f}{ends}"><title>{tip}</title></path>'

    def colour(self, size: float) -> str:
        """From pale to dark with the size."""
        share = self.sizes.index(size) / max(1, len(self.sizes) - 1)
        return f"hsl({170 + 20 * share:.0f} {35 + 10 * share:.0f}% {62 - 38 * share:.0f}%)"


def place(value: float, first: float, last: float) -> float:
    """0 … 1 on a logarithmic axis."""
    return math.log(value / first) / math.log(last / first)


def ticks(first: float, last: float) -> list[float]:
    """Round values between the ends: 1, 2 and 5 of each power of ten, closer ones where that gives few."""
    powers = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), [1 + step / 10 for step in range(90)]):
        found = [float(f"{digit * 10.0**power:.6g}") for power in powers for digit in digits]
        found = [value for value in found if first <= value <= last]
        if len(found) >= 3:
            return found
    return found
