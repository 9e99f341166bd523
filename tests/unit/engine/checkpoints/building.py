"""Places a folder in a process of its own: `building TARGET BUILDERS`, and dies if a file says so.

Every process that builds leaves a file in BUILDERS.
"""

import os
import signal
import sys
from pathlib import Path

from engine.checkpoints.placing import place


def main() -> None:
    target, builders = map(Path, sys.argv[1:])

    def build(workspace: Path) -> Path:
        (builders / str(os.getpid())).touch()
        folder = workspace / "model"
        folder.mkdir()
        if (builders / "die").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / "file").write_text("complete")
        return folder

    place(target, 0, build, print)
    assert (target / "file").read_text() == "complete"


if __name__ == "__main__":
    main()
