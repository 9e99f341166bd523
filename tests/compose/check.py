"""`make test-compose`: the stack comes up, answers, survives `kill -9`, stops with nothing lost.

Needs Docker with Compose (2, or 1.29), and nothing of this project installed. Takes from the
environment:

PYTHON_IMAGE, POSTGRES_IMAGE   base images; otherwise the public ones, or, where no registry is
                               reached, ones made here of Debian's packages (root and debootstrap)
WHEELS                         a folder with every package as a wheel; otherwise the build asks its
                               index, or, where no registry is reached, this machine's pip fills one
DEBIAN_MIRROR                  where debootstrap and nothing else gets its packages
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
    Failed,
    base_images,
    docker_daemon,
    packages,
    run,
    say,
    succeeds,
    wait_for,
)

PROJECT = "lmaas-test"
IMAGE = f"{PROJECT}:cpu"
GATEWAY_PORT = 18_000
USER = "10001"
START_S = 300.0
ASK_S = 120.0  # a killed engine loads its model first

INSTRUCTION = "Spell out every word."
QUESTION = "brave queen"
ANSWER = "brave: b r a v e; queen: q u e e n"

# Settings that name a place inside the container, which the image knows.
PLACES = {"LMAAS_HOST", "LMAAS_PORT", "LMAAS_DATA_DIR"}


class Stack:
    """The project of compose.yaml with settings of its own, whatever .env says."""

    def __init__(self, settings: Mapping[str, str], env_file: Path) -> None:
        env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._command = (
            ("docker", "compose")
            if succeeds("docker", "compose", "version")
            else ("docker-compose",)
        )
        self.first = "version 1" in run(*self._command, "version")
        self._options = ("--project-name", PROJECT, "--env-file", str(env_file))
        ours = ("LMAAS_", "POSTGRES_", "COMPOSE_", "PIP_", "DATABASE_URL")
        self._env = {
            name: value for name, value in os.environ.items() if not name.startswith(ours)
        } | {"COMPOSE_DOCKER_CLI_BUILD": "0"}
        # Compose 1 takes build arguments without a value from the environment alone.
        self._env |= {name: value for name, value in settings.items() if name.startswith("PIP_")}
        self.key = settings.get("LMAAS_API_KEY", "")

    def compose(self, *arguments: str, within_s: float = 3600) -> str:
        """The output of a Compose command."""
        command = (*self._command, *self._options, *arguments)
        return run(*command, env=self._env, within_s=within_s)

    def state(self, service: str) -> dict[str, object]:
        """What Docker knows of a service's container."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        if not container:
            raise Failed(f"{service} has no container")
        found = json.loads(run("docker", "inspect", container))[0]
        return {**found["State"], "restarts": found["RestartCount"]}

    def healthy(self, service: str) -> bool:
        """Whether its health check says so. Failed if the container has ended."""
        state = self.state(service)
        if state["Status"] == "exited":
            raise Failed(f"{service} has ended with {state['ExitCode']}")
        health = state.get("Health")
        return isinstance(health, dict) and health["Status"] == "healthy"

    def up(self) -> None:
        """Start everything and wait until it is well."""
        wait = () if self.first else ("--wait",)
        self.compose("up", "--detach", "--no-build", *wait, within_s=START_S)
        for service in ("postgres", "engine", "gateway"):
            wait_for(f"{service} is healthy", partial(self.healthy, service), START_S)

    def ask(self) -> None:
        """Ask the demo model something that has one right answer."""
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
            with urlopen(request, timeout=ASK_S) as response:
                answer = json.load(response)["choices"][0]["message"]["content"]
        except URLError as error:
            said = error.read().decode() if hasattr(error, "read") else ""
            raise Failed(f"the question failed: {error} {said}") from error
        if answer != ANSWER:
            raise Failed(f"{QUESTION!r} was answered {answer!r}, not {ANSWER!r}")
        say(f"{QUESTION!r} → {answer!r} in {time.monotonic() - sent:.2f} s")

    def rows(self) -> str:
        """The recorded requests: how many, and their reasons to end."""
        query = "SELECT count(*), min(finish_reason), max(finish_reason) FROM requests"
        psql = ("psql", "--username=lmaas", "--dbname=lmaas", "-Atc", query)
        return self.compose("exec", "-T", "postgres", *psql).strip()


def check_file(stack: Stack, bare: Stack) -> None:
    """Secrets are asked for by name, settings reach the gateway, and there is a GPU profile."""
    try:
        bare.compose("config")
    except Failed as failure:
        if "in .env (see .env.example)" not in str(failure):
            raise
    else:
        raise Failed("compose.yaml is content without secrets")
    settings = (ROOT / "docs/configuration.md").read_text().split("`")
    named = {word for word in settings if word.startswith("LMAAS_") and word != "LMAAS_*"}
    text = (ROOT / "compose.yaml").read_text()
    missing = sorted(name for name in named - PLACES if f"{name}:" not in text)
    if missing:
        raise Failed(f"compose.yaml passes on no {', '.join(missing)}")
    if "driver: nvidia" not in stack.compose("--profile", "gpu", "config"):
        raise Failed("the gpu profile reserves no device")
    say("compose.yaml asks for its secrets, passes every setting on, and has a GPU profile")


def check_image(stack: Stack, settings: Mapping[str, str]) -> None:
    """Not root, nothing left of the build or of where the packages came from."""
    look = "id -u; command -v g++ make pip || true; ls -d /root/.cache /build 2>/dev/null"
    found = stack.compose("exec", "-T", "gateway", "sh", "-c", f"{look} || true").split()
    if found != [USER]:
        raise Failed(f"in the gateway's container: {found}, expected user {USER} and no more")
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    history += run("docker", "image", "inspect", IMAGE)
    told = [value for name, value in settings.items() if "PIP_" in name and len(value) > 1]
    if any(value in history for value in told):
        raise Failed("the image tells where its packages came from")
    megabytes = int(run("docker", "image", "inspect", "--format", "{{.Size}}", IMAGE)) // 10**6
    say(f"runs as user {USER}, without what built it; the image has {megabytes} MB")


def check_kernel(stack: Stack) -> None:
    """The engine computes with the kernel that it compiled."""
    look = ("sh", "-c", "ls /var/cache/lmaas/lmaas/kernels")
    kernels = stack.compose("exec", "-T", "engine", *look).split()
    if not any(name.startswith("decode-") for name in kernels):
        raise Failed(f"the engine compiled no kernel: {kernels}")
    say("the engine runs on a kernel of its own")


def check_kill(stack: Stack) -> None:
    """`kill -9` of everything in the engine's container: a pause for the client, not an error."""
    before = stack.state("engine")["restarts"]
    # Not `docker kill`: that counts as stopped by hand, and restarts nothing.
    with suppress(Failed):
        stack.compose("exec", "-T", "engine", "sh", "-c", "kill -9 -1")
    say("engine killed with -9; asking at once")
    stack.ask()
    if stack.state("engine")["restarts"] == before:
        raise Failed("the engine answers, but Docker has not restarted it")
    for service in ("engine", "gateway"):
        wait_for(f"{service} is healthy again", partial(stack.healthy, service), 60)
    say("engine and gateway are healthy again")


def check_stop(stack: Stack) -> None:
    """The gateway ends by itself when told to, and leaves every request in Postgres."""
    stack.compose("stop", "gateway")
    state = stack.state("gateway")
    if state["ExitCode"] != 0:
        raise Failed(f"the gateway ended with {state['ExitCode']}, not 0")
    if stack.rows() != "3|stop|stop":
        raise Failed(f"Postgres has {stack.rows()}, expected 3|stop|stop")
    say("gateway stopped gracefully; all three requests are in Postgres")


def check(stack: Stack, settings: Mapping[str, str]) -> None:
    """Everything, from the build to the stop."""
    say("building the image (some minutes the first time)")
    stack.compose("build", *(("--force-rm",) if stack.first else ()), "engine")
    say("starting postgres, migrate, engine and gateway")
    stack.up()
    say("all are healthy")
    check_image(stack, settings)
    check_kernel(stack)
    stack.ask()
    check_kill(stack)
    stack.ask()
    check_stop(stack)


def main() -> int:
    """The exit code: 0 if all is as it should be."""
    with ExitStack() as parts:
        try:
            parts.enter_context(docker_daemon())
            images, made = base_images()
            found = parts.enter_context(packages(made))
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
            except Failed:
                say(f"the containers' last words:\n{stack.compose('logs', '--tail=60')}")
                raise
        except Failed as failure:
            say(f"FAILED: {failure}")
            return 1
    say("green; images are kept for the next run, everything else is removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
