"""Bars by day: prompt tokens and generated tokens, one on the other."""

from collections.abc import Sequence
from datetime import date
from typing import Final

from markupsafe import Markup
from msgspec import Struct

from gateway.dashboard.charts.time_chart import axis_to
from gateway.dashboard.view.formats import number

HEIGHT: Final = 170
LABEL_PX: Final = 20
TOP_PX: Final = 16
FILLED: Final = 0.72  # of a day's width
MOST_LABELS: Final = 8


class DayTokens(Struct, frozen=True):
    """The tokens of a day."""

    day: date
    prompt: int
    generated: int


class DayBars(Struct, frozen=True):
    """The bars, oldest day first."""

    days: Sequence[DayTokens]

    def __html__(self) -> str:
        """The chart as SVG."""
        most = max((each.prompt + each.generated for each in self.days), default=0)
        axis, plot = axis_to(most, 10.0), HEIGHT - LABEL_PX - TOP_PX
        width, every = 100 / max(len(self.days), 1), -(-len(self.days) // MOST_LABELS)
        parts = [
            Markup(
                '<svg class="chart" width="100%" height="{}" role="img" aria-label="{}">'
            ).format(HEIGHT, "Tokens by day")
        ]
        for tick in axis.ticks(number):
            y = TOP_PX + plot * (1 - tick.at / axis.top)
            parts.append(
                Markup(
                    '<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>'
                    '<text class="value" x="2" y="{1:.1f}">{2}</text>'
                ).format(y, y - 3, tick.label)
            )
        for place, each in enumerate(self.days):
            left, bottom = width * (place + (1 - FILLED) / 2), float(TOP_PX + plot)
            for style, tokens in (("generated", each.generated), ("prompt", each.prompt)):
                height = plot * tokens / axis.top
                bottom -= height
                parts.append(
                    Markup(
                        '<rect class="day {}" x="{:.2f}%" width="{:.2f}%" y="{:.1f}" '
                        'height="{:.1f}"><title>{}: {} {} tokens</title></rect>'
                    ).format(
                        style, left, width * FILLED, bottom, height, each.day, f"{tokens:,}", style
                    )
                )
            if place % every == 0:
                parts.append(
                    Markup(
                        '<text class="time" x="{:.2f}%" y="{}" text-anchor="middle">{}</text>'
                    ).format(width * (place + 0.5), HEIGHT - 5, f"{each.day:%d %b}")
                )
        return Markup("").join([*parts, Markup("</svg>")])
