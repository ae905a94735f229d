# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG text. Colours are names of the page's style, which has a light and a dark set.

All text that is drawn is escaped here: names and commands come from untrusted code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["Axis", "Chart", "bytes_label", "nice_ticks", "text_of"]

LEFT, RIGHT, TOP, BOTTOM = 84, 16, 12, 44
_FEWEST_TICKS = 4


def text_of(value: object, limit: int = 120) -> str:
    """Printable, escaped, at most `limit` characters."""
    plain = "".join(c if c.isprintable() else " " for c in str(value))
    return escape(plain if len(plain) <= limit else plain[: limit - 1] + "…")


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers that span low to high."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    ticks = []
    while first * step <= high + step * 1e-6:
        ticks.append(first * step)
        first += 1
    return ticks


def log_ticks(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [10.0**e for e in exponents if low <= 10.0**e * 1.0001 and 10.0**e <= high * 1.0001]


def bytes_label(value: float) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


@dataclass(frozen=True, slots=True)
class Axis:
    """`unit` scales what is written at the ticks: value / `unit`."""

    low: float
    high: float
    title: str
    unit: float = 1.0
    log: bool = False
    whole: bool = False

    def place(self, value: float) -> float:
        """0 to 1."""
        if self.log:
            value = max(value, self.low)
            return (math.log10(value) - math.log10(self.low)) / (
                math.log10(self.high) - math.log10(self.low)
            )
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0

    def ticks(self) -> list[tuple[float, str]]:
        if self.log:
            return [(t, f"{t / self.unit:g}") for t in log_ticks(self.low, self.high)]
        found = nice_ticks(self.low / self.unit, self.high / self.unit)
        if self.whole:
            found = [t for t in found if t == int(t)]
        # Below zero there is at most room for something else, never a value.
        return [(t * self.unit, f"{t:g}") for t in found if t >= 0]


@dataclass(slots=True)
class Chart:
    """A frame with axes; draw into it, then `svg()`. `names` replace ticks on the y axis."""

    width: int
    height: int
    x: Axis
    y: Axis
    label: str
    names: Sequence[str] = ()
    parts: list[str] = field(default_factory=list)

    @property
    def _left(self) -> int:
        longest = max((len(name) for name in self.names), default=0)
        return max(LEFT, min(240, 16 + 7 * longest))

    def px(self, value: float) -> float:
        wide = self.width - self._left - RIGHT
        return round(self._left + wide * min(1.0, max(0.0, self.x.place(value))), 1)

    def py(self, value: float) -> float:
        high = self.height - TOP - BOTTOM
        return round(TOP + high * (1 - min(1.0, max(0.0, self.y.place(value)))), 1)

    def line(self, points: Sequence[tuple[float, float]], colour: str, extra: str = "") -> None:
        if points:
            path = " ".join(f"{self.px(x)},{self.py(y)}" for x, y in points)
            self.parts.append(f'<polyline points="{path}" fill="none" class="{colour}" {extra}/>')

    def steps(self, points: Sequence[tuple[float, float]], colour: str, extra: str = "") -> None:
        """A line that keeps its height until the next point."""
        drawn: list[tuple[float, float]] = []
        for x, y in points:
            if drawn:
                drawn.append((x, drawn[-1][1]))
            drawn.append((x, y))
        self.line(drawn, colour, extra)

    def band(
        self, lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]],
        colour: str, title: str,
    ) -> None:  # fmt: skip
        outline = [*upper, *reversed(lower)]
        path = " ".join(f"{self.px(x)},{self.py(y)}" for x, y in outline)
        words = f"<title>{text_of(title)}</title>"
        self.parts.append(f'<polygon points="{path}" class="{colour} area">{words}</polygon>')

    def rect(
        self, x1: float, x2: float, y_px: float, height_px: float, colour: str, title: str,
        extra: str = "",
    ) -> None:  # fmt: skip
        left, right = self.px(x1), self.px(x2)
        words = f"<title>{text_of(title, 400)}</title>"
        self.parts.append(
            f'<rect x="{left}" y="{y_px:.1f}" width="{max(1.5, right - left):.1f}"'
            f' height="{height_px:.1f}" class="{colour}" {extra}>{words}</rect>'
        )

    def cross(self, x: float, y: float, title: str) -> None:
        at_x, at_y = self.px(x), self.py(y)
        path = f"M{at_x - 5} {at_y - 5}l10 10m-10 0l10 -10"
        self.parts.append(f'<path d="{path}" class="kill"><title>{text_of(title)}</title></path>')

    def dot(self, x: float, y: float, colour: str, shape: int, title: str) -> None:
        at_x, at_y = self.px(x), self.py(y)
        shapes = (
            f'<circle cx="{at_x}" cy="{at_y}" r="4"',
            f'<rect x="{at_x - 4}" y="{at_y - 4}" width="8" height="8"',
            f'<path d="M{at_x} {at_y - 5}L{at_x + 5} {at_y + 4}L{at_x - 5} {at_y + 4}Z"',
            f'<path d="M{at_x} {at_y - 6}L{at_x + 5} {at_y}L{at_x} {at_y + 6}L{at_x - 5} {at_y}Z"',
        )
        drawn = shapes[shape % len(shapes)]
        tag = drawn[1:].partition(" ")[0]
        self.parts.append(f'{drawn} class="{colour} dot"><title>{text_of(title)}</title></{tag}>')

    def write(self, x_px: float, y_px: float, words: str, anchor: str = "start") -> None:
        self.parts.append(
            f'<text x="{x_px:.1f}" y="{y_px:.1f}" text-anchor="{anchor}">{text_of(words)}</text>'
        )

    def svg(self) -> str:
        head = (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img"'
            f' aria-label="{text_of(self.label, 300)}">'
        )
        return head + "".join(self._frame()) + "".join(self.parts) + "</svg>"

    def _frame(self) -> list[str]:
        left, right = self._left, self.width - RIGHT
        bottom = self.height - BOTTOM
        drawn = []
        for value, words in self.x.ticks():
            at = self.px(value)
            drawn.append(f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}" class="grid"/>')
            drawn.append(f'<text x="{at}" y="{bottom + 16}" text-anchor="middle">{words}</text>')
        for value, words in () if self.names else self.y.ticks():
            at = self.py(value)
            drawn.append(f'<line x1="{left}" x2="{right}" y1="{at}" y2="{at}" class="grid"/>')
            drawn.append(f'<text x="{left - 8}" y="{at + 4}" text-anchor="end">{words}</text>')
        for index, name in enumerate(self.names):
            at = self.py(index + 0.5)
            words = text_of(name, 32)
            drawn.append(f'<text x="{left - 8}" y="{at + 4}" text-anchor="end">{words}</text>')
        drawn.append(f'<path d="M{left} {TOP}V{bottom}H{right}" class="axis"/>')
        middle = (left + right) / 2
        drawn.append(
            f'<text x="{middle}" y="{self.height - 8}" text-anchor="middle" class="title">'
            f"{text_of(self.x.title)}</text>"
        )
        if self.y.title:
            at = (TOP + bottom) / 2
            drawn.append(
                f'<text transform="translate(16 {at}) rotate(-90)" text-anchor="middle"'
                f' class="title">{text_of(self.y.title)}</text>'
            )
        return drawn
