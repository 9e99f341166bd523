"""A predicted length as a bar from its 0.1 to its 0.9 quantile, on an axis that rows share."""

from math import log1p

from markupsafe import Markup
from msgspec import Struct


class LengthScale(Struct, frozen=True):
    """A logarithmic axis from 0 to `top` tokens."""

    top: float

    def place(self, tokens: float) -> float:
        """Where a length is, in per cent of the width."""
        return 100 * log1p(max(min(tokens, self.top), 0.0)) / log1p(max(self.top, 1.0))


class LengthBar(Struct, frozen=True):
    """The band, its median, and the tokens generated so far, if it runs."""

    scale: LengthScale
    low: float
    median: float
    high: float
    actual: float | None = None

    def __html__(self) -> str:
        """The bar as SVG."""
        place = self.scale.place
        begin, end = place(self.low), place(self.high)
        parts = [
            Markup('<svg class="length" width="100%" height="14" aria-hidden="true">'),
            Markup('<line class="base" x1="0" x2="100%" y1="7" y2="7"/>'),
            Markup(
                '<rect class="range" x="{:.1f}%" width="{:.1f}%" y="3" height="8" rx="2"/>'
            ).format(begin, max(end - begin, 1.0)),
            Markup('<line class="median" x1="{0:.1f}%" x2="{0:.1f}%" y1="1" y2="13"/>').format(
                place(self.median)
            ),
        ]
        if self.actual is not None:
            parts.append(
                Markup('<line class="actual" x1="0" x2="{:.1f}%" y1="7" y2="7"/>').format(
                    place(self.actual)
                )
            )
        return Markup("").join([*parts, Markup("</svg>")])
