"""`make test-upstream`: the gateway in front of vLLM's CPU build and of llama.cpp's server.

Installs both in .bench, runs the checks with SmolLM2, those of two vLLMs behind one gateway too,
and writes the tables of docs/upstream.md. `--only pair` runs the latter alone and writes their
table; `--only vllm` or `--only llama` tries one server and writes nothing. `--model FOLDER` serves
another model.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

import openai

from benchmarks.harness.machine import machine
from benchmarks.harness.upstream_servers import Server, llama, vllm
from engine.checkpoints.resolve import resolve
from tests.upstream.checks import CHECKS, PATIENCE_S, At, Check, Setting, outcome
from tests.upstream.front import KEY, gateway
from tests.upstream.pair import Pair
from tests.upstream.pair_checks import PAIR_CHECKS
from tests.written_tables import write_table

ROOT: Final = Path(__file__).parents[2]
DOCUMENT: Final = ROOT / "docs/upstream.md"
START: Final = "<!-- written by `make test-upstream`: from here -->"
START_PAIR: Final = "<!-- written by `make test-upstream`, of two servers: from here -->"
SLOTS: Final = 8
PAIR_KV_GIB: Final = 1  # of each of two vLLMs
PAIR: Final = "pair"
TITLES: Final = {"vllm": "vLLM", "llama": "llama.cpp's server", PAIR: "two vLLMs, one gateway"}
RUNNING: Final = {"vllm": "vllm:num_requests_running", "llama": "llamacpp:requests_processing"}

Outcomes: TypeAlias = dict[str, tuple[bool, str]]


def a_vllm(model: Path, log: Path) -> Server:
    """VLLM."""
    return vllm(model, log, sequences=SLOTS)


def a_llama(model: Path, log: Path) -> Server:
    """llama.cpp's server."""
    return llama(model, log, slots=SLOTS)


SERVERS: Final[dict[str, Callable[[Path, Path], Server]]] = {"vllm": a_vllm, "llama": a_llama}


async def checked(checks: Mapping[str, Check[At]], at: At) -> Outcomes:
    """The outcome of each check, in order."""
    found = {}
    async with at.client:
        for name, check in checks.items():
            found[name] = await outcome(check, at)
            print(f"{at.server.name}: {name}: {found[name][1]}", flush=True)
    return found


def one(name: str, model: Path, folder: Path) -> Outcomes:
    """The outcome of each check with one server; the last check kills it."""
    server = SERVERS[name](model, folder / f"{name}.log")
    with started([server]), gateway([server], model, folder / name) as url:
        return asyncio.run(checked(CHECKS, Setting(server, url, client(url), SLOTS, RUNNING[name])))


def pair(model: Path, folder: Path) -> Outcomes:
    """The outcome of each check with two vLLMs, each on a core of its own if there are two."""
    cores = sorted(os.sched_getaffinity(0))
    servers = [
        vllm(model, folder / f"{number}.log", sequences=SLOTS, core=core, kv_gib=PAIR_KV_GIB)
        for number, core in enumerate((cores[-1], cores[0]))
    ]
    with started(servers), gateway(servers, model, folder / PAIR) as url:
        at = Pair(servers, url, client(url), SLOTS, RUNNING["vllm"], model)
        return asyncio.run(checked(PAIR_CHECKS, at))


@contextmanager
def started(servers: Iterable[Server]) -> Iterator[None]:
    """These servers, which answer; they are killed at the end."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
            server.start()
        for server in servers:
            server.wait()
        yield


def client(url: str) -> openai.AsyncOpenAI:
    """OpenAI's client of a gateway."""
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE_S)


def table(results: Mapping[str, Outcomes]) -> str:
    """A row for each check, with a column for each server."""
    titles = " | ".join(TITLES[name] for name in results)
    lines = [f"| | {titles} |", "|---|" + "---|" * len(results)]
    for check in next(iter(results.values())):
        cells = " | ".join(found[check][1].replace("|", r"\|") for found in results.values())
        lines.append(f"| {check} | {cells} |")
    today = datetime.now(UTC).date().isoformat()
    return "\n".join([f"{today}, {machine()}, one thread for each server.", "", *lines])


def main() -> None:
    """Run the checks, and write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=[*SERVERS, PAIR])
    parser.add_argument("--model")
    arguments = parser.parse_args()
    model = Path(resolve(arguments.model or "smollm2", ROOT / ".lmaas", print).location)
    wanted = [arguments.only] if arguments.only else [*SERVERS, PAIR]
    with tempfile.TemporaryDirectory(prefix="lmaas-upstream-") as temporary:
        folder = Path(temporary)
        results = {name: one(name, model, folder) for name in SERVERS if name in wanted}
        if PAIR in wanted:
            results[PAIR] = pair(model, folder)
            write_table(DOCUMENT, START_PAIR, table({PAIR: results[PAIR]}))
    if not arguments.only:
        write_table(DOCUMENT, START, table({name: results[name] for name in SERVERS}))
    if not all(passed for found in results.values() for passed, _ in found.values()):
        raise SystemExit("some checks failed")


if __name__ == "__main__":
    main()
