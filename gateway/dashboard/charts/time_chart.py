"""A chart of lines and bands over time.

The drawing is stretched to the width of its place; texts keep their size, as they are placed in
per cent of it. Texts stand inside the drawing, so that it needs no margins.
"""

import json
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Final, TypeAlias

from markupsafe import Markup
from msgspec import Struct

WIDTH: Final = 1_000.0  # units of the drawing, whatever its width
LABEL_PX: Final = 20  # below the drawing, for the labels of the time
TOP_PX: Final = 16  # above it, for the label of its uppermost line
# Upper ends of an axis, and the steps between its lines.
NICE: Final = {1.0: 0.5, 1.5: 0.5, 2.0: 0.5, 3.0: 1.0, 4.0: 1.0, 5.0: 1.0, 6.0: 2.0, 8.0: 2.0}
ROOM: Final = 1.08  # above the highest value

Point: TypeAlias = tuple[float, float | None]


class Line(Struct, frozen=True):
    """Values over time; `style` is a CSS class. A None leaves a gap. `filled`: down to zero."""

    name: str
    style: str
    points: Sequence[Point]
    filled: bool = False


class Band(Struct, frozen=True):
    """A range over time: (time, low, high)."""

    style: str
    points: Sequence[tuple[float, float, float]]


class Tick(Struct, frozen=True):
    """A place on an axis and its label."""

    at: float
    label: str


class TimeChart(Struct, frozen=True, kw_only=True):
    """What is drawn: times from `begin` to `end`, values from 0 to `top`.

    `scale` times a value and `unit` are what the pointer reads; `now` is marked by a line.
    """

    label: str
    lines: Sequence[Line]
    bands: Sequence[Band] = ()
    begin: float
    end: float
    top: float
    bottom: float = 0.0
    times: Sequence[Tick]
    values: Sequence[Tick]
    now: float | None = None
    limit: float | None = None
    height: int = 180
    scale: float = 1.0
    unit: str = ""

    def __html__(self) -> str:
        """The chart as SVG."""
        plot = self.height - LABEL_PX - TOP_PX
        parts = [
            Markup(
                '<svg class="chart" width="100%" height="{}" role="img" aria-label="{}" '
                'data-chart="{}">'
            ).format(self.height, self.label, self._readings()),
            *self._grid(plot),
            Markup(
                '<svg y="{}" width="100%" height="{}" viewBox="0 0 {:.0f} {}" '
                'preserveAspectRatio="none">'
            ).format(TOP_PX, plot, WIDTH, plot),
            *(
                Markup('<path class="band {}" d="{}"/>').format(
                    band.style, self._band_path(band, plot)
                )
                for band in self.bands
            ),
            *(
                Markup('<path class="area {}" d="{}"/>').format(
                    line.style, self._area_path(line, plot)
                )
                for line in self.lines
                if line.filled
            ),
            *(
                Markup('<path class="line {}" d="{}"/>').format(
                    line.style, self._line_path(line.points, plot)
                )
                for line in self.lines
            ),
            *(
                Markup('<path class="dot {}" d="{}"/>').format(
                    line.style, self._dots(line.points, plot)
                )
                for line in self.lines
            ),
            Markup("</svg>"),
            *self._labels(plot),
            Markup("</svg>"),
        ]
        return Markup("").join(parts)

    def _x(self, at: float) -> float:
        share = (at - self.begin) / (self.end - self.begin)
        return WIDTH * min(max(share, 0.0), 1.0)

    def _y(self, value: float, plot: int) -> float:
        share = (value - self.bottom) / (self.top - self.bottom)
        return plot * (1 - min(max(share, 0.0), 1.0))

    def _grid(self, plot: int) -> list[Markup]:
        lines = [
            Markup('<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>').format(
                TOP_PX + self._y(tick.at, plot)
            )
            for tick in self.values
        ]
        if self.limit is not None and self.limit <= self.top:
            lines.append(
                Markup('<line class="limit" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>').format(
                    TOP_PX + self._y(self.limit, plot)
                )
            )
        if self.now is not None:
            lines.append(
                Markup('<line class="now" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="{1}"/>').format(
                    self._x(self.now) / WIDTH * 100, TOP_PX + plot
                )
            )
        return lines

    def _labels(self, plot: int) -> list[Markup]:
        texts = [
            Markup('<text class="value" x="2" y="{:.1f}">{}</text>').format(
                TOP_PX + self._y(tick.at, plot) - 3, tick.label
            )
            for tick in self.values
        ]
        for tick in self.times:
            share = self._x(tick.at) / WIDTH
            anchor = "start" if share < 0.03 else "end" if share > 0.97 else "middle"  # noqa: PLR2004
            texts.append(
                Markup('<text class="time" x="{:.2f}%" y="{}" text-anchor="{}">{}</text>').format(
                    100 * share, self.height - 5, anchor, tick.label
                )
            )
        return texts

    def _line_path(self, points: Sequence[Point], plot: int) -> str:
        parts, pen_down = list[str](), False
        for at, value in points:
            if value is None or not isfinite(value) or not self.begin <= at <= self.end:
                pen_down = False
                continue
            parts.append(f"{'L' if pen_down else 'M'}{self._x(at):.1f} {self._y(value, plot):.1f}")
            pen_down = True
        return "".join(parts)

    def _dots(self, points: Sequence[Point], plot: int) -> str:
        """The values without a neighbour, of which a line shows nothing."""
        shown = [value is not None and self.begin <= at <= self.end for at, value in points]
        near = [False, *shown, False]
        return "".join(
            f"M{self._x(at):.1f} {self._y(value, plot):.1f}h.1"
            for place, (at, value) in enumerate(points, 1)
            if near[place] and value is not None and not near[place - 1] and not near[place + 1]
        )

    def _area_path(self, line: Line, plot: int) -> str:
        known = [
            (at, value)
            for at, value in line.points
            if value is not None and self.begin <= at <= self.end
        ]
        return self._closed([(at, self.bottom, value) for at, value in known], plot)

    def _band_path(self, band: Band, plot: int) -> str:
        return self._closed([each for each in band.points if each[0] <= self.end], plot)

    def _closed(self, points: Sequence[tuple[float, float, float]], plot: int) -> str:
        if not points:
            return ""
        upper = [f"{self._x(at):.1f} {self._y(high, plot):.1f}" for at, _, high in points]
        lower = [f"{self._x(at):.1f} {self._y(low, plot):.1f}" for at, low, _ in reversed(points)]
        return f"M{'L'.join([*upper, *lower])}Z"

    def _readings(self) -> str:
        """What the pointer reads, for `app.js`."""
        lines = [
            {
                "name": line.name,
                "style": line.style,
                "points": [
                    [round(at - self.begin, 1), round(value * self.scale, 2)]
                    for at, value in line.points
                    if value is not None and isfinite(value) and self.begin <= at <= self.end
                ],
            }
            for line in self.lines
        ]
        span = self.end - self.begin
        return json.dumps({"span": span, "unit": self.unit, "lines": lines}, separators=(",", ":"))


class Axis(Struct, frozen=True):
    """An axis from 0 to `top`, with lines every `step`."""

    top: float
    step: float

    def ticks(self, label: Callable[[float], str]) -> list[Tick]:
        """Its lines above 0, with their labels."""
        places = [self.step * number for number in range(1, round(self.top / self.step) + 1)]
        return [Tick(at, label(at)) for at in places]


def axis_to(highest: float, least: float) -> Axis:
    """An axis to a round number above the highest value, at least to about `least`."""
    wanted = max(highest * ROOM, least)
    power = 1.0
    while power > wanted:
        power /= 10
    while power * 10 <= wanted:
        power *= 10
    for top, step in NICE.items():
        if power * top >= wanted:
            return Axis(power * top, power * step)
    return Axis(10 * power, 5 * power)
