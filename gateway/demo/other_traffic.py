"""Requests on the server that are not the demo's: they share the engine with those it measures."""

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from gateway.demo.admin import Admin


class Load(Struct, frozen=True):
    """Requests of a gateway: `ended` since its start, and `present`, which wait or run."""

    ended: int
    present: int


def read_load(admin: Admin) -> Load:
    """The load now, by the gateway's own metrics."""
    totals = {"lmaas_requests_total": 0, "lmaas_waiting_requests": 0, "lmaas_running_requests": 0}
    for family in text_string_to_metric_families(admin.fetch("/metrics").decode()):
        for sample in family.samples:
            if sample.name in totals:
                totals[sample.name] += int(sample.value)
    ended, *present = totals.values()
    return Load(ended, sum(present))


def others(before: Load, after: Load, own: int) -> int:
    """Requests that were there at some time in between, without the `own` that came and ended."""
    return max(after.ended + after.present - before.ended - own, 0)
