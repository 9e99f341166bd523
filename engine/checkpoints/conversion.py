"""Has a GGUF file converted in a process of its own, so that its memory is returned."""

import importlib.util
import sys
from pathlib import Path
from typing import Final

from engine.checkpoints.child import run
from engine.checkpoints.placing import Say
from engine.errors import ModelUnavailable

PACKAGES: Final = ("gguf", "accelerate")  # of the extra `models`
ROOT: Final = Path(__file__).parents[2]
MAGIC: Final = b"GGUF"


def check_packages() -> None:
    """ModelUnavailable unless the packages that read GGUF files are installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelUnavailable(
            f"GGUF files need further packages: `{sys.executable} -m pip install "
            f"{' '.join(missing)}` installs them"
        )


def check_magic(file: Path) -> None:
    """ModelUnavailable unless the file can be read and begins as GGUF files do."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(len(MAGIC))
    except OSError as error:
        raise ModelUnavailable(f"{file}: {error.strerror}") from error
    if begin != MAGIC:
        raise ModelUnavailable(f"{file} is not a GGUF file")


def convert(file: Path, folder: Path, workspace: Path, say: Say) -> None:
    """Write the model of a GGUF file to `folder`, as `transformers` reads it.

    ModelUnavailable with one line if it is not served or damaged.
    """
    say(f"converting {file.name}")
    ended = run(
        [sys.executable, "-m", "engine.checkpoints.conversion_process", str(file), str(folder)],
        workspace / "conversion.log",
        say,
        lambda passed_s: f"converting {file.name}, {passed_s:.0f} s",
        {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
    )
    if ended.status < 0:
        raise ModelUnavailable(f"{file}: the conversion was killed by signal {-ended.status}")
    if ended.status != 0:
        raise ModelUnavailable(f"{file}: {ended.last_line}")
