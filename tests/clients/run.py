"""`make test-clients`: what other people's clients can do, written into docs/clients.md.

Each client of clients.toml gets an environment of its own in .bench/clients, at pinned versions.
Its script calls a gateway that serves SmolLM2, and prints a line for each feature that it tried.
Needs a package index, and Node with npm for two of the clients. `--only NAME` tries one and writes
nothing; `--model FOLDER` serves another model than the fetched `smollm2`. `--upstream URL` puts the
gateway in front of a server that runs it, and writes nothing; `--upstream vllm` starts vLLM's CPU
build for it, and writes the second table.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from benchmarks.harness.paths import log_file
from benchmarks.harness.upstream_servers import vllm
from engine.checkpoints.resolve import resolve
from tests.gateway_process import gateway_process
from tests.written_tables import write_table

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
ENVIRONMENTS: Final = (ROOT / ".bench/clients").resolve()  # their files have this path in them
DOCUMENT: Final = ROOT / "docs/clients.md"
START: Final = "<!-- written by `make test-clients`: from here -->"
START_BEHIND: Final = "<!-- written by `make test-clients A='--upstream vllm'`: from here -->"
KEY: Final = "sk-lmaas-tests-of-the-clients"
VLLM: Final = "vllm"  # in place of an address: it is started
SEQUENCES: Final = 8  # that vLLM runs at once
SCRIPT_S: Final = 900.0
# The second is of what a server behind the gateway cannot do.
REFUSED: Final = re.compile(
    r"[^'\"]*(?:not supported by this gateway|the model runs on [^'\"]*, which cannot )[^'\"]*"
)
FEATURES: Final = (
    "chat",
    "stream",
    "several answers",
    "log probabilities",
    "JSON schema",
    "tool call",
    "tool loop",
    "streamed tool call",
    "batch job",
    "load test",
)


@dataclass
class Client:
    """A client of clients.toml, and what came of the features that its script tried."""

    name: str
    title: str
    script: str
    python: list[str] = field(default_factory=list)
    node: list[str] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The version of the client itself."""
        first = (self.python or self.node)[0]
        return re.split(r"==|(?<=.)@", first)[-1]

    @property
    def folder(self) -> Path:
        """The folder of its environment, another one for other versions."""
        wanted = json.dumps([self.python, self.node, sys.version_info[:2]])
        return ENVIRONMENTS / f"{self.name}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"

    def install(self) -> None:
        """Make the environment, unless it is there."""
        if (self.folder / "complete").is_file():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        print(f"{self.name}: installing {' '.join(self.python or self.node)}", flush=True)
        if self.python:
            venv.create(self.folder, with_pip=True)
            pip = [str(self.folder / "bin/python"), "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, "--disable-pip-version-check", *self.python], check=True)
        else:
            self.folder.mkdir(parents=True)
            npm = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
            subprocess.run([*npm, "--prefix", str(self.folder), *self.node], check=True)
        (self.folder / "complete").touch()

    def run(self, environment: Mapping[str, str]) -> None:
        """Run the script, and keep what it prints."""
        if self.python:
            command = [str(self.folder / "bin/python"), str(HERE / "python" / self.script)]
        else:
            scripts = shutil.copytree(HERE / "node", self.folder / "scripts", dirs_exist_ok=True)
            command = ["node", str(scripts / self.script)]
        log = self.folder / "log"
        with log.open("w") as errors:
            done = subprocess.run(
                command,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=errors,
                timeout=SCRIPT_S,
                check=False,
            )
        for line in done.stdout.decode().splitlines():
            if line.startswith('{"feature":'):  # some clients print, too
                result = json.loads(line)
                self.results[result.pop("feature")] = result
        if done.returncode or not self.results:
            raise SystemExit(f"{self.name}: its script ended with {done.returncode}; see {log}")


def clients(only: str | None) -> list[Client]:
    """The clients of clients.toml, or one of them."""
    listed = tomllib.loads((HERE / "clients.toml").read_text(encoding="utf-8"))
    if only is not None and only not in listed:
        raise SystemExit(f"--only is {only!r}; the clients are {', '.join(listed)}")
    return [Client(name, **each) for name, each in listed.items() if only in (None, name)]


class Upstream(NamedTuple):
    """A server behind the gateway: its address, and what it is."""

    url: str
    name: str


@contextmanager
def server(named: str | None, model: str) -> Iterator[Upstream | None]:
    """The server of an address, or a vLLM that serves the model of a folder; None for none."""
    if named != VLLM:
        yield None if named is None else Upstream(named, named)
        return
    started = vllm(Path(model), log_file("clients-vllm"), sequences=SEQUENCES)
    try:
        started.start()
        started.wait()
        version = httpx.get(f"{started.url}/version").raise_for_status().json()["version"]
        yield Upstream(started.url, f"vLLM {version}, CPU build, one thread")
    finally:
        started.kill()


@contextmanager
def gateway(model: str, upstream: Upstream | None) -> Iterator[dict[str, str]]:
    """A gateway that serves the model of a folder, on a server if there is one.

    Its address and key, as the environment of the scripts.
    """
    url = upstream.url if upstream else ""
    settings = {"LMAAS_API_KEY": KEY, "LMAAS_MODEL": model, "LMAAS_UPSTREAM": url}
    with (
        tempfile.TemporaryDirectory(prefix="lmaas-clients-") as folder,
        gateway_process(Path(folder), settings) as address,
    ):
        url = f"{address}/v1"
        authorization = {"Authorization": f"Bearer {KEY}"}
        models = httpx.get(f"{url}/models", headers=authorization).json()
        yield {
            "LMAAS_URL": url,
            "LMAAS_KEY": KEY,
            "LMAAS_SERVED_MODEL": models["data"][0]["id"],
            "LMAAS_TOKENIZER": model,
        }


def cell(result: dict[str, Any] | None, notes: list[str]) -> str:
    """A cell of the table; reasons go to the notes below it."""
    if result is None:
        return ""
    if result["works"]:
        return "works"
    refused = REFUSED.search(result["reason"])
    reason = (refused[0] if refused else result["reason"]).strip().replace("\n", " ")[:300]
    if reason not in notes:
        notes.append(reason)
    return f"{'refused' if refused else '**fails**'} ({notes.index(reason) + 1})"


def table(tried: list[Client], served: str) -> str:
    """What works with what is served, as Markdown; an empty cell was not tried."""
    notes: list[str] = []
    lines = [f"| client | version | {' | '.join(FEATURES)} |", "|---" * (len(FEATURES) + 2) + "|"]
    for client in tried:
        cells = [cell(client.results.get(name), notes) for name in FEATURES]
        lines.append(f"| {client.title} | {client.version} | {' | '.join(cells)} |")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    stamp = f"{served}, {datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.decode().strip()}"
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([f"With {stamp}:", "", *lines, *([""] if numbered else []), *numbered])


def main() -> None:
    """Try the clients, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one client of clients.toml; the table is not written")
    parser.add_argument("--model", default="smollm2", help="as LMAAS_MODEL")
    parser.add_argument("--upstream", help=f"as LMAAS_UPSTREAM, or {VLLM}: it is started")
    options = parser.parse_args()
    model = resolve(options.model, ROOT / ".lmaas", print).location
    tried = clients(options.only)
    for client in tried:
        client.install()
    with (
        server(options.upstream, model) as upstream,
        gateway(model, upstream) as environment,
    ):
        for client in tried:
            client.run(environment)
            print(f"{client.name}: {json.dumps(client.results)}", flush=True)
        served = environment["LMAAS_SERVED_MODEL"]
    written = table(tried, f"{served} on {upstream.name}" if upstream else served)
    print(written)
    if options.only is None and options.upstream in (None, VLLM):
        write_table(DOCUMENT, START_BEHIND if upstream else START, written)
    if any("**fails**" in line for line in written.splitlines()):
        raise SystemExit("a client fails; see its log in .bench/clients")


if __name__ == "__main__":
    main()
