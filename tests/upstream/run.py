"""`make test-upstream`: the gateway in front of vLLM's CPU build and of llama.cpp's server.

Installs both in .bench, runs the checks with SmolLM2, and writes the table of docs/upstream.md.
`--only vllm` or `--only llama` tries one and writes nothing; `--model FOLDER` serves another model.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import openai

from benchmarks.harness.machine import machine
from benchmarks.harness.upstream_servers import Server, llama, vllm
from engine.checkpoints.resolve import resolve
from tests.upstream.checks import CHECKS, PATIENCE_S, Setting, outcome
from tests.upstream.front import KEY, gateway

ROOT: Final = Path(__file__).parents[2]
DOCUMENT: Final = ROOT / "docs/upstream.md"
START: Final = "<!-- written by `make test-upstream`: from here -->"
END: Final = "<!-- to here -->"
SLOTS: Final = 8
TITLES: Final = {"vllm": "vLLM", "llama": "llama.cpp's server"}


def a_vllm(model: Path, log: Path) -> tuple[Server, str]:
    """vLLM, and its series of what it runs."""
    return vllm(model, log, sequences=SLOTS), "vllm:num_requests_running"


def a_llama(model: Path, log: Path) -> tuple[Server, str]:
    """llama.cpp's server, and its series of what it runs."""
    return llama(model, log, slots=SLOTS), "llamacpp:requests_processing"


SERVERS: Final[dict[str, Callable[[Path, Path], tuple[Server, str]]]] = {
    "vllm": a_vllm,
    "llama": a_llama,
}


async def checked(at: Setting) -> dict[str, tuple[bool, str]]:
    """The outcome of each check, in order: the last one kills the server."""
    found = {}
    async with at.client:
        for name, check in CHECKS.items():
            found[name] = await outcome(check, at)
            print(f"{at.server.name}: {name}: {found[name][1]}", flush=True)
    return found


def tried(name: str, model: Path, folder: Path) -> dict[str, tuple[bool, str]]:
    """The outcome of each check with one server."""
    server, running = SERVERS[name](model, folder / f"{name}.log")
    try:
        server.start()
        server.wait()
        with gateway(server, model, folder / name) as url:
            client = openai.AsyncOpenAI(
                base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE_S
            )
            return asyncio.run(checked(Setting(server, url, client, SLOTS, running)))
    finally:
        server.kill()


def written(results: dict[str, dict[str, tuple[bool, str]]]) -> str:
    """The table, with its machine and date."""
    titles = " | ".join(TITLES[name] for name in results)
    lines = [f"| | {titles} |", "|---|" + "---|" * len(results)]
    for check in CHECKS:
        cells = " | ".join(found[check][1].replace("|", r"\|") for found in results.values())
        lines.append(f"| {check} | {cells} |")
    today = datetime.now(UTC).date().isoformat()
    return "\n".join([f"{today}, {machine()}, one thread for the server.", "", *lines])


def main() -> None:
    """Run the checks, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=list(SERVERS))
    parser.add_argument("--model")
    arguments = parser.parse_args()
    named = arguments.model or "smollm2"
    model = Path(resolve(named, ROOT / ".lmaas", print).location)
    names = [arguments.only] if arguments.only else list(SERVERS)
    with tempfile.TemporaryDirectory(prefix="lmaas-upstream-") as folder:
        results = {name: tried(name, model, Path(folder)) for name in names}
    if not arguments.only:
        page = DOCUMENT.read_text(encoding="utf-8")
        before, rest = page.split(START)
        after = rest.split(END)[1]
        DOCUMENT.write_text(f"{before}{START}\n{written(results)}\n{END}{after}", encoding="utf-8")
    if not all(passed for found in results.values() for passed, _ in found.values()):
        raise SystemExit("some checks failed")


if __name__ == "__main__":
    main()
