"""OpenAI's client for Node, unmodified: the example of docs/batch.md, from the file to the answer.

`make install` installs the client where npm is there.
"""

import asyncio
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE_S

DOCUMENT = Path(__file__).parents[3] / "docs" / "batch.md"
EXAMPLE = re.compile(r"^```javascript\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INSTALLED = Path(sys.prefix) / "node" / "node_modules" / "openai"


@pytest.mark.skipif(
    shutil.which("node") is None or not INSTALLED.exists(), reason="Node's client is not installed"
)
async def test_node_client_runs_the_example_of_a_batch(served: Any, tmp_path: Path) -> None:
    found = EXAMPLE.search(DOCUMENT.read_text())
    assert found
    program = found[1]
    _, key = await served.tenant("with Node")
    given = {"http://127.0.0.1:8000": served.url, "sk-lmaas-…": key, "smollm2": "lmaas-demo"}
    for placeholder, value in given.items():
        assert placeholder in program
        program = program.replace(placeholder, value)
    (tmp_path / "node_modules").symlink_to(INSTALLED.parent)
    (tmp_path / "example.mjs").write_text(program)
    process = await asyncio.create_subprocess_exec(
        *("node", "example.mjs"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    status, answers = output.decode().strip().splitlines()
    assert status == "completed { total: 1, completed: 1, failed: 0 }"
    line = json.loads(answers)
    assert line["custom_id"] == "review 1"
    assert line["response"]["body"]["object"] == "chat.completion"
