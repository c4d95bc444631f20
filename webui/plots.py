"""Plots as inline SVG, made on the server: pure functions from numbers to markup.

Each is stretched to the width of its place, so there is no text in it: the page writes the axes beside it. Colours come from
the style sheet by class. A plot is one picture to a screen reader, with its title; its numbers are in a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

#: Units of a plot's height.
HEIGHT = 100.0
GAP = 0.24


def top(values: Sequence[float | None]) -> float:
    """The end of the axis: 1, 2 or 5 times a power of ten, at least as large as every value, at least 1."""
    most = max((value for value in values if value is not None), default=0.0)
    if most <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most * (1 - 1e-9))


def bars(name: str, title: str, series: Sequence[tuple[str, Sequence[float]]], most: float) -> Markup:
    """Stacked bars: (class, values) from the bottom up, every series as long as the others. `name` is unique on its page."""
    number = len(series[0][1]) if series else 0
    drawn = []
    for index in range(number):
        y = HEIGHT
        for css, values in series:
            height = HEIGHT * values[index] / most
            if height > 0:
                y -= height
                shape = f'x="{index + GAP / 2:.2f}" y="{y:.2f}" width="{1 - GAP:.2f}" height="{height:.2f}"'
                drawn.append(Markup(f'<rect class="{escape(css)}" {shape}/>'))  # noqa: S704 - numbers and our own class
    return _plot(name, title, number, drawn)


def lines(name: str, title: str, series: Sequence[tuple[str, Sequence[float | None]]], most: float) -> Markup:
    """A line for each (class, values); where a value is None it has a gap, and a value between two gaps is a short dash."""
    number = len(series[0][1]) if series else 0
    drawn = []
    for css, values in series:
        for start, run in _runs(values):
            points = [(start + at + 0.5, HEIGHT * (1 - value / most)) for at, value in enumerate(run)]
            if len(points) == 1:
                (x, y) = points[0]
                points = [(x - 0.3, y), (x + 0.3, y)]
            path = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points)
            drawn.append(Markup(f'<path class="{escape(css)}" d="{path}"/>'))  # noqa: S704 - numbers and our own class
    return _plot(name, title, number, drawn)


def _runs(values: Sequence[float | None]) -> list[tuple[int, list[float]]]:
    """The stretches without a gap, each with the place where it begins."""
    found: list[tuple[int, list[float]]] = []
    before = False
    for at, value in enumerate(values):
        if value is not None:
            if before:
                found[-1][1].append(value)
            else:
                found.append((at, [value]))
        before = value is not None
    return found


def _plot(name: str, title: str, width: int, drawn: Sequence[Markup]) -> Markup:
    grid = Markup("").join(
        Markup(f'<path class="grid" d="M0 {y:g}H{width}"/>')  # noqa: S704 - numbers
        for y in (0, HEIGHT / 2, HEIGHT)
    )
    return Markup(
        '<svg class="plot" role="img" aria-labelledby="{id}-title" viewBox="0 0 {width} {height:g}" '
        'preserveAspectRatio="none"><title id="{id}-title">{title}</title>{grid}{drawn}</svg>'
    ).format(id=name, width=width or 1, height=HEIGHT, title=title, grid=grid, drawn=Markup("").join(drawn))
