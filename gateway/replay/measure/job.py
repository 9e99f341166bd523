"""What a batch job does to interactive requests, and how the job fares."""

from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct

from gateway.quantiles import Bools, Floats
from gateway.replay.measure.results import ReplayResults
from gateway.replay.workload.workload import Workload


class InteractiveTimes(Struct, frozen=True, kw_only=True):
    """Time to first token and response time of the interactive requests, in seconds."""

    ttft_p50_s: float
    ttft_p99_s: float
    p50_s: float
    p99_s: float


class JobMeasures(Struct, frozen=True, kw_only=True):
    """Measures of a job's run.

    `makespan_s` is from its start to the end of its last line. `saved_prefill` is the share of its
    prompt tokens that were in KV memory already. Of the `pins`, `pins_lost` were released for lack
    of memory. Preemptions are counts, by lane; `held` is the decoding lines that a step left out,
    per step.
    """

    makespan_s: float
    lines_s: float
    saved_prefill: float
    pins: float
    pins_lost: float
    preemptions_interactive: float
    preemptions_batch: float
    held: float


TIMES: Final = tuple(field.name for field in msgspec.structs.fields(InteractiveTimes))
JOB_MEASURES: Final = tuple(field.name for field in msgspec.structs.fields(JobMeasures))


def interactive_times(workload: Workload, results: ReplayResults) -> InteractiveTimes:
    """The times of the answered interactive requests of a run."""
    answered = ~np.isnan(results.finished_s) & ~workload.batch
    first_s = (results.first_token_s - workload.arrived_s)[answered]
    response_s = (results.finished_s - workload.arrived_s)[answered]
    return InteractiveTimes(
        ttft_p50_s=_quantile(first_s, 0.5),
        ttft_p99_s=_quantile(first_s, 0.99),
        p50_s=_quantile(response_s, 0.5),
        p99_s=_quantile(response_s, 0.99),
    )


def job_measures(workload: Workload, results: ReplayResults) -> JobMeasures:
    """The measures of the job's lines in a run."""
    lines = workload.batch
    began_s = float(workload.arrived_s[lines].min())
    makespan_s = float(np.nanmax(results.finished_s[lines])) - began_s
    prompts = int(workload.prompt_tokens[lines].sum())
    return JobMeasures(
        makespan_s=makespan_s,
        lines_s=float((~np.isnan(results.finished_s[lines])).sum() / makespan_s),
        saved_prefill=float(results.reused_tokens[lines].sum() / prompts),
        pins=results.pins,
        pins_lost=results.pins_lost,
        preemptions_interactive=_sum(results.preemptions, ~lines),
        preemptions_batch=_sum(results.preemptions, lines),
        held=results.held_rows / results.steps,
    )


def _quantile(values: Floats, level: float) -> float:
    return float(np.quantile(values, level)) if values.size else float("nan")


def _sum(values: np.ndarray[Any, Any], chosen: Bools) -> float:
    return float(values[chosen].sum())
