"""`make test-compose`: `docker compose up` alone starts a stack that answers and loses nothing.

First without any setting: the secrets are made, the printed `curl` answers, the engine survives
`kill -9`, and a stop loses no request. Then again on the same volumes. Then on new ones with a .env
that sets the secrets and the model.

Needs Docker with Compose (2, or 1.29) and curl; the project need not be installed. Environment
variables:

PYTHON_IMAGE, POSTGRES_IMAGE   base images; default: the public ones or, if no registry can be
                               reached, images built here from Debian's packages (by root, with
                               debootstrap)
WHEELS                         a folder with every package as a wheel; default: the build's package
                               index or, if no registry can be reached, wheels fetched by this
                               machine's pip
DEBIAN_MIRROR                  the mirror that debootstrap, and nothing else, uses
"""

import json
import re
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory

from machine import (
    CheckFailed,
    base_images,
    docker_daemon,
    packages,
    report,
    run,
    wait_for,
)
from stack import PROJECT, Stack

IMAGE = f"{PROJECT}:cpu"
URL = "http://127.0.0.1:18000"
USER = "10001"
ANSWER_TIMEOUT_S = 120.0  # a killed engine loads its model first
DATA = "/var/lib/lmaas/data"
SECRET_FILES = (f"{DATA}/admin_key", f"{DATA}/api_key", "/run/database/password")
SENSIBLE = re.compile(r"\b(plants?|light|sunlight)\b")  # what photosynthesis is about

# The demo model has one right answer to this question.
INSTRUCTION = "Spell out every word."
QUESTION = "brave queen"
ANSWER = "brave: b r a v e; queen: q u e e n"


def ask(curl: str) -> str:
    """The answer to a request, given as a `curl` command."""
    sent = time.monotonic()
    command = (*shlex.split(curl), "--silent", "--show-error", "--fail-with-body")
    body = run(*command, timeout_s=ANSWER_TIMEOUT_S)
    answer = str(json.loads(body)["choices"][0]["message"]["content"])
    report(f"answered in {time.monotonic() - sent:.2f} s: {answer!r}")
    return answer


def ask_sensibly(curl: str) -> None:
    """Send the printed request. CheckFailed if the answer is not about its subject."""
    answer = ask(curl)
    if not SENSIBLE.search(answer):
        raise CheckFailed(f"{curl} was answered {answer!r}")


def printed_request(output: str) -> str:
    """The `curl` command in an output, whose lines may have a prefix."""
    found = re.search(r"curl http.*", output)
    if not found:
        raise CheckFailed(f"no request is printed in\n{output}")
    if f"{URL}/v1/" not in found[0]:
        raise CheckFailed(f"the printed request is not for {URL}: {found[0]}")
    return found[0]


def check_files(stack: Stack) -> None:
    """Compose accepts compose.yaml without a setting, and compose.gpu.yaml on top of it."""
    stack.compose("config")
    files = ("--file", "compose.yaml", "--file", "compose.gpu.yaml")
    with_gpu = stack.compose(*files, "config")
    if "driver: nvidia" not in with_gpu or "LMAAS_ENGINE_DEVICE: cuda" not in with_gpu:
        raise CheckFailed("compose.gpu.yaml reserves no device")
    report("compose.yaml needs no setting, and compose.gpu.yaml reserves a GPU")


def check_image(stack: Stack, environment: Mapping[str, str]) -> None:
    """The image runs without root, and holds neither build tools nor package sources."""
    converters = "/venv/lib/python*/site-packages/gguf /venv/lib/python*/site-packages/accelerate"
    script = f"id -u; command -v g++ make pip; ls -d /root/.cache /build {converters} 2>/dev/null"
    found = stack.execute("gateway", "sh", "-c", f"{script}; true").split()
    if found != [USER]:
        raise CheckFailed(f"in the gateway's container: {found}, expected user {USER} and no more")
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    history += run("docker", "image", "inspect", IMAGE)
    sources = [value for name, value in environment.items() if "PIP_" in name and len(value) > 1]
    if any(value in history for value in sources):
        raise CheckFailed("the image's history shows its package sources")
    megabytes = int(run("docker", "image", "inspect", "--format", "{{.Size}}", IMAGE)) // 10**6
    report(f"runs as user {USER}, without build tools; the image has {megabytes} MB")


def check_secrets(stack: Stack) -> str:
    """Secrets were made, and only their reader can read them; the request that was printed."""
    modes = stack.execute("gateway", "stat", "--format=%a %u", *SECRET_FILES).split("\n")
    if set(filter(None, modes)) != {f"600 {USER}"}:
        raise CheckFailed(f"modes and owners of {SECRET_FILES}: {modes}")
    printed = printed_request(stack.compose("logs", "--no-color", "gateway"))
    if printed_request(stack.execute("gateway", "lmaas", "example")) != printed:
        raise CheckFailed("`lmaas example` prints another request than the first start")
    report("secrets were made, and the gateway printed an example request")
    return printed


def check_kernel(stack: Stack) -> None:
    """The engine uses a kernel that it compiled for this machine."""
    kernels = stack.execute("engine", "sh", "-c", "ls /var/cache/lmaas/lmaas/kernels").split()
    if not any(name.startswith("decode-") for name in kernels):
        raise CheckFailed(f"the engine compiled no kernel: {kernels}")
    report("the engine uses a kernel compiled for this machine")


def check_kill(stack: Stack, curl: str) -> None:
    """After `kill -9` in the engine's container, clients see a pause and no error."""
    before = stack.state("engine")["restarts"]
    # Not `docker kill`: Docker does not restart a container that it was asked to kill.
    with suppress(CheckFailed):
        stack.execute("engine", "sh", "-c", "kill -9 -1")
    report("engine killed with -9; sending a request at once")
    ask_sensibly(curl)
    if stack.state("engine")["restarts"] == before:
        raise CheckFailed("the engine answers, but Docker has not restarted it")
    for service in ("engine", "gateway"):
        wait_for(f"{service} is healthy again", partial(stack.healthy, service), 60)
    report("engine and gateway are healthy again")


def check_stop(stack: Stack) -> None:
    """The gateway exits with 0 when stopped, and every request is in Postgres."""
    stack.compose("stop", "gateway")
    state = stack.state("gateway")
    if state["ExitCode"] != 0:
        raise CheckFailed(f"the gateway ended with {state['ExitCode']}, not 0")
    if stack.recorded_requests() != "3|stop|stop":
        raise CheckFailed(f"Postgres has {stack.recorded_requests()}, expected 3|stop|stop")
    report("gateway stopped gracefully; all three requests are in Postgres")


def check_without_settings(stack: Stack, environment: Mapping[str, str]) -> str:
    """`up` alone: it builds, starts and answers; the request that was printed."""
    report("docker compose up, without any setting (builds first: minutes the first time)")
    stack.up("--build")
    report("all are healthy")
    check_image(stack, environment)
    check_kernel(stack)
    curl = check_secrets(stack)
    ask_sensibly(curl)
    check_kill(stack, curl)
    ask_sensibly(curl)
    check_stop(stack)
    return curl


def check_again(stack: Stack, curl: str) -> None:
    """After `down` and `up`, the keys and the data are the same."""
    stack.compose("down")
    stack.up()
    if printed_request(stack.execute("gateway", "lmaas", "example")) != curl:
        raise CheckFailed("after `down` and `up`, `lmaas example` prints another request")
    if "curl" in stack.compose("logs", "--no-color", "gateway"):
        raise CheckFailed("the second start prints the key again")
    ask_sensibly(curl)
    stack.compose("stop", "gateway")
    if stack.recorded_requests() != "4|stop|stop":
        raise CheckFailed(f"Postgres has {stack.recorded_requests()}, expected 4|stop|stop")
    report("after `down` and `up`: the same key, all four requests")


def check_with_settings(stack: Stack) -> None:
    """On new volumes, .env decides on the secrets and the model."""
    password, admin_key, api_key = f"{token_hex(8)}/@%:", token_hex(16), f"sk-{token_hex(16)}"
    stack.compose("down", "--volumes")
    stack.set(
        POSTGRES_PASSWORD=password,  # nothing needs escaping
        LMAAS_ADMIN_KEY=admin_key,
        LMAAS_API_KEY=api_key,
        LMAAS_MODEL="demo",
    )
    stack.up()
    if stack.execute("postgres", "cat", "/run/database/password").strip() != password:
        raise CheckFailed("Postgres has another password than POSTGRES_PASSWORD")
    logs = stack.compose("logs", "--no-color")
    if any(secret in logs for secret in (password, admin_key, api_key)):
        raise CheckFailed("a secret from .env is in the logs")
    messages = [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": QUESTION},
    ]
    body = json.dumps({"model": "lmaas-demo", "temperature": 0, "messages": messages})
    headers = f"-H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json'"
    if (answer := ask(f"curl {URL}/v1/chat/completions {headers} -d '{body}'")) != ANSWER:
        raise CheckFailed(f"{QUESTION!r} was answered {answer!r}, not {ANSWER!r}")
    admin = ("--header", f"Authorization: Bearer {admin_key}", f"{URL}/admin/tenants")
    run("curl", "--silent", "--show-error", "--fail-with-body", *admin)
    report("with a .env: its secrets and its model")


def check(stack: Stack, environment: Mapping[str, str]) -> None:
    """All checks, from the build to the end. CheckFailed, after the containers' logs."""
    try:
        check_again(stack, check_without_settings(stack, environment))
        check_with_settings(stack)
    except CheckFailed:
        report(f"the containers' logs:\n{stack.compose('logs', '--tail=60')}")
        raise


def main() -> int:
    """The exit status: 0 if all checks pass."""
    with ExitStack() as parts:
        try:
            parts.enter_context(docker_daemon())
            images, built_here = base_images()
            found = parts.enter_context(packages(built_here))
            published = URL.removeprefix("http://")
            environment = {"PUBLISH": published, "CPU_IMAGE": IMAGE, **images, **found}
            folder = parts.enter_context(TemporaryDirectory())
            stack = Stack(environment, Path(folder) / "env")
            report(stack.version)
            check_files(stack)
            down = partial(stack.compose, "down", "--volumes", "--remove-orphans")
            down()  # what an interrupted run left
            parts.callback(down)
            check(stack, environment)
        except CheckFailed as failure:
            report(f"FAILED: {failure}")
            return 1
    report("passed; images are kept for the next run, everything else is removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
