"""The cost of an engine's steps, as `lmaas calibrate` measures it on this machine."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from benchmarks.harness.paths import ROOT
from benchmarks.live.gateway_process import environment
from gateway.replay.cost.calibration import CalibratedEngine


def calibrated(
    settings: Mapping[str, object], say: Callable[[str], None], seconds: float | None = None
) -> CalibratedEngine:
    """The engine with these `LMAAS_*` settings, measured for `seconds`, or the command's default.

    RuntimeError if the command fails.
    """
    with TemporaryDirectory(prefix="lmaas-bench-") as folder:
        out = Path(folder) / "engine.json"
        limit = [] if seconds is None else ["--seconds", f"{seconds:g}"]
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "calibrate", "--out", str(out), *limit],
            cwd=ROOT,
            env=environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"lmaas calibrate failed: {done.stderr.strip().splitlines()[-1]}")
        for line in done.stdout.splitlines()[:-1]:
            say(line)
        return msgspec.json.decode(out.read_bytes(), type=CalibratedEngine)
