"""Draws line charts as SVG, for a page or a separate file, such as losses over steps or one metric over another."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 28, 30, 40  # margins
TICKS = 5
COLOURS = ("#1f7a5c", "#c0631c", "#4667c8", "#a8456f", "#7a6a1f", "#5a5a66")
STYLE = "text{font:12px system-ui,sans-serif;fill:#75797e}.axis{stroke:#9a9ea3;stroke-width:.5}"
STYLE += (
    ".curve{fill:none;stroke-width:1.8}.range{stroke-width:1;opacity:.45}.ring{fill:none;stroke:#b3261e;stroke-width:2}"
)

Scale = Callable[[float], float]  # converts a value to a coordinate in the drawing


@dataclass(frozen=True)
class Point:
    """A point of a curve. Its label, intervals and ring are drawn only if the curve has dots."""

    x: float
    y: float
    label: str = ""
    x_range: tuple[float, float] | None = None  # an interval, such as a confidence interval
    y_range: tuple[float, float] | None = None
    ringed: bool = False


@dataclass(frozen=True)
class Curve:
    """A named line through points. With `dots`, each point is marked."""

    name: str
    points: Sequence[Point]
    dots: bool = False


def draw_chart(curves: Sequence[Curve], x_name: str, y_name: str, log: bool = False) -> Markup:
    """Draw curves over common axes. Names and labels are escaped.

    Args:
        curves: the curves, which have at least one point in total.
        x_name: label of the x axis.
        y_name: label of the y axis.
        log: make the y axis logarithmic, if all values are above 0.
    """
    points = [point for curve in curves for point in curve.points]
    x_values = [point.x for point in points] + _interval_ends(point.x_range for point in points)
    y_values = [point.y for point in points] + _interval_ends(point.y_range for point in points)
    x_scale, x_ticks = _axis(x_values, LEFT, WIDTH - RIGHT)
    y_scale, y_ticks = _axis(y_values, HEIGHT - BOTTOM, TOP, log and min(y_values) > 0)
    parts = [_draw_grid(x_ticks, y_ticks, x_scale, y_scale), _draw_axis_names(x_name, y_name), _draw_legend(curves)]
    parts += [_draw_curve(curve, COLOURS[n % len(COLOURS)], x_scale, y_scale) for n, curve in enumerate(curves)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    return Markup(f"{head}<style>{STYLE}</style>{''.join(parts)}</svg>")


def _interval_ends(intervals: Iterable[tuple[float, float] | None]) -> list[float]:
    return [end for interval in intervals for end in interval or ()]


def _axis(values: Sequence[float], start: float, stop: float, log: bool = False) -> tuple[Scale, list[float]]:
    """Return the scale of an axis between two coordinates, and the round values at its ticks."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    if log:
        ticks = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
        first, last = math.log10(ticks[0]), math.log10(ticks[-1])
        return lambda value: round(start + (math.log10(value) - first) / (last - first) * (stop - start), 1), ticks
    step = round_step((high - low) / TICKS)
    ticks = [n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)]
    return lambda value: round(start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (stop - start), 1), ticks


def round_step(smallest: float) -> float:
    """Return the smallest step of at least `smallest` that is 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(smallest))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= smallest)


def _draw_grid(x_ticks: list[float], y_ticks: list[float], x_scale: Scale, y_scale: Scale) -> Markup:
    parts = []
    for tick in y_ticks:
        y = y_scale(tick)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:.4g}</text>')
    for tick in x_ticks:
        label = f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:.4g}"
        parts.append(f'<text x="{x_scale(tick)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label}</text>')
    return Markup("".join(parts))


def _draw_axis_names(x_name: str, y_name: str) -> Markup:
    x_middle = (LEFT + WIDTH - RIGHT) / 2
    y_middle = (TOP + HEIGHT - BOTTOM) / 2
    return Markup(
        '<text x="{}" y="{}" text-anchor="middle">{}</text>'
        '<text x="12" y="{}" text-anchor="middle" transform="rotate(-90 12 {})">{}</text>'
    ).format(x_middle, HEIGHT - 6, x_name, y_middle, y_middle, y_name)


def _draw_curve(curve: Curve, colour: str, x_scale: Scale, y_scale: Scale) -> Markup:
    coordinates = " ".join(f"{x_scale(point.x)},{y_scale(point.y)}" for point in curve.points)
    parts = [Markup('<polyline class="curve" stroke="{}" points="{}"/>').format(colour, coordinates)]
    for point in curve.points if curve.dots else ():
        x, y = x_scale(point.x), y_scale(point.y)
        line = Markup('<line class="range" stroke="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        if point.x_range:
            parts.append(line.format(colour, *map(x_scale, point.x_range), y, y))
        if point.y_range:
            parts.append(line.format(colour, x, x, *map(y_scale, point.y_range)))
        if point.ringed:
            parts.append(Markup('<circle class="ring" cx="{}" cy="{}" r="8"/>').format(x, y))
        parts.append(Markup('<circle cx="{}" cy="{}" r="3.5" fill="{}"/>').format(x, y, colour))
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(x + 7, y - 7, point.label))
    return Markup("").join(parts)


def _draw_legend(curves: Sequence[Curve]) -> Markup:
    """Draw the curves' names in a row above the chart. A single curve has no legend."""
    parts, x = [], LEFT
    for number, curve in enumerate(curves if len(curves) > 1 else ()):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(Markup('<circle cx="{}" cy="12" r="4" fill="{}"/>').format(x + 4, colour))
        parts.append(Markup('<text x="{}" y="16">{}</text>').format(x + 14, curve.name))
        x += 34 + 7 * len(curve.name)
    return Markup("").join(parts)
