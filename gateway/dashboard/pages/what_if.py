"""What if: a window of the gateway's history under other policies, or on other engines."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Struct

from gateway.api.admin.actor import Actor
from gateway.dashboard.access.guard import Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.pages.fields import choice_field, number_field, time_field
from gateway.dashboard.pages.sign_in import MAX_FORM_BYTES
from gateway.dashboard.replays.runs import (
    ONE_QUEUE,
    ReplayOptions,
    ReplayResult,
    ReplayRun,
    ReplayRuns,
    Speeds,
)
from gateway.dashboard.view.formats import minute
from gateway.dashboard.view.templates import fragment, page
from gateway.errors import InvalidRequest
from gateway.generation.service import GenerationService
from gateway.tenancy.scopes import Scope

WINDOWS: Final = {1: "the last hour", 6: "6 hours", 24: "24 hours", 168: "7 days"}  # hours
POLICIES: Final = {
    "lmaas": "the default: shares, then waiting time against cost",
    "fcfs": "first come, first served",
    "sjf": "shortest predicted answer first",
    "hrrn": "highest response ratio next",
    "s3": "memory reserved for the predicted length",
    "oracle-lmaas": "the default, given the true lengths",
}
DEFAULTS: Final = ("lmaas", "fcfs", "oracle-lmaas")
ROUTERS: Final = {
    ONE_QUEUE: "one queue in front of all",
    "round-robin": "a queue each, in turn",
    "least-requests": "a queue each, fewest requests first",
    "least-tokens": "a queue each, fewest tokens first",
    "prefix-affinity": "a queue each, by the prompt's prefix",
}
MAX_ENGINES: Final = 16
MIN_ENGINE_SPEED: Final = 0.01
MAX_SPEED: Final = 10.0  # of arrivals
MAX_WINDOW: Final = timedelta(days=31)


class ResultRow(Struct, frozen=True):
    """A policy's measures on engines; `mean_share` is its mean response relative to the slowest."""

    policy: str
    engines: str
    measures: dict[str, float | None]
    deciles: list[float | None]
    mean_share: float


class RunView(Struct, frozen=True):
    """A run, and its results by policy and engines; `done` is the share that has been simulated."""

    run: ReplayRun
    window: str
    engines: str
    done: float
    rows: list[ResultRow]


class WhatIfController(Controller):
    """Shows replays to those who may see the engine; starts and cancels for those who change it."""

    path = "/page/what-if"
    opt = page_of(Scope.ENGINE)

    @get("/")
    async def show(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        replays: NamedDependency[ReplayRuns],
        service: NamedDependency[GenerationService],
    ) -> Response[str]:
        """The page; it offers the number of engines that serve now."""
        return page(
            "what_if.html",
            viewer,
            session,
            path=self.path,
            windows=WINDOWS,
            policies=POLICIES,
            defaults=DEFAULTS,
            routers=ROUTERS,
            engines=len(service.scheduler.engine),
            most_speed=MAX_SPEED,
            changes=viewer.may(Scope.ENGINE, reads=False),
            **_runs(replays),
        )

    @get("/runs")
    async def show_runs(
        self, viewer: Looking, replays: NamedDependency[ReplayRuns]
    ) -> Response[str]:
        """The newest runs, which the page asks for while one runs."""
        changes = viewer.may(Scope.ENGINE, reads=False)
        return fragment("what_if_runs.html", changes=changes, **_runs(replays))

    @post("/runs", status_code=200, request_max_body_size=MAX_FORM_BYTES)
    async def start(
        self, request: Request[Any, Any, Any], replays: NamedDependency[ReplayRuns], actor: Actor
    ) -> Response[str]:
        """Start a replay with the options of the form."""
        form = await request.form()
        hours = _number(form, "hours", 1, max(WINDOWS))
        since, until = window_of(
            _text(form, "since"), _text(form, "until"), hours, datetime.now(UTC)
        )
        options = ReplayOptions(
            since=since,
            until=until,
            policies=_policies(form.getall("policy", [])),
            engines=engines_of(_text(form, "engines"), neighbours="neighbours" in form),
            router=choice_field("router", _text(form, "router"), ROUTERS),
            speed=_number(form, "speed", 1 / MAX_SPEED, MAX_SPEED),
        )
        replays.start(options, actor)
        return fragment("what_if_runs.html", changes=True, **_runs(replays))

    @post("/runs/{number:int}/cancel", status_code=200)
    async def cancel(
        self, number: FromPath[int], replays: NamedDependency[ReplayRuns]
    ) -> Response[str]:
        """Cancel a replay."""
        replays.cancel(number)
        return fragment("what_if_runs.html", changes=True, **_runs(replays))


def _runs(replays: ReplayRuns) -> dict[str, Any]:
    runs = replays.newest_first()
    return {
        "runs": [_view(run) for run in runs],
        "running": any(run.state == "running" for run in runs),
    }


def _view(run: ReplayRun) -> RunView:
    options = run.options
    window = f"{minute(options.since)} to {minute(options.until)}"
    found = [(result, row) for result in run.results for row in result.summary["rows"]]
    slowest = max((_mean(row["measures"]["mean_s"]) or 0.0 for _, row in found), default=0)
    rows = [_row(result, row, slowest) for result, row in found]
    engines = ", ".join(map(described, options.engines))
    return RunView(run, window, engines, run.finished / run.total, rows)


def _row(result: ReplayResult, row: dict[str, Any], slowest: float) -> ResultRow:
    measures = {name: _mean(value) for name, value in row["measures"].items()}
    share = (measures.get("mean_s") or 0.0) / slowest if slowest else 0.0
    deciles = [_mean(each) for each in row["deciles_s"]]
    return ResultRow(row["policy"], described(result.engines), measures, deciles, share)


def described(engines: Speeds) -> str:
    """The engines in words: their number, and their speeds if they differ from the one that is."""
    if set(engines) == {1.0}:
        return str(len(engines))
    return " + ".join(f"{speed:g} ×" for speed in engines)


def _mean(interval: dict[str, Any]) -> float | None:
    value = interval.get("mean")
    return None if value is None else float(value)


def window_of(since: str, until: str, hours: float, now: datetime) -> tuple[datetime, datetime]:
    """The times between which requests arrived: both given, or the hours before now."""
    if not since and not until:
        return now - timedelta(hours=hours), now
    begin, end = time_field("since", since), time_field("until", until)
    if begin is None or end is None or not timedelta() < end - begin <= MAX_WINDOW:
        raise InvalidRequest(
            f"until: accepted is a time after from, at most {MAX_WINDOW.days} days later",
            param="until",
        )
    return begin, end


def engines_of(given: str, *, neighbours: bool) -> tuple[Speeds, ...]:
    """The engines to replay on: a number of them, or their speeds; with one fewer and one more."""
    parts = given.split(",")
    try:
        speeds = tuple(map(float, parts))
    except ValueError:
        speeds = ()
    if len(speeds) == 1 and 1 < speeds[0] <= MAX_ENGINES and speeds[0].is_integer():
        speeds = (1.0,) * round(speeds[0])
    if not (0 < len(speeds) <= MAX_ENGINES and all(MIN_ENGINE_SPEED <= s <= 1 for s in speeds)):
        raise InvalidRequest(
            f"engines: accepted is a number from 1 to {MAX_ENGINES}, or the speed of each from "
            f"{MIN_ENGINE_SPEED:g} to 1, such as 1,1,0.5",
            param="engines",
        )
    if not neighbours:
        return (speeds,)
    fewer = [speeds[:-1]] if len(speeds) > 1 else []
    more = [(*speeds, 1.0)] if len(speeds) < MAX_ENGINES else []
    return (*fewer, speeds, *more)


def _policies(given: list[Any]) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(str(each) for each in given))
    if not chosen or not set(chosen) <= set(POLICIES):
        raise InvalidRequest(
            f"policy: choose at least one of {', '.join(POLICIES)}", param="policy"
        )
    return chosen


def _number(form: Any, name: str, low: float, high: float) -> float:
    value = number_field(name, _text(form, name), low, high)
    return 1.0 if value is None else value


def _text(form: Any, name: str) -> str:
    return str(form.get(name, "")).strip()
