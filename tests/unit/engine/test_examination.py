"""What an engine would meet here: settings, model, memory and kernel."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import examination
from engine.attention.native import NativeDecode
from engine.checkpoints.catalogue import DEMO_FOLDER
from engine.examination import Fact


@pytest.fixture(autouse=True)
def _demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMAAS_MODEL", str(DEMO_FOLDER))
    monkeypatch.setenv("LMAAS_ENGINE_SOCKET", "/tmp/none.sock")
    monkeypatch.setenv("LMAAS_ENGINE_DEVICE", "cpu")


def facts() -> dict[str, Fact]:
    return {fact.part: fact for fact in examination.facts()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_shipped_model_could_be_served(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setenv("LMAAS_ENGINE_DTYPE", dtype)
    found = facts()
    assert [(fact.part, fact.status) for fact in found.values()] == [
        ("engine", "ok"), ("memory", "ok"), ("kernel", "ok"),
    ]  # fmt: skip
    size = getattr(torch, dtype).itemsize
    [weights] = DEMO_FOLDER.glob("*.safetensors")
    assert found["memory"].numbers["weights"] == pytest.approx(
        weights.stat().st_size * size / 4, rel=0.05
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("LMAAS_PAGE_TOKENS", "none", "LMAAS_PAGE_TOKENS"), ("LMAAS_MODEL", "/nowhere", "/nowhere")],
)
def test_what_prevents_a_start_is_the_only_fact(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    found = facts()
    assert [(fact.part, fact.status) for fact in found.values()] == [("engine", "failure")]
    assert message in found["engine"].message


def test_a_family_that_is_not_served_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    monkeypatch.setenv("LMAAS_MODEL", str(tmp_path))
    assert "a bert model is not served" in facts()["engine"].message


def test_a_kernel_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(NativeDecode):
        def attend(self, *given: Any) -> torch.Tensor:
            return super().attend(*given) + 0.01

    monkeypatch.setattr("engine.examination.NativeDecode", Wrong)
    kernel = facts()["kernel"]
    assert (kernel.status, "differs from torch" in kernel.message) == ("failure", True)


def test_a_part_that_cannot_be_examined_is_a_failure_and_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = shutil.copytree(DEMO_FOLDER, tmp_path / "model")
    for weights in model.glob("*.safetensors"):
        weights.write_bytes(b"cut off")
    monkeypatch.setenv("LMAAS_MODEL", str(model))
    found = facts()
    assert (found["memory"].status, found["kernel"].status) == ("failure", "ok")
    assert "SafetensorError" in found["memory"].message
