"""A comparison with a description of its inputs: the JSON of `lmaas replay`."""

from typing import Final

from msgspec import Struct

from gateway.replay.plan import PolicyComparison, PolicyRow, ReplayPlan
from gateway.replay.report.job import JobSummary, summarise_job
from gateway.replay.workload.scenario import Scenario
from gateway.scheduling.lmaas.inner_shares import ShareLevel

IDLE: Final = "almost no request waited, so the order made no difference: try a higher --load"
IDLE_SHARE: Final = 0.01  # below: the 0.99 quantile of waits over the mean response time
OWN: Final = "each policy's own"


class ReplaySummary(Struct, frozen=True, kw_only=True):
    """The output of `lmaas replay --json`; unknown numbers are null.

    `requests` is the number in one seed. `saturated_rate_s` is the rate of load 1, for all engines.
    """

    source: str
    requests: int
    arrivals: str
    predictions: str
    engine: str
    engines: int
    speeds: tuple[float, ...]
    router: str
    kv_tokens: int
    admission: str  # the rule, or `OWN`
    max_delay_s: float | None
    waiting_weight: float
    shares: ShareLevel
    fixed_batch: int
    waste_share: float
    waste_reads: float | None
    seeds: int
    saturated_rate_s: float | None
    rows: list[PolicyRow]
    job: JobSummary | None

    def facts(self) -> list[str]:
        """The inputs of the replay, a line each."""
        engines, routing = "1 engine", ""
        if self.engines > 1:
            engines, routing = f"{self.engines} engines", f", router {self.router}"
        if len(set(self.speeds)) > 1:
            routing = f", speeds {', '.join(f'{speed:g}' for speed in self.speeds)}{routing}"
        seeds = f"means over {self.seeds} seeds, ± 95 % interval" if self.seeds > 1 else "one seed"
        saturated = (
            f"; load 1 is {self.saturated_rate_s:.3g} requests/s: fcfs, saturated"
            if self.saturated_rate_s is not None
            else ""
        )
        return [
            f"requests: {self.requests:,} {self.source}; arrivals {self.arrivals}{saturated}",
            f"predictions: {self.predictions}",
            f"engine: {engines} of {self.engine}, {self.kv_tokens:,} KV tokens each{routing}",
            f"admission: {self.admission}",
            f"figures: {seeds}",
            *([self.job.fact] if self.job else []),
            *([IDLE] if self._idle else []),
        ]

    @property
    def _idle(self) -> bool:
        """Whether almost no request waited, under any policy and load."""
        return all(
            row.measures["wait_p99_s"].mean < IDLE_SHARE * row.measures["mean_s"].mean
            for row in self.rows
        )


def summarise(source: str, engine: str, plan: ReplayPlan, found: PolicyComparison) -> ReplaySummary:
    """The comparison as one object; `source` and `engine` are names for the user."""
    scenario, shape = plan.scenario, plan.engine.shape
    return ReplaySummary(
        source=source,
        requests=scenario.sample_size or len(scenario.source),
        arrivals=_arrivals(scenario, found),
        predictions=predictions(scenario),
        engine=engine,
        engines=len(plan.speeds),
        speeds=tuple(plan.speeds),
        router=plan.router,
        kv_tokens=shape.pages * shape.page_tokens,
        admission=plan.options.admission or OWN,
        max_delay_s=plan.options.max_delay_s,
        waiting_weight=plan.options.waiting_weight,
        shares=plan.options.shares,
        fixed_batch=plan.options.fixed_batch,
        waste_share=plan.options.waste_share,
        waste_reads=plan.options.waste_reads,
        seeds=plan.seeds,
        saturated_rate_s=found.saturated_rate_s,
        rows=found.rows,
        job=summarise_job(plan, found),
    )


def predictions(scenario: Scenario) -> str:
    """The predicted lengths that policies get, in words."""
    missing = "" if scenario.source.has_predictions else ", none are recorded"
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


def _arrivals(scenario: Scenario, found: PolicyComparison) -> str:
    rates = list(dict.fromkeys(f"{row.rate_s:.3g}" for row in found.rows))
    kind = "with their own gaps" if scenario.arrivals == "trace" else scenario.arrivals
    return f"{kind}, {', '.join(rates)} a second"
