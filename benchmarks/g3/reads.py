"""Calls of the reading routes, in turns, and how long each takes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, TypeAlias
from uuid import UUID

import httpx
import numpy as np

from benchmarks.g3.callers import MODELS, AppKey
from benchmarks.g3.history import DAYS, USERS
from benchmarks.harness.report import Row, Target, target
from gateway.history.listing import Place
from gateway.quantiles import Floats

CALL_TIMEOUT_S: Final = 120.0
MAX_P99_MS: Final = 100.0
LIST: Final = "/admin/requests"
USAGE: Final = "/admin/usage"

Query: TypeAlias = dict[str, str | int]
Route: TypeAlias = tuple[str, Query, str | None]  # path, query, the secret of an API key


def routes(keys: Sequence[AppKey], until: datetime) -> dict[str, Callable[[Random], Route]]:
    """What is called, by its name in the report; each call differs from the last."""
    since = until - timedelta(days=DAYS)
    month, year = (until - timedelta(days=30)).date(), since.date()
    naming = [key for key in keys if key.names_users]

    def listed(**query: Callable[[Random], str | int]) -> Callable[[Random], Route]:
        return lambda random: (LIST, {name: make(random) for name, make in query.items()}, None)

    def any_time(random: Random) -> datetime:
        return since + random.random() * (until - since)

    def key(random: Random) -> AppKey:
        return random.choice(keys)

    def user(random: Random) -> str:
        return f"user-{random.choice(naming).rank}-{random.randrange(USERS)}"

    def place(random: Random) -> str:
        return Place(any_time(random), UUID(int=random.getrandbits(128))).encode()

    def day(random: Random) -> Route:
        start = any_time(random)
        times: Query = {"since": _utc(start), "until": _utc(start + timedelta(days=1))}
        return LIST, times, None

    def summed(groups: str, first: Any) -> Callable[[Random], Route]:
        query: Query = {"since": str(first), "until": str(until.date()), "group_by": groups}
        return lambda _: (USAGE, query, None)

    return {
        "list, first page": listed(),
        "list, 100 requests": listed(limit=lambda _: 100),
        "list, deep page": listed(after=place),
        "list of a day": day,
        "list of a tenant": listed(tenant=lambda random: key(random).tenant),
        "list of a tenant, deep page": listed(
            tenant=lambda random: key(random).tenant, after=place
        ),
        "list of an app": listed(app=lambda random: str(key(random).app_id)),
        "list of an app name of all tenants": listed(app=lambda _: "app 0"),
        "list of a key": listed(key=lambda random: str(key(random).key_id)),
        "list of a user": listed(user=user),
        "list of a model": listed(model=lambda random: random.choice(MODELS)),
        "list of a tier": listed(tier=lambda random: random.choice(["flex", "priority", "batch"])),
        "list of an unknown tier": listed(tier=lambda _: "unknown"),
        "list of errors": listed(outcome=lambda _: "error"),
        "list of errors, deep page": listed(outcome=lambda _: "error", after=place),
        "list of a tenant's errors": listed(
            tenant=lambda random: key(random).tenant, outcome=lambda _: "error"
        ),
        "own list": lambda random: ("/v1/requests", {}, key(random).secret),
        "own list of errors": lambda random: (
            "/v1/requests",
            {"outcome": "error"},
            key(random).secret,
        ),
        "usage of a month by tenant": summed("tenant", month),
        "usage of a month by app": summed("tenant,app", month),
        "usage of a month by key": summed("key", month),
        "usage of a month by day": summed("day", month),
        "usage of a month by model and tier": summed("model,tier", month),
        "usage of a tenant's month by user": lambda random: (
            USAGE,
            {
                "tenant": key(random).tenant,
                "since": str(month),
                "until": str(until.date()),
                "group_by": "user",
            },
            None,
        ),
        "usage of a year by app and day": summed("app,day", year),
        "own usage of a month by day": lambda random: (
            "/v1/usage",
            {"group_by": "day", "since": str(month), "until": str(until.date())},
            key(random).secret,
        ),
    }


def measure(
    url: str, admin_key: str, calls: Mapping[str, Callable[[Random], Route]], rounds: int
) -> dict[str, Floats]:
    """Milliseconds of each call, after one that is not counted. RuntimeError for an error."""
    random = Random(1)
    found: dict[str, list[float]] = {name: [] for name in calls}
    with closing(httpx.Client(base_url=url, timeout=CALL_TIMEOUT_S)) as client:
        for number in range(rounds + 1):
            for name, make in calls.items():
                taken = _call(client, admin_key, make(random))
                if number:
                    found[name].append(taken)
    return {name: np.array(each) for name, each in found.items()}


def row_of(name: str, taken_ms: Floats) -> Row:
    """A call's percentiles."""
    return {
        "part": "reads",
        "call": name,
        "calls": len(taken_ms),
        "p50_ms": float(np.median(taken_ms)),
        "p99_ms": float(np.quantile(taken_ms, 0.99)),
        "max_ms": float(taken_ms.max()),
    }


def targets(rows: Sequence[Row]) -> Iterator[Target]:
    """A bound on the 99th percentile of every call."""
    for row in rows:
        if row["part"] == "reads":
            yield target(f"{row['call']}: p99 ms", row["p99_ms"], MAX_P99_MS, "at most")


def _call(client: httpx.Client, admin_key: str, route: Route) -> float:
    path, query, secret = route
    headers = {"authorization": f"Bearer {secret or admin_key}"}
    started = time.perf_counter()
    answer = client.get(path, params=query, headers=headers)
    taken_ms = 1_000 * (time.perf_counter() - started)
    if answer.status_code != httpx.codes.OK:
        raise RuntimeError(f"{path} {query}: {answer.status_code} {answer.text[:300]}")
    return taken_ms


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
