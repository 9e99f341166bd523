"""A comparison with what was replayed, as one object."""

from typing import Final

from msgspec import Struct

from gateway.replay.plan import Comparison, Plan, Row
from gateway.replay.workload.scenario import Scenario

IDLE: Final = "hardly a request waited, so order made no difference: try a higher --load"
IDLE_SHARE: Final = 0.01  # of the mean response, by the 0.99 quantile of waits
OWN: Final = "each policy's own"


class Summary(Struct, frozen=True, kw_only=True):
    """What `lmaas replay --json` writes; numbers that are not known are null.

    `requests` is of one seed. `saturated_rate_s` is what loads are shares of, for all engines.
    """

    source: str
    requests: int
    arrivals: str
    predictions: str
    engine: str
    engines: int
    kv_tokens: int
    admission: str  # the rule, or that each policy has its own
    max_delay_s: float | None
    waiting_weight: float
    preempted_share: float
    seeds: int
    saturated_rate_s: float | None
    rows: list[Row]

    def facts(self) -> list[str]:
        """What was replayed, in words."""
        engines = f"{self.engines} engines" if self.engines > 1 else "1 engine"
        seeds = f"means over {self.seeds} seeds, ± 95 % interval" if self.seeds > 1 else "one seed"
        saturated = (
            f"; load 1 is {self.saturated_rate_s:.3g} requests/s: fcfs, saturated"
            if self.saturated_rate_s is not None
            else ""
        )
        return [
            f"requests: {self.requests:,} {self.source}; arrivals {self.arrivals}{saturated}",
            f"predictions: {self.predictions}",
            f"engine: {engines} of {self.engine}, {self.kv_tokens:,} KV tokens each",
            f"admission: {self.admission}",
            f"figures: {seeds}",
            *([IDLE] if self._idle else []),
        ]

    @property
    def _idle(self) -> bool:
        """Whether hardly anyone waited, whatever the policy and load."""
        return all(
            row.measures["wait_p99_s"].mean < IDLE_SHARE * row.measures["mean_s"].mean
            for row in self.rows
        )


def summarise(source: str, engine: str, plan: Plan, found: Comparison) -> Summary:
    """The comparison as one object; `source` and `engine` are what the user calls them."""
    scenario, shape = plan.scenario, plan.engine.shape
    return Summary(
        source=source,
        requests=scenario.drawn or len(scenario.source),
        arrivals=_arrivals(scenario, found),
        predictions=predictions(scenario),
        engine=engine,
        engines=plan.engines,
        kv_tokens=shape.pages * shape.page_tokens,
        admission=plan.options.admission or OWN,
        max_delay_s=plan.options.max_delay_s,
        waiting_weight=plan.options.waiting_weight,
        preempted_share=plan.options.preempted_share,
        seeds=plan.seeds,
        saturated_rate_s=found.saturated_rate_s,
        rows=found.rows,
    )


def predictions(scenario: Scenario) -> str:
    """What the policies are told of lengths, in words."""
    missing = "" if scenario.source.predicted else ", none are recorded"
    match scenario.predictor:
        case "recorded":
            return "as recorded"
        case "oracle":
            return "the true lengths"
        case "noise":
            return f"noise of Kendall τ {scenario.tau:g}{missing}"
        case "shuffled":
            kind = f"noise of Kendall τ {scenario.tau:g}" if missing else "the recorded"
            return f"{kind}, shuffled among the requests{missing}"


def _arrivals(scenario: Scenario, found: Comparison) -> str:
    rates = list(dict.fromkeys(f"{row.rate_s:.3g}" for row in found.rows))
    kind = "with their own gaps" if scenario.arrivals == "trace" else scenario.arrivals
    return f"{kind}, {', '.join(rates)} a second"
