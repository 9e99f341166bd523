"""The services of compose.yaml, run by Compose as a project of their own."""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from machine import CheckFailed, run, succeeds, wait_for

PROJECT = "lmaas-test"
START_TIMEOUT_S = 600.0
BUILD_TIMEOUT_S = 3600.0
OURS = ("LMAAS_", "POSTGRES_", "COMPOSE_", "PIP_", "DATABASE_URL", "PUBLISH", "MODELS")


class Stack:
    """The services; `environment` is what they need of this machine, `env_file` stands for .env."""

    def __init__(self, environment: Mapping[str, str], env_file: Path) -> None:
        plugin = succeeds("docker", "compose", "version")
        self._command = ("docker", "compose") if plugin else ("docker-compose",)
        self.version = run(*self._command, "version").splitlines()[0]
        self._waits = "version 1" not in self.version
        self._options = ("--project-name", PROJECT, "--env-file", str(env_file))
        self._env_file = env_file
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(OURS)},
            **environment,
        }
        self.set()

    def set(self, **settings: str) -> None:
        """Write these settings and no others to the file that stands for .env."""
        lines = (f"{name}={value}\n" for name, value in settings.items())
        self._env_file.write_text("".join(lines))

    def compose(self, *arguments: str, timeout_s: float = START_TIMEOUT_S) -> str:
        """The output of a Compose command."""
        return run(*self._command, *self._options, *arguments, env=self._env, timeout_s=timeout_s)

    def up(self, *options: str) -> None:
        """Start all services, and wait until they are healthy."""
        wait = ("--wait",) if self._waits else ()
        self.compose("up", "--detach", *wait, *options, timeout_s=BUILD_TIMEOUT_S)
        for service in ("postgres", "engine", "gateway"):
            wait_for(f"{service} is healthy", partial(self.healthy, service), START_TIMEOUT_S)

    def execute(self, service: str, *command: str) -> str:
        """The output of a command in the service's container."""
        return self.compose("exec", "-T", service, *command)

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

    def recorded_requests(self) -> str:
        """Number, least and greatest finish reason of the recorded requests, separated by |."""
        query = "SELECT count(*), min(finish_reason), max(finish_reason) FROM requests"
        psql = ("psql", "--username=lmaas", "--dbname=lmaas", "-Atc", query)
        return self.execute("postgres", *psql).strip()
