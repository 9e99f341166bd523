"""step: the share of an engine step spent outside the model."""

from functools import partial
from statistics import median
from typing import Final

from benchmarks.engine.client import EngineProcess, RunTrace
from benchmarks.engine.models import model_folder
from benchmarks.engine.workload import even_requests, warmup_requests
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest
from engine.protocol import Sequence

BATCH: Final = 32
PROMPT: Final = 64
GENERATED: Final = 96
SIZE: Final = "m100"
KV_TOKENS: Final = 16_384
MAX_OUTSIDE_SHARE: Final = 0.1


def run(rounds: int, requests: int, threads: int, size: str) -> None:
    """Decode one batch and read the engine's timings; writes the result after each round."""
    report = Report("step", look=requests != BATCH or size != SIZE)
    task = even_requests(requests, PROMPT, GENERATED)
    batch, warmup = (
        [Sequence(r.id, r.prompt, max_tokens=r.tokens, reserve=r.tokens) for r in some]
        for some in (task, warmup_requests(task))
    )
    found: list[Measured[RunTrace]] = []
    with EngineProcess(
        "step", model_folder(size), engine_threads=threads, kv_tokens=KV_TOKENS, prefix_sharing=0
    ) as engine:
        engine.run(warmup)
        for _ in range(rounds):
            found.append(quietest(partial(engine.run, batch), partial(_report_run, report)))
            report.write(rows_of(found), targets(found))
    report.conclude(rows_of(found), targets(found))


def outside(trace: RunTrace) -> float:
    """Share of the step time spent outside model and sampling."""
    return 1 - trace.counted["forward_s"] / trace.counted["steps_s"]


def between(trace: RunTrace) -> float:
    """Share of the client's wall time in which no step ran."""
    return 1 - trace.counted["steps_s"] / trace.wall_s


def targets(found: list[Measured[RunTrace]]) -> list[Target]:
    """The target for the median share."""
    share = median(outside(measured.outcome) for measured in found)
    return [target(f"share outside the model, batch {BATCH}", share, MAX_OUTSIDE_SHARE, "at most")]


def rows_of(found: list[Measured[RunTrace]]) -> list[Row]:
    """One row for each round."""
    return [_row(number, measured) for number, measured in enumerate(found, 1)]


def _row(number: int, measured: Measured[RunTrace]) -> Row:
    trace = measured.outcome
    return {
        "round": number,
        "outside_model": outside(trace),
        "between_steps": between(trace),
        "step_ms": 1000 * trace.counted["steps_s"] / trace.counted["steps"],
        "tokens_s": trace.generated / trace.wall_s,
        "foreign": measured.load.foreign,
    }


def _report_run(report: Report, measured: Measured[RunTrace]) -> None:
    row = _row(0, measured)
    report.say(
        f"outside the model {row['outside_model']:.1%} of {row['step_ms']:.1f} ms a step, "
        f"between steps {row['between_steps']:.1%}, {row['tokens_s']:,.1f} tok/s, {measured}"
    )
