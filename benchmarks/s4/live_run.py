"""S4 live: five tenants with a backlog before the real gateway and engine.

All requests of a phase come at once, with answers of given lengths. The flooding tenant sends ten
times as many. The under-predicted one sends from an app whose answers were a fifth as long before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_columns
from datetime import UTC, datetime
from functools import partial
from typing import Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest
from benchmarks.live.gateway_process import GatewayProcess, ServedRequests
from benchmarks.live.open_loop import TimedBody
from benchmarks.live.tenant import Tenant
from benchmarks.live.traffic import PlannedRequest, ask, body_of, end_tokens, plan
from benchmarks.s4.run import LEAST_THROUGHPUT, MOST_SLOWER
from benchmarks.s4.service import bound, largest_gap
from benchmarks.s4.traffic import EQUAL, FLOOD, FLOODED, LYING, ONE_TENANT, TENANTS, UNDER_PREDICTED
from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.quantiles import Floats

FIGURE: Final = "S4-live"
PHASES: Final = (ONE_TENANT, EQUAL, FLOODED, LYING)
REQUESTS: Final = 60  # of each tenant but the one that floods
QUICK_REQUESTS: Final = 12
LEARNED: Final = 24  # answers of each app before
SEED: Final = 61
KV_TOKENS: Final = 4_096  # for about twenty mean requests
HONEST_APP: Final = "honest"
LYING_APP: Final = "under-predicted"
SETTINGS: Final = {
    "kv_tokens": KV_TOKENS,
    "prefix_sharing": "false",
    "max_queued_requests": 10_000,
    "max_tenant_queued_requests": 10_000,
    "max_queued_tokens": 10_000_000,
    "max_tenant_queued_tokens": 10_000_000,
}


class LivePhase(Struct, frozen=True):
    """What the others got, and the engine did; `gap` is over the VTC bound, None for one tenant."""

    others_s: list[float]
    tokens_s: float
    gap: float | None

    @property
    def p99_s(self) -> float:
        """The others' 0.99 quantile of response times."""
        return float(np.quantile(self.others_s, 0.99))


@dataclass
class LiveTimes:
    """Times of served requests, in seconds from the first arrival."""

    dispatched_s: Floats
    first_token_s: Floats
    finished_s: Floats

    @classmethod
    def of(cls, served: ServedRequests) -> "LiveTimes":
        """From history, whose times count from each arrival."""
        arrived_s = served.workload.arrived_s
        return cls(
            arrived_s + served.queued_s,
            arrived_s + served.first_token_s,
            arrived_s + served.response_s,
        )


def run(*, quick: bool) -> None:
    """Measure all phases; the result is written after each."""
    report = Report(FIGURE, look=quick)
    count = QUICK_REQUESTS if quick else REQUESTS
    measured: dict[str, Measured[LivePhase]] = {}
    with GatewayProcess(FIGURE, **SETTINGS) as gateway:
        with gateway.admin() as admin:
            tenants = [
                Tenant.create(admin, f"tenant {number}", [HONEST_APP, LYING_APP])
                for number in range(TENANTS)
            ]
        _teach(gateway, tenants)
        for name in PHASES:
            measured[name] = quietest(
                partial(_phase, gateway, tenants, name, count),
                partial(_say, report, name),
                gateway.meter,
                0,
            )
            report.write(list(rows_of(measured)), list(targets(measured)))
    report.conclude(list(rows_of(measured)), list(targets(measured)))


def requests_of(name: str, tenants: Sequence[Tenant], count: int) -> list[TimedBody]:
    """The requests of a phase, the first tenant's first; those of the others are the same."""
    ends = end_tokens(DEMO_FOLDER)
    found = []
    for number in range(len(tenants)):
        first = number == 0
        times = FLOOD if first and name == FLOODED else 1
        app = LYING_APP if first and name == LYING else HONEST_APP
        key = tenants[0 if name == ONE_TENANT else number].keys[app]
        planned = plan(times * count, SEED + number)
        found += [TimedBody(0.0, body_of(each, ends), key) for each in planned]
    return found


def rows_of(measured: dict[str, Measured[LivePhase]]) -> Iterable[Row]:
    """A row for each phase."""
    for name, each in measured.items():
        yield {
            "tenants": name,
            "others mean s": float(np.mean(each.outcome.others_s)),
            "others p99 s": each.outcome.p99_s,
            "tokens/s": each.outcome.tokens_s,
            "gap/bound": each.outcome.gap,
            "foreign": each.load.foreign,
        }


def targets(measured: dict[str, Measured[LivePhase]]) -> Iterable[Target]:
    """What others notice, what fairness costs, and the service gap."""
    found = {name: each.outcome for name, each in measured.items()}
    for name in (FLOODED, LYING):
        both = name in found and EQUAL in found
        ratio = found[name].p99_s / found[EQUAL].p99_s if both else None
        yield target(f"{name}: others' p99 over equal", ratio, MOST_SLOWER, "at most")
    both = EQUAL in found and ONE_TENANT in found
    throughput = found[EQUAL].tokens_s / found[ONE_TENANT].tokens_s if both else None
    yield target("tokens/s over those without tenants", throughput, LEAST_THROUGHPUT)
    gaps = [each.gap for each in found.values() if each.gap is not None]
    yield target("service gap over the VTC bound", max(gaps, default=None), 1.0, "at most")


def _teach(gateway: GatewayProcess, tenants: Sequence[Tenant]) -> None:
    """Give each app a history of answers; the first tenant's second app one of short answers."""
    ends = end_tokens(DEMO_FOLDER)
    taught = [(tenant.keys[HONEST_APP], 1.0) for tenant in tenants]
    taught.append((tenants[0].keys[LYING_APP], 1 / UNDER_PREDICTED))
    bodies = [
        TimedBody(0.0, body_of(_shortened(each, times), ends), key)
        for number, (key, times) in enumerate(taught)
        for each in plan(LEARNED, SEED - 1 - number)
    ]
    _answered(gateway, bodies)


def _shortened(request: PlannedRequest, times: float) -> PlannedRequest:
    return replace(request, tokens=max(round(request.tokens * times), 1))


def _phase(gateway: GatewayProcess, tenants: Sequence[Tenant], name: str, count: int) -> LivePhase:
    bodies = requests_of(name, tenants, count)
    since = datetime.now(UTC)
    _answered(gateway, bodies)
    served = gateway.served(since, len(bodies))
    workload, times = served.workload, LiveTimes.of(served)
    # `compared` takes the first tenant of a workload for the one that may do more.
    first = workload.tenants.index("tenant 0")
    whose = np.where(workload.tenant == first, 0, (workload.tenant < first) + workload.tenant)
    workload = with_columns(
        workload, tenant=whose.astype(np.int16), app=np.zeros_like(workload.app)
    )
    others = whose > 0 if name != ONE_TENANT else np.full(len(whose), fill_value=True)
    tokens = workload.prompt_tokens + workload.generation_tokens
    several = name != ONE_TENANT
    return LivePhase(
        others_s=served.response_s[others].tolist(),
        tokens_s=float(tokens.sum() / times.finished_s.max()),
        gap=largest_gap(workload, times) / bound(workload, KV_TOKENS) if several else None,
    )


def _answered(gateway: GatewayProcess, bodies: list[TimedBody]) -> None:
    """Send them, and wait for the answers. RuntimeError if one failed."""
    for answer in ask(gateway.url, bodies):
        if answer.error is not None:
            raise RuntimeError(f"a request failed: {answer.error}")


def _say(report: Report, name: str, measured: Measured[LivePhase]) -> None:
    found = measured.outcome
    gap = "" if found.gap is None else f", gap {found.gap:.2f} of the bound"
    report.say(
        f"{name}: others' p99 {found.p99_s:.1f} s, {found.tokens_s:,.0f} tokens/s{gap}; {measured}"
    )
