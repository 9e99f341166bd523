"""`lmaas calibrate` as an operator runs it, on the shipped model."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.replay.cost.calibration import CalibratedEngine
from gateway.replay.cost.model import EngineModel, LinearCost
from tests.conftest import PATIENCE_S

Environment = Callable[..., dict[str, str]]


def calibrate(
    environment: dict[str, str], *options: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "calibrate", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_engine_is_measured_and_its_cost_written(environment: Environment, tmp_path: Path) -> None:
    given = environment(tmp_path / "data", LMAAS_KV_TOKENS="4096")
    done = calibrate(given, "--seconds", "3", "--out", "found.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "written to found.json" in done.stdout
    assert "mix: " in done.stderr
    assert "trials left out" in done.stderr
    written = (tmp_path / "found.json").read_bytes()
    engine = msgspec.json.decode(written, type=EngineModel)
    assert isinstance(engine.cost, LinearCost)
    assert engine.cost.step_s + engine.cost.sequence_s > 0
    assert engine.cost.prompt_token_s + engine.cost.prompt_read_s > 0
    assert (engine.shape.pages, engine.shape.page_tokens) == (256, 16)
    assert (engine.shape.step_tokens, engine.shape.context_tokens) == (512, 2048)
    assert 0 <= engine.shape.lag_steps <= 3
    assert 0 < engine.shape.submit_delay_s < 1
    found = msgspec.json.decode(written, type=CalibratedEngine)
    assert (found.model, found.device) == ("lmaas-demo", "cpu")
    assert found.fit.fitted.steps > 100
    assert found.fit.mix is not None
    assert not (tmp_path / "data").exists()  # a gateway may run in it


def test_missing_engine_is_reported_in_one_line(environment: Environment, tmp_path: Path) -> None:
    given = environment(tmp_path, LMAAS_ENGINE_SOCKET=str(tmp_path / "none.sock"))
    done = calibrate(given, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"lmaas: LMAAS_ENGINE_SOCKET: no engine answers on {tmp_path / 'none.sock'}"
    )
    assert not (tmp_path / "engine.json").exists()


def test_missing_folder_is_reported_before_anything_starts(
    environment: Environment, tmp_path: Path
) -> None:
    given = environment(tmp_path)
    done = calibrate(given, "--out", "nowhere/engine.json", folder=tmp_path)
    assert done.returncode == 1
    assert "there is no folder" in done.stderr
