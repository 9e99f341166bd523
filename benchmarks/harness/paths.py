"""The folders and files of the benchmarks."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".bench"  # outside git: models, vLLM, logs, full results, quick looks
RESULTS: Final = ROOT / "benchmarks" / "results"
PLOTS: Final = ROOT / "benchmarks" / "plots"
README: Final = ROOT / "benchmarks" / "README.md"


def log_file(name: str) -> Path:
    """The log file of a process; its folder is created."""
    folder = CACHE / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"
