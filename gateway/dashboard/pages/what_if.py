"""What if: a window of the gateway's history under other policies, or on more engines."""

from typing import Any, Final

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Struct

from gateway.api.admin.actor import Actor
from gateway.dashboard.access.guard import Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.pages.sign_in import MAX_FORM_BYTES
from gateway.dashboard.replays.runs import ReplayOptions, ReplayRun, ReplayRuns
from gateway.dashboard.view.templates import fragment, page
from gateway.errors import InvalidRequest
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
MAX_ENGINES: Final = 16
MAX_SPEED: Final = 10.0


class ResultRow(Struct, frozen=True):
    """A policy's measures; `mean_share` is its mean response time relative to the slowest."""

    policy: str
    measures: dict[str, float | None]
    deciles: list[float | None]
    mean_share: float


class RunView(Struct, frozen=True):
    """A run, and its result by policy."""

    run: ReplayRun
    window: str
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
    ) -> Response[str]:
        """The page."""
        return page(
            "what_if.html",
            viewer,
            session,
            path=self.path,
            windows=WINDOWS,
            policies=POLICIES,
            defaults=DEFAULTS,
            most_engines=MAX_ENGINES,
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
        options = ReplayOptions(
            hours=_number(form, "hours", 1, max(WINDOWS)),
            policies=_policies(form.getall("policy", [])),
            engines=round(_number(form, "engines", 1, MAX_ENGINES)),
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
    hours = run.options.hours
    window = WINDOWS.get(round(hours), f"{hours:g} hours")
    if run.result is None:
        return RunView(run, window, [])
    slowest = max(
        (_mean(row["measures"]["mean_s"]) or 0.0 for row in run.result["rows"]), default=0
    )
    return RunView(run, window, [_row(row, slowest) for row in run.result["rows"]])


def _row(row: dict[str, Any], slowest: float) -> ResultRow:
    measures = {name: _mean(value) for name, value in row["measures"].items()}
    share = (measures.get("mean_s") or 0.0) / slowest if slowest else 0.0
    return ResultRow(row["policy"], measures, [_mean(each) for each in row["deciles_s"]], share)


def _mean(interval: dict[str, Any]) -> float | None:
    value = interval.get("mean")
    return None if value is None else float(value)


def _policies(given: list[Any]) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(str(each) for each in given))
    if not chosen or not set(chosen) <= set(POLICIES):
        raise InvalidRequest(
            f"policy: choose at least one of {', '.join(POLICIES)}", param="policy"
        )
    return chosen


def _number(form: Any, name: str, low: float, high: float) -> float:
    try:
        value = float(str(form.get(name, "")))
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InvalidRequest(f"{name}: accepted is {low:g} to {high:g}", param=name)
    return value
