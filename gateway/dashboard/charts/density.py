"""Predicted against actual lengths: how many requests fell where, on logarithmic axes."""

from collections.abc import Sequence
from math import sqrt
from typing import Final

from markupsafe import Markup
from msgspec import Struct

from gateway.prediction.lifecycle.served_quality import BINS_PER_OCTAVE, DensityCell

SIDE: Final = 320  # pixels of the drawing's height
LABEL_PX: Final = 20
LEAST_OCTAVES: Final = 4
FAINTEST: Final = 0.12


class DensityChart(Struct, frozen=True):
    """The cells of a density."""

    cells: Sequence[DensityCell]

    def __html__(self) -> str:
        """The chart as SVG: predicted to the right, actual upwards."""
        highest = max((max(cell.predicted, cell.actual) for cell in self.cells), default=0) + 1
        bins = max(highest, LEAST_OCTAVES * BINS_PER_OCTAVE)
        most = max((cell.rows for cell in self.cells), default=1)
        plot = SIDE - LABEL_PX
        parts = [
            Markup(
                '<svg class="chart density" width="100%" height="{}" role="img" aria-label="{}">'
            ).format(SIDE, self._summary()),
            Markup(
                '<svg width="100%" height="{0}" viewBox="0 0 {1} {1}" preserveAspectRatio="none">'
            ).format(plot, bins),
            *(
                Markup(
                    '<rect class="cell" x="{}" y="{}" width="1" height="1" fill-opacity="{:.2f}">'
                    "<title>{} requests: predicted {}, came {} tokens</title></rect>"
                ).format(
                    cell.predicted,
                    bins - 1 - cell.actual,
                    FAINTEST + (1 - FAINTEST) * sqrt(cell.rows / most),
                    cell.rows,
                    _range(cell.predicted),
                    _range(cell.actual),
                )
                for cell in self.cells
            ),
            Markup('<path class="diagonal" d="M0 {0}L{0} 0"/></svg>').format(bins),
            *self._labels(bins, plot),
            Markup("</svg>"),
        ]
        return Markup("").join(parts)

    def _labels(self, bins: int, plot: int) -> list[Markup]:
        step = 1 if bins <= 8 * BINS_PER_OCTAVE else 2
        marks = []
        for octave in range(0, bins // BINS_PER_OCTAVE + 1, step):
            share, tokens = octave * BINS_PER_OCTAVE / bins, 2**octave
            anchor = "start" if not octave else "end" if share > 0.97 else "middle"  # noqa: PLR2004
            marks.append(
                Markup('<text class="time" x="{:.2f}%" y="{}" text-anchor="{}">{:,}</text>').format(
                    100 * share, SIDE - 5, anchor, tokens
                )
            )
            if octave:
                y = plot * (1 - share)
                marks.append(
                    Markup('<text class="value" x="3" y="{:.1f}">{:,}</text>').format(
                        max(y - 3, 11), tokens
                    )
                )
        return marks

    def _summary(self) -> str:
        total = sum(cell.rows for cell in self.cells)
        near = sum(c.rows for c in self.cells if abs(c.predicted - c.actual) <= BINS_PER_OCTAVE)
        if not total:
            return "Predicted against actual lengths: none yet"
        return (
            f"Predicted against actual lengths of {total:,} requests; "
            f"{100 * near / total:.0f} % came within a factor of 2 of their prediction"
        )


def _range(bin_: int) -> str:
    low, high = 2 ** (bin_ / BINS_PER_OCTAVE), 2 ** ((bin_ + 1) / BINS_PER_OCTAVE)
    return f"{round(low)} – {max(round(high) - 1, round(low))}"


def within_factor_two(cells: Sequence[DensityCell]) -> float | None:
    """The share of lengths within about a factor of 2 of their median; None without any."""
    total = sum(cell.rows for cell in cells)
    near = sum(c.rows for c in cells if abs(c.predicted - c.actual) <= BINS_PER_OCTAVE)
    return near / total if total else None
