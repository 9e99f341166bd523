"""guidellm: a short load test, with the served model's tokenizer."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from report import KEY, MODEL, TOKENIZER, URL, feature, run


@feature("load test")
def load() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "benchmarks.json"
        program = Path(sys.executable).with_name("guidellm")
        done = subprocess.run(
            [
                program, "run",
                "--backend",
                f"kind=openai_http,target={URL.removesuffix('/v1')},model={MODEL},api_key={KEY}",
                "--profile", "kind=concurrent,streams=2",
                "--constraint", "kind=max_requests,count=8",
                "--tokenizer", f"kind=hf_auto,model={TOKENIZER}",
                "--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=16",
                "--output", f"kind=json,path={result}",
                "--disable-console",
            ],
            stdout=sys.stderr,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"guidellm ended with {done.returncode}"
        found = json.loads(result.read_text())
        totals = found["benchmarks"][0]["metrics"]["request_totals"]
        assert (totals["successful"], totals["errored"]) == (8, 0), totals


run()
