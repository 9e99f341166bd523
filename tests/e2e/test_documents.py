"""Runs the documents' shell and Python blocks against a gateway started as in the README."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from checks.blocks import Block, blocks, commands, missing
from engine.demo.jobs import JOBS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
]
START = "make run"  # the README's command; the fixture keeps it running during the tests
START_S = 120.0
STOP_S = 60.0
COMMAND_S = 180.0
READY = re.compile(r"ready on (http://\S+)")
DEFAULT_URL = "http://127.0.0.1:8000"
NOT_RUN = {
    "README.md": ["it is the test suite that runs this"],
    "benchmarks/README.md": ["each line takes from two minutes to an hour"],
    "docs/deployment.md": [
        *["needs Docker"] * 6,
        "needs a cluster",
        "needs root and systemd",
        "needs Docker",
    ],
    "docs/models.md": ["fetches 93 MB"],
    "docs/replay.md": ["the trace is not part of the repository"] * 2,
    "docs/scale.md": ["needs two GPUs"],
    "docs/upstream.md": ["needs Docker and a GPU", "needs two vLLMs"],
    "docs/waits.md": ["needs the id of a request that waits"],
}
# By part of a command: the placeholder in later commands, and the pattern of its value in the
# command's output.
GIVES = {
    "admin keys create": ("sk-lmaas-…", r"secret +(\S+)"),
    "/v1/chat/completions": ("chatcmpl-…", r'"id":"(chatcmpl-\w+)"'),
}
# The programs in the clone's `.venv/bin`.
PYTHON = f"""#!/bin/sh
exec {sys.executable} "$@"
"""
LMAAS = f"""#!/bin/sh
exec {sys.executable} -m gateway "$@"
"""


class Clone:
    """A folder like a fresh clone after installation, with a running gateway."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: dict[str, str] = {}
        self.environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith("LMAAS_")},
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "100",
            "LMAAS_MODEL": "demo",  # no test fetches a model: this one stands in for it
            "LMAAS_MODEL_NAME": "smollm2",
            "LMAAS_EMBEDDER": "off",  # the packaged one takes seconds to load
        }
        # A `make` around the tests would make that of the clone report the directories it is in.
        for name in ("DATABASE_URL", "MAKELEVEL", "MAKEFLAGS", "MFLAGS"):
            self.environment.pop(name, None)
        self._state = folder.parent / "variables.sh"
        self._state.touch()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            (folder / name).symlink_to(ROOT / name)
        binaries = folder / ".venv" / "bin"
        binaries.mkdir(parents=True)
        for name, script in (("python", PYTHON), ("lmaas", LMAAS)):
            (binaries / name).write_text(script)
            (binaries / name).chmod(0o755)
        (folder / ".venv" / "installed").touch()
        write_examples(folder)

    def start(self) -> None:
        """Start the gateway by the README's command; read address and API key from its output."""
        self._log = self.folder.parent / "gateway.log"
        with self._log.open("wb") as log:
            self.gateway = subprocess.Popen(
                START.split(),
                cwd=self.folder,
                env={**self.environment, "LMAAS_PORT": "0"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + START_S
        while not (ready := READY.search(self.said())) or "curl" not in self.said():
            assert self.gateway.poll() is None, self.said()
            assert time.monotonic() < deadline_s, self.said()
            time.sleep(0.05)
        self.values[DEFAULT_URL] = ready[1]
        self.values["sk-lmaas-…"] = re.findall(r"Bearer (sk-lmaas-\S+)\"", self.said())[0]

    def said(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        """Send Ctrl-C to the whole process group, as a terminal does."""
        os.killpg(self.gateway.pid, signal.SIGINT)
        self.gateway.wait(STOP_S)
        assert self.said().rstrip().endswith("stopped"), self.said()

    def run(self, block: Block) -> None:
        """Run a block: its commands must succeed and print what the document shows."""
        if block.language == "python":
            program = self.folder / "block.py"
            program.write_text(self._filled(block.text))
            self._shell(block, ".venv/bin/python block.py")
            return
        for command in commands(block.text):
            script = self._filled(command.script)
            output = self.said() if script == START else self._shell(block, script)
            assert missing(command.shown, output) == [], f"{block.place}: {script}\n{output}"
            for part, (name, pattern) in GIVES.items():
                if part in script:
                    found = re.search(pattern, output)
                    assert found, f"{block.place}: {script}\n{output}"
                    self.values[name] = found[1]

    def _filled(self, text: str) -> str:
        """A text with placeholders replaced by their values."""
        for name in sorted(self.values, key=len, reverse=True):
            text = text.replace(name, self.values[name])
        return text

    def _shell(self, block: Block, script: str) -> str:
        """The output of a command. Variables that it sets stay set for the next one."""
        lines = ("set -aeu -o pipefail", f". {self._state}", script, f"export -p > {self._state}")
        process = subprocess.run(
            ["bash", "-c", "\n".join(lines)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert process.returncode == 0, f"{block.place}: {script}\n{process.stdout}"
        return process.stdout


def write_examples(folder: Path) -> None:
    """Write the files that the documents' commands read."""
    rng = Random(1)
    rows = [(n * 0.5, rng.randint(10, 200), rng.randint(5, 300), "acme") for n in range(200)]
    lines = ["arrival_s,prompt_tokens,generation_tokens,tenant"]
    lines += [",".join(map(str, row)) for row in rows]
    (folder / "trace.csv").write_text("\n".join(lines) + "\n")
    for name, size in (("train", 25), ("test", 10)):
        (folder / "texts" / name).mkdir(parents=True)
        texts = [example(job, rng) for job in JOBS for _ in range(size)]
        write_lines(folder / "texts" / name / "demo.jsonl", texts)
    logs = [{**example(job, rng), "tokens": rng.randint(5, 90)} for job in JOBS for _ in range(3)]
    write_lines(
        folder / "logs.jsonl", [{k: v for k, v in x.items() if k != "output"} for x in logs]
    )


def example(job: Any, rng: Random) -> dict[str, Any]:
    drawn = job.draw(rng)
    return {
        "app": drawn.job,
        "instruction": drawn.instruction,
        "input": drawn.question,
        "output": drawn.answer,
    }


def write_lines(path: Path, items: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


def runnable(document: str) -> list[Block]:
    return [block for block in blocks(ROOT, document) if block.not_run is None]


@pytest.fixture(scope="module")
def clone() -> Iterator[Clone]:
    """A clone in which README's blocks have run; its path is short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="lmaas-docs-"))
    (root / "clone").mkdir()
    clone = Clone(root / "clone")
    clone.start()
    try:
        for block in runnable("README.md"):
            clone.run(block)
        yield clone
    finally:
        clone.stop()
        shutil.rmtree(root, ignore_errors=True)


def test_readme_starts_the_gateway_and_trains_the_predictor(clone: Clone) -> None:
    ran = "\n".join(block.text for block in runnable("README.md"))
    for command in (START, "/v1/chat/completions", "admin keys create", "lmaas demo"):
        assert command in ran
    assert (clone.folder / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "document", [name for name in DOCUMENTS if name != "README.md" and runnable(name)]
)
def test_blocks_of_the_document_run(clone: Clone, document: str) -> None:
    values = dict(clone.values)
    try:
        for block in runnable(document):
            clone.run(block)
    finally:
        clone.values = values  # a document may revoke its keys


def test_blocks_that_do_not_run_are_known_with_their_reasons() -> None:
    found = {name: [b.not_run for b in blocks(ROOT, name) if b.not_run] for name in DOCUMENTS}
    assert {name: reasons for name, reasons in found.items() if reasons} == NOT_RUN
