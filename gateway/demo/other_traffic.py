"""Counts requests that are not the demo's: they share the engine with those it measures."""

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from gateway.demo.admin import Admin


class RequestCounts(Struct, frozen=True):
    """A gateway's requests: `ended` since its start, and `present`: waiting or running now."""

    ended: int
    present: int


def read_request_counts(admin: Admin) -> RequestCounts:
    """The current counts, from the gateway's metrics."""
    totals = {"lmaas_requests_total": 0, "lmaas_waiting_requests": 0, "lmaas_running_requests": 0}
    for family in text_string_to_metric_families(admin.fetch("/metrics").decode()):
        for sample in family.samples:
            if sample.name in totals:
                totals[sample.name] += int(sample.value)
    ended, *present = totals.values()
    return RequestCounts(ended, sum(present))


def count_other_requests(before: RequestCounts, after: RequestCounts, own: int) -> int:
    """Requests present between two counts, without the demo's `own`, which came and ended then."""
    return max(after.ended + after.present - before.ended - own, 0)
