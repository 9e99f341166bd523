"""`make test-compose`: the stack comes up, answers, survives `kill -9`, stops with nothing lost.

Needs Docker with Compose (2, or 1.29); the project need not be installed. Environment variables:

PYTHON_IMAGE, POSTGRES_IMAGE   base images; default: the public ones or, if no registry can be
                               reached, images built here from Debian's packages (by root, with
                               debootstrap)
WHEELS                         a folder with every package as a wheel; default: the build's package
                               index or, if no registry can be reached, wheels fetched by this
                               machine's pip
DEBIAN_MIRROR                  the mirror that debootstrap, and nothing else, uses
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import Request, urlopen

from machine import (
    ROOT,
    CheckFailed,
    base_images,
    docker_daemon,
    packages,
    report,
    run,
    succeeds,
    wait_for,
)

PROJECT = "lmaas-test"
IMAGE = f"{PROJECT}:cpu"
GATEWAY_PORT = 18_000
USER = "10001"
START_TIMEOUT_S = 300.0
ANSWER_TIMEOUT_S = 120.0  # a killed engine loads its model first

INSTRUCTION = "Spell out every word."
QUESTION = "brave queen"
ANSWER = "brave: b r a v e; queen: q u e e n"

# Settings of addresses and folders inside the container: the image sets them. LMAAS_URL is for
# `lmaas admin`, which finds the gateway by the data folder there.
CONTAINER_SETTINGS = {"LMAAS_HOST", "LMAAS_PORT", "LMAAS_DATA_DIR", "LMAAS_URL"}


class Stack:
    """The services of compose.yaml, with the given settings instead of those in .env."""

    def __init__(self, settings: Mapping[str, str], env_file: Path) -> None:
        env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._command = (
            ("docker", "compose")
            if succeeds("docker", "compose", "version")
            else ("docker-compose",)
        )
        self.is_compose_1 = "version 1" in run(*self._command, "version")
        self._options = ("--project-name", PROJECT, "--env-file", str(env_file))
        ours = ("LMAAS_", "POSTGRES_", "COMPOSE_", "PIP_", "DATABASE_URL")
        self._env = {
            name: value for name, value in os.environ.items() if not name.startswith(ours)
        } | {"COMPOSE_DOCKER_CLI_BUILD": "0"}
        # Compose 1 reads build arguments without a value from the environment, not from the file.
        self._env |= {name: value for name, value in settings.items() if name.startswith("PIP_")}
        self.key = settings.get("LMAAS_API_KEY", "")

    def compose(self, *arguments: str, timeout_s: float = 3600) -> str:
        """The output of a Compose command."""
        command = (*self._command, *self._options, *arguments)
        return run(*command, env=self._env, timeout_s=timeout_s)

    def state(self, service: str) -> dict[str, object]:
        """The state of a service's container, from `docker inspect`."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        if not container:
            raise CheckFailed(f"{service} has no container")
        found = json.loads(run("docker", "inspect", container))[0]
        return {**found["State"], "restarts": found["RestartCount"]}

    def healthy(self, service: str) -> bool:
        """Whether a service's health check passes. CheckFailed if its container has ended."""
        state = self.state(service)
        if state["Status"] == "exited":
            raise CheckFailed(f"{service} has ended with {state['ExitCode']}")
        health = state.get("Health")
        return isinstance(health, dict) and health["Status"] == "healthy"

    def up(self) -> None:
        """Start all services and wait until they are healthy."""
        wait = () if self.is_compose_1 else ("--wait",)
        self.compose("up", "--detach", "--no-build", *wait, timeout_s=START_TIMEOUT_S)
        for service in ("postgres", "engine", "gateway"):
            wait_for(f"{service} is healthy", partial(self.healthy, service), START_TIMEOUT_S)

    def ask(self) -> None:
        """Send the demo model a question that has one right answer. CheckFailed."""
        sent = time.monotonic()
        body = {
            "model": "lmaas-demo",
            "temperature": 0,
            "messages": [
                {"role": "system", "content": INSTRUCTION},
                {"role": "user", "content": QUESTION},
            ],
        }
        request = Request(
            f"http://127.0.0.1:{GATEWAY_PORT}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        try:
            with urlopen(request, timeout=ANSWER_TIMEOUT_S) as response:
                answer = json.load(response)["choices"][0]["message"]["content"]
        except URLError as error:
            said = error.read().decode() if hasattr(error, "read") else ""
            raise CheckFailed(f"the request failed: {error} {said}") from error
        if answer != ANSWER:
            raise CheckFailed(f"{QUESTION!r} was answered {answer!r}, not {ANSWER!r}")
        report(f"{QUESTION!r} → {answer!r} in {time.monotonic() - sent:.2f} s")

    def recorded_requests(self) -> str:
        """Number, least and greatest finish reason of the recorded requests, separated by |."""
        query = "SELECT count(*), min(finish_reason), max(finish_reason) FROM requests"
        psql = ("psql", "--username=lmaas", "--dbname=lmaas", "-Atc", query)
        return self.compose("exec", "-T", "postgres", *psql).strip()


def check_file(stack: Stack, bare: Stack) -> None:
    """compose.yaml requires its secrets, passes on every setting, and has a GPU profile."""
    try:
        bare.compose("config")
    except CheckFailed as failure:
        if "in .env (see .env.example)" not in str(failure):
            raise
    else:
        raise CheckFailed("compose.yaml does not require its secrets")
    settings = (ROOT / "docs/configuration.md").read_text().split("`")
    named = {word for word in settings if word.startswith("LMAAS_") and word != "LMAAS_*"}
    text = (ROOT / "compose.yaml").read_text()
    missing = sorted(name for name in named - CONTAINER_SETTINGS if f"{name}:" not in text)
    if missing:
        raise CheckFailed(f"compose.yaml does not pass on {', '.join(missing)}")
    if "driver: nvidia" not in stack.compose("--profile", "gpu", "config"):
        raise CheckFailed("the gpu profile reserves no device")
    report("compose.yaml requires its secrets, passes on every setting, and has a GPU profile")


def check_image(stack: Stack, settings: Mapping[str, str]) -> None:
    """The image runs without root, and holds neither build tools nor package sources."""
    script = "id -u; command -v g++ make pip || true; ls -d /root/.cache /build 2>/dev/null"
    found = stack.compose("exec", "-T", "gateway", "sh", "-c", f"{script} || true").split()
    if found != [USER]:
        raise CheckFailed(f"in the gateway's container: {found}, expected user {USER} and no more")
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    history += run("docker", "image", "inspect", IMAGE)
    package_sources = [
        value for name, value in settings.items() if "PIP_" in name and len(value) > 1
    ]
    if any(value in history for value in package_sources):
        raise CheckFailed("the image's history shows its package sources")
    megabytes = int(run("docker", "image", "inspect", "--format", "{{.Size}}", IMAGE)) // 10**6
    report(f"runs as user {USER}, without build tools; the image has {megabytes} MB")


def check_kernel(stack: Stack) -> None:
    """The engine uses a kernel that it compiled for this machine."""
    script = ("sh", "-c", "ls /var/cache/lmaas/lmaas/kernels")
    kernels = stack.compose("exec", "-T", "engine", *script).split()
    if not any(name.startswith("decode-") for name in kernels):
        raise CheckFailed(f"the engine compiled no kernel: {kernels}")
    report("the engine uses a kernel compiled for this machine")


def check_kill(stack: Stack) -> None:
    """After `kill -9` in the engine's container, clients see a pause and no error."""
    before = stack.state("engine")["restarts"]
    # Not `docker kill`: Docker does not restart a container that it was asked to kill.
    with suppress(CheckFailed):
        stack.compose("exec", "-T", "engine", "sh", "-c", "kill -9 -1")
    report("engine killed with -9; sending a request at once")
    stack.ask()
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


def check(stack: Stack, settings: Mapping[str, str]) -> None:
    """All checks, from the build to the stop."""
    report("building the image (some minutes the first time)")
    stack.compose("build", *(("--force-rm",) if stack.is_compose_1 else ()), "engine")
    report("starting postgres, migrate, engine and gateway")
    stack.up()
    report("all are healthy")
    check_image(stack, settings)
    check_kernel(stack)
    stack.ask()
    check_kill(stack)
    stack.ask()
    check_stop(stack)


def main() -> int:
    """The exit status: 0 if all checks pass."""
    with ExitStack() as parts:
        try:
            parts.enter_context(docker_daemon())
            images, built_here = base_images()
            found = parts.enter_context(packages(built_here))
            settings = {
                "COMPOSE_PROFILES": "cpu",
                "POSTGRES_PASSWORD": f"{token_hex(8)}/@%:",  # nothing needs escaping
                "LMAAS_ADMIN_KEY": token_hex(16),
                "LMAAS_API_KEY": f"sk-{token_hex(16)}",
                "PUBLISH": f"127.0.0.1:{GATEWAY_PORT}",
                "CPU_IMAGE": IMAGE,
                **images,
                **found,
            }
            folder = parts.enter_context(TemporaryDirectory())
            stack = Stack(settings, Path(folder) / "env")
            check_file(stack, Stack({"COMPOSE_PROFILES": "cpu"}, Path(folder) / "bare"))
            parts.callback(stack.compose, "down", "--volumes", "--remove-orphans")
            try:
                check(stack, settings)
            except CheckFailed:
                report(f"the containers' logs:\n{stack.compose('logs', '--tail=60')}")
                raise
        except CheckFailed as failure:
            report(f"FAILED: {failure}")
            return 1
    report("passed; images are kept for the next run, everything else is removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
