"""W1 live: requests of three apps on the real gateway and engine, and retries at a full queue."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random
from time import perf_counter
from typing import Any, Final

import httpx
from msgspec import Struct
from msgspec.structs import replace

from benchmarks.live.gateway_process import GatewayProcess
from benchmarks.live.open_loop import TIMEOUT_S, TimedBody
from benchmarks.live.passes import saturated_tokens_s
from benchmarks.live.tenant import Tenant
from benchmarks.live.traffic import PlannedRequest, ask, body_of, end_tokens, plan
from benchmarks.w1.judgement import Judgement, Wait, judge
from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.scheduling.waits.bands import WaitBand

APPS: Final = {"short": 0.3, "middle": 1.0, "long": 2.5}  # lengths over the plan's
MOST_TOKENS: Final = 640
LEARNED: Final = 24  # answers of each app before
AT_ONCE: Final = 400  # to measure the saturated throughput, for about half a minute
REQUESTS: Final = 1_500  # calibration goes by the outcomes of the run itself
RETRIED_REQUESTS: Final = 400
QUICK: Final = 4  # times fewer
LOAD: Final = 1.05
RETRIED_LOAD: Final = 1.3
MIN_REFUSED: Final = 20
QUEUED: Final = 12  # the bound at which clients are refused
SEED: Final = 71
SETTINGS: Final = {"kv_tokens": 1_792, "prefix_sharing": "false", "tau_floor": -1}
BOUNDED: Final = {"max_queued_requests": QUEUED, "max_tenant_queued_requests": QUEUED}


class Retries(Struct, frozen=True):
    """Requests that were refused at first, and those of them that were accepted when due."""

    refused: int
    accepted: int

    @property
    def share(self) -> float | None:
        """The accepted ones; None if fewer than `MIN_REFUSED` were refused, which shows nothing."""
        return self.accepted / self.refused if self.refused >= MIN_REFUSED else None


class LiveWaits(Struct, frozen=True):
    """The judgements, and by how much the explained times miss the whole, relative; the worst."""

    judged: dict[str, Judgement]
    unexplained: float


def saturated_rate_s(name: str) -> float:
    """Requests a second that the engine sustains, on a gateway of its own."""
    with GatewayProcess(name, **SETTINGS) as gateway:
        return _saturated_s(gateway, _taught(gateway))


def measured_waits(name: str, rate_s: float, *, quick: bool) -> LiveWaits:
    """Expected and actual waits; `rate_s` is the saturated rate."""
    with GatewayProcess(name, **SETTINGS) as gateway:
        tenant = _taught(gateway)
        count = REQUESTS // QUICK if quick else REQUESTS
        return asyncio.run(_measure(gateway, _bodies(tenant, count, LOAD * rate_s)))


def measured_retries(name: str, rate_s: float, *, quick: bool) -> Retries:
    """Retries at the time that a refusal gives, while more arrives than the engine sustains."""
    with GatewayProcess(name, **SETTINGS, **BOUNDED) as gateway:
        tenant = _taught(gateway)
        count = RETRIED_REQUESTS // QUICK if quick else RETRIED_REQUESTS
        return asyncio.run(_retry(gateway, _bodies(tenant, count, RETRIED_LOAD * rate_s)))


def _taught(gateway: GatewayProcess) -> Tenant:
    """A tenant whose apps have a history of answers."""
    with gateway.admin() as admin:
        tenant = Tenant.create(admin, "w1", APPS)
    ends = end_tokens(DEMO_FOLDER)
    for begin in range(0, LEARNED, 4):  # a few at once: the queue may be bounded
        bodies = [
            TimedBody(0.0, body_of(_scaled(each, app), ends), tenant.keys[app])
            for number, app in enumerate(APPS)
            for each in plan(LEARNED, SEED - 1 - number)[begin : begin + 4]
        ]
        _checked(gateway, bodies)
    return tenant


def _bodies(tenant: Tenant, count: int, rate_s: float | None) -> list[TimedBody]:
    """Requests of all apps at random; all at once without a rate."""
    ends, rng = end_tokens(DEMO_FOLDER), Random(SEED)
    apps = rng.choices(list(APPS), k=count)
    return [
        TimedBody(each.at_s, body_of(_scaled(each, app), ends), tenant.keys[app])
        for each, app in zip(plan(count, SEED, rate_s), apps, strict=True)
    ]


def _scaled(request: PlannedRequest, app: str) -> PlannedRequest:
    tokens = min(max(round(request.tokens * APPS[app]), 1), MOST_TOKENS)
    return replace(request, tokens=tokens)


def _saturated_s(gateway: GatewayProcess, tenant: Tenant) -> float:
    """Requests a second that the engine sustains."""
    bodies = _bodies(tenant, AT_ONCE, None)
    since = datetime.now(UTC)
    _checked(gateway, bodies)
    tokens: float = sum(each.body["max_tokens"] for each in bodies) / len(bodies)
    return saturated_tokens_s(gateway.served(since, len(bodies))) / tokens


def _checked(gateway: GatewayProcess, bodies: Sequence[TimedBody]) -> None:
    """Send them, and wait for the answers. RuntimeError if one failed."""
    for answer in ask(gateway.url, bodies):
        if answer.error is not None:
            raise RuntimeError(f"a request failed: {answer.error}")


def _client(gateway: GatewayProcess) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT_S, limits=limits)


async def _post(client: httpx.AsyncClient, request: TimedBody) -> httpx.Response:
    headers = {"Authorization": f"Bearer {request.key}"}
    return await client.post("/v1/chat/completions", json=request.body, headers=headers)


async def _measure(gateway: GatewayProcess, bodies: Sequence[TimedBody]) -> LiveWaits:
    async with _client(gateway) as client:
        began_s = perf_counter()

        async def send(request: TimedBody) -> tuple[float, httpx.Response]:
            await asyncio.sleep(began_s + request.at_s - perf_counter())
            sent_s = perf_counter()
            response = (await _post(client, request)).raise_for_status()
            return sent_s - began_s, response

        answers = await asyncio.gather(*map(send, bodies))
        waits, starts_s, unexplained = [], [], [0.0]
        for request, (at_s, response) in zip(bodies, answers, strict=True):
            took_s = float(response.headers["openai-processing-ms"]) / 1000
            times = await _times(client, request.key, response.json()["id"])
            starts_s.append(at_s + times["waited_s"])
            unexplained.append(abs(sum(times.values()) / took_s - 1) if took_s > 1 else 0.0)
            band = response.headers.get("x-lmaas-expected-wait-band-ms")
            if band is not None:
                low, high = (float(each) / 1000 for each in band.split(","))
                middle = float(response.headers["x-lmaas-expected-wait-ms"]) / 1000
                waits.append(Wait(at_s, WaitBand(low, middle, high), times["waited_s"]))
    return LiveWaits(judge(waits, starts_s), max(unexplained))


async def _times(client: httpx.AsyncClient, key: str, name: str) -> dict[str, float]:
    """Where the time of an ended request went, once history has it."""
    headers = {"Authorization": f"Bearer {key}"}
    while True:
        response = await client.get(f"/v1/requests/{name}", headers=headers)
        if response.is_success and response.json()["state"] == "ended":
            found: dict[str, float] = response.json()["times"]
            return found
        await asyncio.sleep(0.1)


async def _retry(gateway: GatewayProcess, bodies: Sequence[TimedBody]) -> Retries:
    async with _client(gateway) as client:
        began_s = perf_counter()

        async def send(request: TimedBody) -> bool | None:
            """Whether the retry was accepted; None without one."""
            await asyncio.sleep(began_s + request.at_s - perf_counter())
            first = await _post(client, request)
            if first.is_success or first.headers.get("x-should-retry") == "false":
                return None
            await asyncio.sleep(float(first.headers["retry-after"]))
            return (await _post(client, request)).is_success

        outcomes: list[Any] = await asyncio.gather(*map(send, bodies))
    retried = [each for each in outcomes if each is not None]
    return Retries(len(retried), sum(retried))
