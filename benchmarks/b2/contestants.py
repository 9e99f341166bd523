"""The three that run the job: our gateway's batch API, our engine alone, and vLLM."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any, Final, Protocol

import httpx
from msgspec import Struct

from benchmarks.engine.client import EngineProcess
from benchmarks.engine.contestants.process import PausableProcess, PipedContestant
from benchmarks.engine.installation import vllm_environment, vllm_python
from benchmarks.engine.models import SHAPES
from benchmarks.engine.workload import Request
from benchmarks.live.gateway_process import API_KEY, GatewayProcess
from engine.protocol import Sequence

KV_TOKENS: Final = 16_384
STEP_TOKENS: Final = 512
VLLM_SEQUENCES: Final = 64  # the best of 64, 128 and 256 in E1
JOB_TIMEOUT_S: Final = 1_800.0
POLL_S: Final = 0.1
COUNTED: Final = ("computed_tokens", "steps", "small_steps")


class EngineWork(Struct, frozen=True):
    """What our engine did: prompt tokens, all tokens, and steps.

    `small_steps` computed less than a quarter of the tokens that a step may have.
    """

    prefilled: float
    computed: float
    steps: float
    small_steps: float


class JobRun(Struct, frozen=True):
    """A run of the job: seconds, generated tokens, and our engine's work."""

    wall_s: float
    generated: int
    work: EngineWork | None = None


class JobContestant(Protocol):
    """A system that runs jobs; uses next to no CPU while paused."""

    def run(self, job: list[Request]) -> JobRun:
        """Run all lines as fast as possible. RuntimeError on failure."""

    def pause(self) -> None:
        """Suspend it."""

    def resume(self) -> None:
        """Undo `pause`."""

    def close(self) -> None:
        """End it."""


class BatchService:
    """Our gateway, through `/v1/files` and `/v1/batches`: from the batch's creation to its end."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self._gateway = GatewayProcess(
            name,
            model=folder,
            engine_threads=threads,
            engine_dtype="float32",
            kv_tokens=KV_TOKENS,
            host_kv_tokens=0,
        ).__enter__()
        self._http = httpx.Client(
            base_url=self._gateway.url,
            headers={"authorization": f"Bearer {API_KEY}"},
            timeout=JOB_TIMEOUT_S,
        )
        self._model = self._get("/v1/models")["data"][0]["id"]

    def run(self, job: list[Request]) -> JobRun:
        """Upload the job, run it and read its answers."""
        lines = "".join(json.dumps(self._line(request)) + "\n" for request in job)
        uploaded = self._post(
            "/v1/files", files={"file": ("job.jsonl", lines)}, data={"purpose": "batch"}
        )
        before = self._gateway.engine_counts()
        start = perf_counter()
        batch = self._post(
            "/v1/batches",
            json={
                "input_file_id": uploaded["id"],
                "endpoint": "/v1/completions",
                "completion_window": "24h",
            },
        )
        batch = self._ended(batch["id"])
        wall_s = perf_counter() - start
        after = self._gateway.engine_counts()
        counted = {name: after[name] - before[name] for name in COUNTED}
        generated = self._generated(batch, job)
        return JobRun(wall_s, generated, engine_work(counted, generated - len(job)))

    def pause(self) -> None:
        """Nothing: it uses next to no CPU without work, and stopped it would lose its engine."""

    def resume(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """End the gateway."""
        self._http.close()
        self._gateway.close()

    def _line(self, request: Request) -> dict[str, Any]:
        return {
            "custom_id": request.id,
            "method": "POST",
            "url": "/v1/completions",
            "body": {
                "model": self._model,
                "prompt": request.prompt,
                "max_tokens": request.tokens,
                "temperature": 0,
            },
        }

    def _ended(self, batch_id: str) -> dict[str, Any]:
        """The batch once it has ended. RuntimeError if that takes too long."""
        end = monotonic() + JOB_TIMEOUT_S
        while monotonic() < end:
            batch = self._get(f"/v1/batches/{batch_id}")
            if batch["status"] in {"completed", "failed", "expired", "cancelled"}:
                return batch
            sleep(POLL_S)
        raise RuntimeError(f"the batch did not end within {JOB_TIMEOUT_S:g} s")

    def _generated(self, batch: dict[str, Any], job: list[Request]) -> int:
        """The tokens of all answers. RuntimeError unless each has its exact length."""
        if batch["status"] != "completed" or not batch["output_file_id"]:
            raise RuntimeError(f"the batch ended as {batch['status']}: {batch.get('errors')}")
        content = self._http.get(f"/v1/files/{batch['output_file_id']}/content").raise_for_status()
        answers = map(json.loads, content.text.splitlines())
        found = {
            line["custom_id"]: line["response"]["body"]["usage"]["completion_tokens"]
            for line in answers
        }
        if found != {request.id: request.tokens for request in job}:
            raise RuntimeError("the answers do not have the lengths asked for")
        return sum(found.values())

    def _get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self._http.get(path).raise_for_status().json()
        return found

    def _post(self, path: str, **content: Any) -> dict[str, Any]:
        made: dict[str, Any] = self._http.post(path, **content).raise_for_status().json()
        return made


class ArrivalOrder(PausableProcess):
    """Our engine alone: lines in order of arrival, prefixes cached by last use."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self._engine = EngineProcess(
            name,
            folder,
            engine_threads=threads,
            engine_dtype="float32",
            kv_tokens=KV_TOKENS,
            host_kv_tokens=0,
        )
        self.pid = self._engine.process.pid
        self._engine.wait_until_ready()

    def run(self, job: list[Request]) -> JobRun:
        """Submit all lines at once. RuntimeError if one fails."""
        trace = self._engine.run(
            [Sequence(line.id, line.prompt, line.tokens, line.tokens) for line in job]
        )
        if trace.failed:
            raise RuntimeError(f"the engine failed {trace.failed} of {len(job)} lines")
        work = engine_work(trace.counted, trace.generated - len(job))
        return JobRun(trace.wall_s, trace.generated, work)

    def close(self) -> None:
        """End the engine."""
        self.resume()
        self._engine.close()


class Vllm(PausableProcess):
    """vLLM's CPU build with automatic prefix caching and the same KV memory."""

    def __init__(self, name: str, folder: Path, size: str, threads: int) -> None:
        command = [str(vllm_python()), "-m", "benchmarks.engine.contestants.vllm_cpu", str(folder)]
        options = {
            "threads": threads,
            "sequences": VLLM_SEQUENCES,
            "compiled": 0,
            "kv-mib": kv_mib(size),
            "caching": 1,
        }
        self._process = PipedContestant(
            name,
            [
                *command,
                *(str(part) for key, value in options.items() for part in (f"--{key}", value)),
            ],
            vllm_environment(threads),
        )
        self.pid = self._process.pid

    def run(self, job: list[Request]) -> JobRun:
        """Answer all lines; vLLM measures the time."""
        answers = self._process.answer(job)
        return JobRun(answers.wall_s, sum(map(len, answers.tokens)))

    def close(self) -> None:
        """End the process."""
        self._process.close()


def engine_work(counted: Mapping[str, float], decoded: int) -> EngineWork:
    """The engine's work, of its counters; `decoded` tokens were fed back."""
    computed = counted["computed_tokens"]
    return EngineWork(computed - decoded, computed, counted["steps"], counted["small_steps"])


def kv_mib(size: str) -> int:
    """The memory of `KV_TOKENS` tokens in float32, in MiB."""
    shape = SHAPES[size]
    return KV_TOKENS * shape.layers * 2 * shape.kv_heads * 64 * 4 >> 20


def starters(size: str, threads: int, folder: Path) -> dict[str, Callable[[], JobContestant]]:
    """How to start each of the three."""
    return {
        "ours": lambda: BatchService(f"B2-{size}-ours", folder, threads),
        "arrival order": lambda: ArrivalOrder(f"B2-{size}-fcfs", folder, threads),
        "vllm": lambda: Vllm(f"B2-{size}-vllm", folder, size, threads),
    }
