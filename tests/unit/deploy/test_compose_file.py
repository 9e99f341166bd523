"""`compose.yaml` starts without a file of settings, and passes every setting on."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from engine.settings import Settings as EngineSettings
from gateway.settings import Settings

ROOT = Path(__file__).parents[3]
# The image sets the first three, compose.yaml the next three; LMAAS_URL is for `lmaas admin` of
# another machine.
FIXED = {
    *("LMAAS_HOST", "LMAAS_PORT", "LMAAS_DATA_DIR"),
    *("LMAAS_ENGINE_SOCKET", "LMAAS_ENGINE_DEVICE", "LMAAS_PUBLIC_URL"),
    "LMAAS_URL",
}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    file: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return dict(file["services"])


def names(settings: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(settings)} - FIXED


def test_every_setting_reaches_the_process_that_reads_it(services: dict[str, Any]) -> None:
    gateway, engine = (services[name]["environment"] for name in ("gateway", "engine"))
    assert names(EngineSettings) - engine.keys() == set()
    assert names(Settings) - gateway.keys() - engine.keys() == set()
    for name, value in {**gateway, **engine}.items():
        if name.startswith("LMAAS_") and name not in FIXED:
            assert value.startswith(f"${{{name}:-"), name


def test_nothing_must_be_set_to_start() -> None:
    for name in ("compose.yaml", "compose.gpu.yaml"):
        assert ":?" not in (ROOT / name).read_text()


def test_gateway_is_published_to_this_machine_alone(services: dict[str, Any]) -> None:
    assert services["gateway"]["ports"] == ["${PUBLISH:-127.0.0.1:8000}:8000"]
    assert [name for name, service in services.items() if "ports" in service] == ["gateway"]


def test_nothing_but_an_added_file_leaves_the_engine_out(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "profiles" in service] == []
    assert "engine" not in services["gateway"]["depends_on"]


def test_our_containers_have_no_privileges(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name != "postgres":
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name


def test_server_in_the_engines_place_is_what_the_gateway_connects_to() -> None:
    file: dict[str, Any] = yaml.safe_load((ROOT / "compose.upstream.yaml").read_text())
    services = file["services"]
    assert services["engine"] == {"profiles": ["engine"]}
    assert services["vllm"]["profiles"] == ["vllm"], "an upstream that runs already needs none"
    assert "--port=8001" in services["vllm"]["command"]
    gateway = services["gateway"]["environment"]
    assert gateway["LMAAS_UPSTREAM"] == "${LMAAS_UPSTREAM:-http://vllm:8001}"
    assert set(gateway) <= names(Settings) | FIXED
