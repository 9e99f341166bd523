"""LiteLLM's proxy in front of the gateway, called by OpenAI's client."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from report import KEY, MODEL, URL

CONFIG = f"""
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: hosted_vllm/{MODEL}
      api_base: {URL}
      api_key: {KEY}
"""
START_S = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG)
        program = Path(sys.executable).with_name("litellm")
        with subprocess.Popen(
            [program, "--config", config, "--host", "127.0.0.1", "--port", str(port)],
            stdout=sys.stderr,
        ) as proxy:
            try:
                address = f"http://127.0.0.1:{port}"
                wait_for(f"{address}/health/liveliness")
                client = Path(__file__).with_name("openai_client.py")
                found = subprocess.run(
                    [sys.executable, client],
                    env=os.environ | {"LMAAS_URL": f"{address}/v1", "LMAAS_KEY": "sk-any"},
                    stdout=subprocess.PIPE,
                    check=True,
                )
                for line in found.stdout.splitlines():
                    if b"batch job" not in line:  # the proxy needs a database
                        print(line.decode(), flush=True)
            finally:
                proxy.terminate()


def wait_for(address: str) -> None:
    for _ in range(START_S):
        try:
            urllib.request.urlopen(address, timeout=1).close()
        except OSError:
            time.sleep(1)
        else:
            return
    raise TimeoutError(f"{address} does not answer")


main()
