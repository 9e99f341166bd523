"""Every documented combination of compose files is one that Compose accepts."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[3]
BLOCK: Final = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
OURS: Final = ("LMAAS_", "POSTGRES_", "COMPOSE_", "DATABASE_URL", "PUBLISH", "MODEL")
RESETS: Final = (2, 24)  # the first version that knows `!reset`


def compose_command() -> list[str] | None:
    """Compose as it is typed here; None where there is none."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                return command
    return None


COMPOSE: Final = compose_command()
pytestmark = pytest.mark.skipif(COMPOSE is None, reason="needs Docker's Compose")


def clean(given: Mapping[str, str]) -> dict[str, str]:
    """This environment and no setting of the machine's."""
    return {n: v for n, v in os.environ.items() if not n.startswith(OURS)} | {**given}


def compose(line: str, given: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command that ends in `up`, with `config` in its place."""
    assert COMPOSE is not None
    with NamedTemporaryFile() as empty:  # in place of a .env, which is the developer's own
        command = shlex.join([*COMPOSE, "--env-file", empty.name])
        return subprocess.run(
            ["bash", "-c", re.sub(r" up$", " config", line.replace("docker compose", command))],
            cwd=ROOT,
            env=clean(given),
            capture_output=True,
            text=True,
            check=False,
        )


def configured(line: str, **given: str) -> dict[str, Any]:
    """The services that a command that ends in `up` would start."""
    done = compose(line, given)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    wanted = set(re.findall(r"--profile (\S+)", line))
    return {  # Compose 1 also shows those whose profile is not active
        name: service
        for name, service in services.items()
        if not service.get("profiles") or wanted & set(service["profiles"])
    }


def documented(page: str, language: str, containing: str) -> str:
    """The block of a page that contains a text."""
    text = (ROOT / "docs" / page).read_text()
    blocks = [body for kind, body in BLOCK.findall(text) if kind == language]
    [found] = [body for body in blocks if containing in body]
    return str(found)


def in_front_of_a_server() -> tuple[str, list[str]]:
    """The line that sets the variables of docs/upstream.md, and the commands after it."""
    first, *lines = documented("upstream.md", "console", "COMPOSE_FILE=").splitlines()
    return first, [line for line in lines if "docker compose" in line]


def test_alone_it_starts_our_engine() -> None:
    services = configured("docker compose up")
    assert {"postgres", "engine", "gateway"} <= services.keys()


def test_engine_is_given_a_gpu() -> None:
    for line, given in (
        ("docker compose --file compose.yaml --file compose.gpu.yaml up", {}),
        ("docker compose up", {"COMPOSE_FILE": "compose.yaml:compose.gpu.yaml"}),
    ):
        engine = configured(line, **given)["engine"]
        assert "nvidia" in str(engine["deploy"])
        assert engine["environment"]["LMAAS_ENGINE_DEVICE"] == "cuda"


def test_documented_commands_start_no_engine_of_ours() -> None:
    setting, commands = in_front_of_a_server()
    assert len(commands) > 2
    for command in commands:
        services = configured(f"{setting}; {command}")
        assert "engine" not in services, command
        assert services["gateway"]["environment"]["LMAAS_UPSTREAM"].startswith("http://")
        assert ("vllm" in services) == ("--profile vllm" in command), command


def test_a_server_of_this_machine_is_reached_by_name() -> None:
    setting, commands = in_front_of_a_server()
    [command] = [each for each in commands if "host.docker.internal" in each]
    gateway = configured(f"{setting}; {command}")["gateway"]
    assert "host.docker.internal" in str(gateway["extra_hosts"])
    assert gateway["environment"]["LMAAS_UPSTREAM"] == "http://host.docker.internal:8001"


def test_missing_model_is_named() -> None:
    given = {"COMPOSE_FILE": "compose.yaml:compose.upstream.yaml"}
    refused = compose("docker compose up", given)
    assert refused.returncode != 0
    assert "MODEL" in refused.stderr


def test_own_postgres_replaces_ours(tmp_path: Path) -> None:
    assert COMPOSE is not None
    version = subprocess.run([*COMPOSE, "version"], capture_output=True, text=True, check=True)
    found = re.search(r"(\d+)\.(\d+)", version.stdout)
    if found is None or (int(found[1]), int(found[2])) < RESETS:
        pytest.skip("needs Compose 2.24")
    override = tmp_path / "compose.override.yaml"
    override.write_text(documented("deployment.md", "yaml", "postgres: !reset"))
    services = configured(f"docker compose --file compose.yaml --file {override} up")
    assert "postgres" not in services
    assert "postgres" not in services["gateway"]["depends_on"]
