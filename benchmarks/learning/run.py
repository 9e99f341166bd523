"""Learning live: the same requests to a gateway that learns and to one that does not.

SmolLM2 answers texts of six apps; in the middle the apps with a tenth of the traffic get nine
tenths. The pass without learning runs under FCFS and gives the response times to compare with.
"""

from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.harness.report import Report
from benchmarks.learning.passes import LearningGateway, Pass, PassName
from benchmarks.learning.plots import draw
from benchmarks.learning.rows import Passes, rows_of, targets
from benchmarks.learning.traffic import plan
from gateway.evaluation.corpus import CorpusLine, read_corpus

REQUESTS: Final = 500
QUICK_REQUESTS: Final = 200  # fewer have too few complete answers to train on
WARM_UP_REQUESTS: Final = 64
LOAD: Final = 1.0  # relative to the saturated throughput
SEED: Final = 18
OFF: Final = PassName("fcfs", learning=False)
ON: Final = PassName("lmaas", learning=True)
MINUTES: Final = 8  # on two idle cores
QUICK_MINUTES: Final = 4


def run(data: Path, model: Path, *, quick: bool) -> None:
    """Serve all requests with learning off, then with learning on."""
    report = Report("learning", look=quick)
    report.say(f"about {QUICK_MINUTES if quick else MINUTES} minutes")
    corpus = read_corpus(data, data)
    lines = [*corpus.train, *corpus.test]
    requests = QUICK_REQUESTS if quick else REQUESTS
    serve = partial(_serve, report, lines, model, requests)
    off, rate_s = serve(OFF, None)
    on, _ = serve(ON, rate_s)
    passes = Passes(off, on)
    rows = rows_of(passes, rate_s)
    draw(passes, report.plots)
    report.conclude(rows, targets(passes))


def _serve(
    report: Report,
    lines: list[CorpusLine],
    model: Path,
    requests: int,
    name: PassName,
    rate_s: float | None,
) -> tuple[Pass, float]:
    """A pass, and its rate: without a given one, LOAD of the rate measured by the warm-up."""
    with LearningGateway(model, name, report.say) as gateway:
        saturated_s = gateway.saturated_rate_s(plan(lines, WARM_UP_REQUESTS, SEED + 2))
        rate_s = rate_s or LOAD * saturated_s
        report.say(f"{name}: saturated at {saturated_s:.2f} requests/s; {rate_s:.2f} are sent")
        served = gateway.serve(plan(lines, requests, SEED, rate_s))
    report.say(
        f"{name}: mean response {served.response_s.mean():.2f} s, "
        f"{served.sources.count('model')} requests predicted by a version, "
        f"foreign {served.load.foreign:.2f} cores"
    )
    return served, rate_s
