"""vLLM's CPU build and llama.cpp's server, started as their users do, on cores of their own."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import psutil

from benchmarks.e4 import llama_cpp
from benchmarks.engine.installation import vllm_python

HOST: Final = "127.0.0.1"
READY_S: Final = 1_800.0  # on a machine that does other work, too
RESET_S: Final = 60.0
CONTEXT_TOKENS: Final = 1024
STEP_TOKENS: Final = 2048  # of vLLM, at most: its own default


class Server:
    """A server in a process group of its own, which can be killed and started again.

    All its threads run on one `core`, if one is given.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[object]],
        log: Path,
        core: int | None = None,
        **environment: str,
    ) -> None:
        self.name = name
        self._core = core
        with socket.socket() as listener:
            listener.bind((HOST, 0))
            self.port: int = listener.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"
        self._command = [str(word) for word in command(self.port)]
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it answers later."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        if self._core is not None:
            psutil.Process(self._process.pid).cpu_affinity([self._core])

    def wait(self) -> None:
        """Wait until it answers. RuntimeError if it does not."""
        end_s = time.monotonic() + READY_S
        while time.monotonic() < end_s and self._process and self._process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health").is_success:
                    return
            time.sleep(0.2)
        raise RuntimeError(f"{self.name} did not start; see {self._log}")

    def kill(self) -> None:
        """Kill it with all its processes."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def metric(self, name: str) -> float:
        """The value of a series of its metrics."""
        text = httpx.get(f"{self.url}/metrics").text
        found = re.search(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def forget_prefixes(self) -> None:
        """Empty vLLM's cache of prefixes, once nothing reads them. RuntimeError if it does not."""
        end_s = time.monotonic() + RESET_S
        while time.monotonic() < end_s:
            answer = httpx.post(f"{self.url}/reset_prefix_cache", timeout=RESET_S)
            if answer.raise_for_status().json()["success"]:
                return
            time.sleep(0.2)
        raise RuntimeError(f"{self.name} does not empty its cache of prefixes")


def vllm(
    model: Path, log: Path, *, sequences: int, core: int | None = None, kv_gib: int = 2
) -> Server:
    """vLLM, with one thread, for this number of sequences at once and KV memory of this size."""
    python = vllm_python()

    def command(port: int) -> list[object]:
        return [
            python, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
            "--served-model-name", "smollm2", "--host", HOST, "--port", port,
            "--max-num-seqs", sequences, "--max-model-len", CONTEXT_TOKENS,
            "--enforce-eager", "--scheduling-policy", "priority",
            # Its CPU build ends at a seeded request whose prompt is computed in parts.
            "--no-enable-chunked-prefill", "--max-num-batched-tokens", STEP_TOKENS,
        ]  # fmt: skip

    environment = {
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
        "VLLM_CPU_OMP_THREADS_BIND": str(max(os.sched_getaffinity(0)) if core is None else core),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # to empty the cache of prefixes
    }
    return Server("vLLM", command, log, core, **environment)


def llama(model: Path, log: Path, *, slots: int) -> Server:
    """llama.cpp's server with this number of slots."""
    binary, weights = llama_cpp.server(), llama_cpp.gguf_file(model, "bf16")

    def command(port: int) -> list[object]:
        return [
            binary, "--model", weights, "--host", HOST, "--port", port, "--parallel", slots,
            "--ctx-size", slots * CONTEXT_TOKENS, "--threads", 1, "--threads-batch", 1,
            "--metrics", "--no-kv-unified", "--no-webui",
        ]  # fmt: skip

    return Server("llama.cpp", command, log)
