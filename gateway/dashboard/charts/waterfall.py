"""Where a request's time went: wait, prefill, running, preempted, on one axis."""

from markupsafe import Markup
from msgspec import Struct

from gateway.generation.insight.times import RequestTimes


class Span(Struct, frozen=True):
    """A part of the time; places are in per cent of the whole."""

    name: str
    style: str
    seconds: float
    begin: float
    width: float

    def __html__(self) -> str:
        """The bar as SVG."""
        return Markup(
            '<svg class="span" width="100%" height="14" aria-hidden="true">'
            '<rect class="track" width="100%" height="14" rx="2"/>'
            '<rect class="{}" x="{:.2f}%" width="{:.2f}%" height="14" rx="2"/></svg>'
        ).format(self.style, self.begin, max(self.width, 0.3) if self.seconds else 0)


def spans_of(times: RequestTimes) -> list[Span]:
    """The parts in order. When a preemption began is not recorded: it is drawn last."""
    named = (
        ("Wait", "wait", times.waited_s),
        ("Prefill", "prefill", times.prefill_s),
        ("Running", "run", times.running_s),
        ("Preempted", "preempted", times.preempted_s),
    )
    total, begin, spans = times.total_s or 1.0, 0.0, []
    for name, style, part_s in named:
        width = 100 * part_s / total
        spans.append(Span(name, style, part_s, begin, width))
        begin += width
    return spans
