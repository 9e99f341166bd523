"""S1 live: the gateway with its engine runs every rung, first with a backlog, then at a rate."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np

from benchmarks.harness.cpu_noise import Meter
from benchmarks.harness.report import Row
from benchmarks.harness.retry import Measured, quietest
from benchmarks.live.calibration import calibrated
from benchmarks.live.gateway_process import ADMIN_KEY, GatewayProcess
from benchmarks.live.tenant import Tenant
from benchmarks.own_lengths.lengths_file import read_lengths
from benchmarks.s1.ladder import FIXED, MAGNUS, OURS, RUNGS, UNPREDICTED
from benchmarks.s1.live_learning import known_lengths, learn_known, learn_served
from benchmarks.s1.live_models import (
    LiveModel,
    Question,
    demo_model,
    demo_questions,
    smollm2,
    take,
    text_questions,
)
from benchmarks.s1.live_plots import draw
from benchmarks.s1.live_rows import LADDER_SEED, LiveRun, rows_of
from benchmarks.s1.live_traffic import PlannedQuestion, plan, send
from benchmarks.s1.live_work import read_work
from engine.demo.jobs import JOBS
from gateway.cli.admin.client import AdminClient
from gateway.errors import NotFound
from gateway.evaluation.corpus import read_corpus
from gateway.replay.cost.calibration import CalibratedEngine
from gateway.replay.measure.results import ReplayResults
from gateway.replay.simulator import replay
from gateway.replay.workload.predictions import with_predictions
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options, PolicyName, build_policy

LOADS: Final = (1.1, 0.9)  # of `fixed`'s saturated rate
LOADED_RUNGS: Final[tuple[PolicyName, ...]] = (FIXED, MAGNUS, OURS)  # that run at these
DEMO_ANSWERS: Final = 400  # that the demo model's predictor learns from
QUICK_DEMO_ANSWERS: Final = 200
QUICK_STRIDE: Final = 5  # of the known lengths that a quick look learns from
WARM_UP: Final = 10  # requests
ARRIVALS_SEED: Final = 23
LEARNING_SEED: Final = 31

T = TypeVar("T")
Say = Callable[[str], None]
Learn = Callable[[str, AdminClient, Tenant], str]


def run_live(
    data: Path,
    folder: Path,
    say: Say,
    publish: Callable[[list[Row]], None],
    *,
    quick: bool,
    plots: Path,
) -> list[Row]:
    """Measure both models; `publish` gets the rows measured so far.

    `data` has the texts that SmolLM2, in `folder`, is asked about. NotFound without the model.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; `lmaas models fetch smollm2` makes it")
    rows: list[Row] = []
    for ladder in (_demo(say, quick=quick), _smollm2(data, folder, say, quick=quick)):
        for found in ladder.rows():
            publish([*rows, *found])
        rows += found
    draw(rows, plots)
    return rows


def _demo(say: Say, *, quick: bool) -> "LiveLadder":
    model = demo_model(quick=quick)
    count = QUICK_DEMO_ANSWERS if quick else DEMO_ANSWERS

    def learn(url: str, admin: AdminClient, tenant: Tenant) -> str:
        return learn_served(
            url, model, admin, tenant, take(model, demo_questions(LEARNING_SEED), count)
        )

    return LiveLadder(
        model,
        take(model, demo_questions(LADDER_SEED), model.backlog),
        take(model, demo_questions(ARRIVALS_SEED), model.arrivals),
        [job.name for job in JOBS],
        learn,
        say,
        quick=quick,
    )


def _smollm2(data: Path, folder: Path, say: Say, *, quick: bool) -> "LiveLadder":
    """SmolLM2 answers valid lines; its predictor learns from train lines of known lengths."""
    model = smollm2(folder, quick=quick)
    corpus = read_corpus(data, data)
    known = known_lengths(corpus.train, read_lengths())[:: QUICK_STRIDE if quick else 1]
    questions = take(
        model, text_questions(corpus.test, LADDER_SEED), model.backlog + model.arrivals
    )

    def learn(_url: str, admin: AdminClient, tenant: Tenant) -> str:
        return learn_known(model, admin, tenant, known) if known else "history of the run"

    backlog, arrivals = questions[: model.backlog], questions[model.backlog :]
    apps = {line.app for line in (*corpus.train, *corpus.test)}
    return LiveLadder(model, backlog, arrivals, apps, learn, say, quick=quick)


class LiveLadder:
    """The rungs of one model, one after the other in one gateway."""

    def __init__(
        self,
        model: LiveModel,
        backlog: Sequence[Question],
        arrivals: Sequence[Question],
        apps: Iterable[str],
        learn: Learn,
        say: Say,
        *,
        quick: bool,
    ) -> None:
        self._model = model
        self._apps = apps
        self._backlog = backlog
        self._arrivals = arrivals
        self._learn = learn
        self._say = say
        self._quick = quick

    def rows(self) -> Iterator[list[Row]]:
        """The rows so far, after each run: calibrate, learn, then measure."""
        say, model = self._say, self._model
        say(f"{model.name}: calibrating")
        engine = self._measured(
            lambda: calibrated(model.settings, say, model.calibration_s),
            lambda _: "calibrated",
            Meter,
        )
        runs: list[LiveRun] = []
        with (
            GatewayProcess(f"S1-{model.name}", **model.settings) as gateway,
            closing(AdminClient(gateway.url, ADMIN_KEY)) as admin,
        ):
            tenant = Tenant.create(admin, "S1", self._apps)
            predictor = self._learn(gateway.url, admin, tenant)
            say(f"{model.name}: lengths by {predictor}")
            send(gateway.url, model, tenant.keys, plan(self._backlog[:WARM_UP], LADDER_SEED))
            passes = _Passes(gateway, model, tenant, engine.outcome)
            for rung in RUNGS:
                runs.append(self._run(passes, rung, None, self._backlog, None))
                yield rows_of(model, engine, predictor, runs)
            rate_s = runs[0].requests_s  # `fixed`'s, which is the first rung
            for load in LOADS[:1] if self._quick else LOADS:
                for rung in LOADED_RUNGS:
                    runs.append(self._run(passes, rung, load, self._arrivals, load * rate_s))
                    yield rows_of(model, engine, predictor, runs)

    def _run(
        self,
        passes: "_Passes",
        rung: PolicyName,
        load: float | None,
        questions: Sequence[Question],
        rate_s: float | None,
    ) -> LiveRun:
        planned = plan(questions, LADDER_SEED, rate_s)
        measured = self._measured(lambda: passes.run(rung, load, planned), str, passes.meter)
        return msgspec.structs.replace(measured.outcome, foreign=measured.load.foreign)

    def _measured(
        self, run: Callable[[], T], shown: Callable[[T], str], meter: Callable[[], Meter]
    ) -> Measured[T]:
        """A run that other processes did not disturb, if there is one; a quick look runs once."""

        def report(measured: Measured[T]) -> None:
            self._say(f"{self._model.name}, {shown(measured.outcome)}; {measured}")

        if not self._quick:
            return quietest(run, report, meter)
        started = meter()
        measured = Measured(run(), started.load(), 1)
        report(measured)
        return measured


class _Passes:
    """Runs of a served model, each replayed."""

    def __init__(
        self, gateway: GatewayProcess, model: LiveModel, tenant: Tenant, engine: CalibratedEngine
    ) -> None:
        self._gateway = gateway
        self._model = model
        self._tenant = tenant
        self._engine = engine

    def meter(self) -> Meter:
        """A meter of the processor use of other processes."""
        return self._gateway.meter()

    def run(
        self, rung: PolicyName, load: float | None, planned: Sequence[PlannedQuestion]
    ) -> LiveRun:
        """Send the questions under a rung, read them from history, and replay them."""
        gateway = self._gateway
        gateway.use(rung)
        since, before = datetime.now(UTC), read_work(gateway.url)
        send(gateway.url, self._model, self._tenant.keys, planned)
        served = gateway.served(since, len(planned))
        work = read_work(gateway.url).since(before)
        pace = work.busy_s / work.modelled_s(self._engine.fit.cost)
        workload = served.workload
        if load is None:  # all were sent at once: how long that takes does not matter
            workload = workload.with_arrivals(np.zeros(len(workload)))
        oracle = with_predictions(workload, "oracle", np.random.default_rng(0))
        return LiveRun(
            rung=rung,
            load=load,
            served=served,
            work=work,
            pace=pace,
            replayed=self._replay(rung, workload, pace),
            oracle=None if rung in UNPREDICTED else self._replay(rung, oracle, pace),
        )

    def _replay(self, rung: PolicyName, workload: Workload, pace: float) -> ReplayResults:
        """The same requests on a simulated engine, whose steps take `pace` times their cost."""
        scaled = msgspec.structs.replace(self._engine, cost=self._engine.fit.cost.scaled(pace))
        return replay(workload, build_policy(rung, Options()), scaled, tau_floor=None)
