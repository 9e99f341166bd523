"""dashboard: what viewers of the page cost the gateway, and how soon a first view is there."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from time import monotonic, sleep
from typing import Final

import httpx
import psutil

from benchmarks.harness.report import Report, Row, target
from benchmarks.live.gateway_process import ADMIN_KEY, API_KEY, GatewayProcess

FIGURE: Final = "dashboard"
VIEWERS: Final = 5
ROUNDS: Final = 5
ROUND_S: Final = 20.0
CLIENTS: Final = 12  # that keep requests running
PERIOD_S: Final = 1.5  # between two requests of a client
VIEWS: Final = 20
MOST_SHARE: Final = 0.02  # of a core
MOST_FIRST_S: Final = 1.0
VIEWED: Final = ("/page/now/live", "/page/queue/live")
ASSET: Final = re.compile(r'(?:src|href)="(/page/static/[^"]+)"')
SETTLE_S: Final = 2.0


def run(rounds: int, seconds: float) -> None:
    """Rounds of this many seconds without and with viewers, in turn, while requests run."""
    report = Report(FIGURE, (rounds, seconds) != (ROUNDS, ROUND_S))
    with GatewayProcess(FIGURE, engine_threads=1, embedder="off") as gateway:
        firsts = [_first_view(gateway.url) for _ in range(VIEWS)]
        with _load(gateway.url):
            sleep(SETTLE_S)
            rows = [_round(gateway, number, seconds, report) for number in range(rounds)]
    costs = [row["with viewers"] - row["without"] for row in rows]
    first: Row = {"part": "first view", "seconds, median": median(firsts), "most": max(firsts)}
    report.conclude(
        [*rows, first],
        [
            target(f"core for {VIEWERS} viewers", median(costs), MOST_SHARE, "at most"),
            target("seconds to a first view", max(firsts), MOST_FIRST_S, "at most"),
        ],
    )


def _round(gateway: GatewayProcess, number: int, seconds: float, report: Report) -> Row:
    """The gateway's share of a core without viewers and with them."""
    process = psutil.Process(gateway.process.pid)
    shares = {}
    for name, viewers in (("without", 0), ("with viewers", VIEWERS)):
        with _viewers(gateway.url, viewers):
            sleep(SETTLE_S)
            began_s, before = monotonic(), process.cpu_times()
            sleep(seconds)
            after, passed_s = process.cpu_times(), monotonic() - began_s
        used_s = after.user + after.system - before.user - before.system
        shares[name] = used_s / passed_s
    report.say(f"round {number + 1}: {shares}")
    return {"part": f"round {number + 1}", **shares}


@contextmanager
def _signed_in(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60.0) as client:
        answer = client.post("/page/sign-in", data={"key": ADMIN_KEY})
        assert answer.status_code == httpx.codes.SEE_OTHER, answer.text
        yield client


def _first_view(url: str) -> float:
    """Seconds from the sign-in to the page with all its files."""
    began_s = monotonic()
    with _signed_in(url) as client:
        page = client.get("/page/now")
        for address in ASSET.findall(page.text):
            client.get(address).raise_for_status()
    return monotonic() - began_s


@contextmanager
def _viewers(url: str, count: int) -> Iterator[None]:
    """Viewers that read live views."""
    done = threading.Event()

    def view(number: int) -> None:
        with (
            _signed_in(url) as client,
            client.stream("GET", VIEWED[number % len(VIEWED)]) as stream,
        ):
            for _ in stream.iter_bytes():
                if done.is_set():
                    return

    with ThreadPoolExecutor(max(count, 1)) as pool:
        viewing = [pool.submit(view, number) for number in range(count)]
        try:
            yield
        finally:
            done.set()
    for each in viewing:
        each.result()


@contextmanager
def _load(url: str) -> Iterator[None]:
    """Clients that send a request every `PERIOD_S`, so that the work is the same in each round."""
    done = threading.Event()

    def send(number: int) -> None:
        body = {
            "model": "lmaas-demo",
            "messages": [{"role": "user", "content": "seven red apples and a long letter"}],
            "max_tokens": 200,
            "ignore_eos": True,
        }
        headers = {"authorization": f"Bearer {API_KEY}"}
        with httpx.Client(base_url=url, headers=headers, timeout=120.0) as client:
            next_s = monotonic() + PERIOD_S * number / CLIENTS
            while not done.wait(max(next_s - monotonic(), 0.0)):
                client.post("/v1/chat/completions", json=body).raise_for_status()
                next_s += PERIOD_S

    with ThreadPoolExecutor(CLIENTS) as pool:
        sending = [pool.submit(send, number) for number in range(CLIENTS)]
        try:
            yield
        finally:
            done.set()
    for each in sending:
        each.result()
