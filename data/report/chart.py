"""Curves as a drawing (SVG) that stands in a page or alone: losses over steps, distance over score."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 28, 30, 40
TICKS = 5
COLOURS = ("#1f7a5c", "#c0631c", "#4667c8", "#a8456f", "#7a6a1f", "#5a5a66")
STYLE = "text{font:12px system-ui,sans-serif;fill:#75797e}.axis{stroke:#9a9ea3;stroke-width:.5}"
STYLE += (
    ".curve{fill:none;stroke-width:1.8}.range{stroke-width:1;opacity:.45}.ring{fill:none;stroke:#b3261e;stroke-width:2}"
)


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    words: str = ""  # beside it
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    ringed: bool = False


@dataclass(frozen=True)
class Curve:
    name: str
    points: Sequence[Point]
    dots: bool = False


def chart(curves: Sequence[Curve], x_name: str, y_name: str, log: bool = False) -> Markup:
    """`log`: of y, where all are above 0."""
    points = [point for curve in curves for point in curve.points]
    across, x_ticks = _axis([end for one in points for end in (one.x, *(one.x_range or ()))], LEFT, WIDTH - RIGHT)
    ends = [end for one in points for end in (one.y, *(one.y_range or ()))]
    down, y_ticks = _axis(ends, HEIGHT - BOTTOM, TOP, log and min(ends) > 0)
    parts = [_grid(x_ticks, y_ticks, across, down), _names(x_name, y_name), _key(curves)]
    parts += [_curve(curve, COLOURS[number % len(COLOURS)], across, down) for number, curve in enumerate(curves)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    return Markup(f"{head}<style>{STYLE}</style>{''.join(parts)}</svg>")


def _axis(
    values: Sequence[float], first: float, last: float, log: bool = False
) -> tuple[Callable[[float], float], list[float]]:
    """Where a value lies between two ends of the drawing, and round values to name."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    if log:
        ticks = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
        from_, to = math.log10(ticks[0]), math.log10(ticks[-1])
        return lambda value: round(first + (math.log10(value) - from_) / (to - from_) * (last - first), 1), ticks
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough)
    ticks = [n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)]
    return lambda value: round(first + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (last - first), 1), ticks


def _grid(
    x_ticks: list[float], y_ticks: list[float], across: Callable[[float], float], down: Callable[[float], float]
) -> Markup:
    parts = []
    for tick in y_ticks:
        y = down(tick)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:.4g}</text>')
    for tick in x_ticks:
        words = f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:.4g}"
        parts.append(f'<text x="{across(tick)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{words}</text>')
    return Markup("".join(parts))


def _names(x_name: str, y_name: str) -> Markup:
    middle = (LEFT + WIDTH - RIGHT) / 2
    high = (TOP + HEIGHT - BOTTOM) / 2
    return Markup(
        '<text x="{}" y="{}" text-anchor="middle">{}</text>'
        '<text x="12" y="{}" text-anchor="middle" transform="rotate(-90 12 {})">{}</text>'
    ).format(middle, HEIGHT - 6, x_name, high, high, y_name)


def _curve(curve: Curve, colour: str, across: Callable[[float], float], down: Callable[[float], float]) -> Markup:
    places = " ".join(f"{across(one.x)},{down(one.y)}" for one in curve.points)
    parts = [Markup('<polyline class="curve" stroke="{}" points="{}"/>').format(colour, places)]
    for one in curve.points if curve.dots else ():
        x, y = across(one.x), down(one.y)
        line = Markup('<line class="range" stroke="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        if one.x_range:
            parts.append(line.format(colour, *map(across, one.x_range), y, y))
        if one.y_range:
            parts.append(line.format(colour, x, x, *map(down, one.y_range)))
        if one.ringed:
            parts.append(Markup('<circle class="ring" cx="{}" cy="{}" r="8"/>').format(x, y))
        parts.append(Markup('<circle cx="{}" cy="{}" r="3.5" fill="{}"/>').format(x, y, colour))
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(x + 7, y - 7, one.words))
    return Markup("").join(parts)


def _key(curves: Sequence[Curve]) -> Markup:
    """The names of several curves, in a row above them."""
    parts, x = [], LEFT
    for number, curve in enumerate(curves if len(curves) > 1 else ()):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(Markup('<circle cx="{}" cy="12" r="4" fill="{}"/>').format(x + 4, colour))
        parts.append(Markup('<text x="{}" y="16">{}</text>').format(x + 14, curve.name))
        x += 34 + 7 * len(curve.name)
    return Markup("").join(parts)
