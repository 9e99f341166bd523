"""`deploy/kubernetes`: its objects fit Kubernetes' schemas, and agree with each other."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml

from engine.settings import Settings as EngineSettings
from gateway.settings import Settings

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "kubernetes"
VARIANTS = ("base", "gpu", "upstream")
VERSIONS = ("1.29", "1.34")  # of Kubernetes: unhealthyPodEvictionPolicy needs 1.27
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")


def objects(text: str) -> Iterator[dict[str, Any]]:
    yield from filter(None, yaml.safe_load_all(text))


@pytest.fixture(scope="module")
def unit() -> dict[str, Any]:
    [found] = objects((FOLDER / "base" / "unit.yaml").read_text())
    return found


def containers(unit: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in unit["spec"]["template"]["spec"]["containers"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_objects_fit_the_schemas(file: Path, version: str) -> None:
    for each in objects(file.read_text()):
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_file_is_a_resource_of_its_folder(variant: str) -> None:
    [listed] = objects((FOLDER / variant / "kustomization.yaml").read_text())
    here = {path.name for path in (FOLDER / variant).iterdir()} - {"kustomization.yaml"}
    assert here == {name for name in listed["resources"] if not name.startswith("../")}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("variant", VARIANTS)
def test_built_variants_fit_the_schemas(variant: str) -> None:
    command = ["kubectl", "kustomize", str(FOLDER / variant)]
    built = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for each in objects(built):
        kubernetes_validate.validate(each, VERSIONS[-1], strict=True)


def test_settings_are_known(unit: dict[str, Any]) -> None:
    [listed] = objects((FOLDER / "base" / "kustomization.yaml").read_text())
    names = {line.partition("=")[0] for line in listed["configMapGenerator"][0]["literals"]}
    for container in containers(unit).values():
        names |= {each["name"] for each in container["env"]}
    known = {
        field.encode_name
        for settings in (Settings, EngineSettings)
        for field in msgspec.structs.fields(settings)
    }
    assert names <= known


def test_gateway_is_given_time_to_stop(unit: dict[str, Any]) -> None:
    [listed] = objects((FOLDER / "base" / "kustomization.yaml").read_text())
    given = dict(line.split("=") for line in listed["configMapGenerator"][0]["literals"])
    needed_s = float(given["LMAAS_STOP_DELAY_S"]) + float(given["LMAAS_DRAIN_S"])
    assert unit["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > needed_s
    assert float(given["LMAAS_STOP_DELAY_S"]) >= 5  # until no balancer sends requests here


def test_every_probe_is_answered(unit: dict[str, Any]) -> None:
    gateway, engine = (containers(unit)[name] for name in ("gateway", "engine"))
    paths = {gateway[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")}
    assert paths == {"/health/live"}
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert engine["startupProbe"]["exec"]["command"][1] == "/usr/local/lib/lmaas/health.py"
    assert (ROOT / "deploy" / "health.py").exists()


def test_gateway_and_engine_share_the_socket_alone(unit: dict[str, Any]) -> None:
    def mounted(name: str) -> dict[str, str]:
        mounts = containers(unit)[name]["volumeMounts"]
        return {each["name"]: each["mountPath"] for each in mounts}

    gateway, engine = mounted("gateway"), mounted("engine")
    assert gateway["socket"] == engine["socket"] == "/run/lmaas"
    assert "data" not in engine
    secrets = [each for each in containers(unit)["engine"]["envFrom"] if "secretRef" in each]
    assert secrets == []


def test_containers_have_no_privileges(unit: dict[str, Any]) -> None:
    [job] = objects((FOLDER / "base" / "migrate.yaml").read_text())
    for each in (unit, job):
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_selectors_find_the_units(unit: dict[str, Any]) -> None:
    labels = unit["spec"]["template"]["metadata"]["labels"]
    assert unit["spec"]["selector"]["matchLabels"] == labels
    [budget] = objects((FOLDER / "base" / "disruption-budget.yaml").read_text())
    assert budget["spec"]["selector"]["matchLabels"] == labels
    services = list(objects((FOLDER / "base" / "service.yaml").read_text()))
    assert [each["spec"]["selector"] for each in services] == [labels, labels]
    assert unit["spec"]["serviceName"] in [each["metadata"]["name"] for each in services]
