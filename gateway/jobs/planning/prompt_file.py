"""Prompts on disk on their way to the planning process, so that no process holds them twice."""

import asyncio
import tempfile
from array import array
from pathlib import Path

import numpy as np

from gateway.jobs.prompts import JobPrompts


class PromptFile:
    """The token ids of prompts, in a file without a name: it ends with the last to have it open.

    Takes four bytes of disk a token, and four bytes of memory a prompt.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115, see `close`
        self._lengths = array("I")

    def close(self) -> None:
        """Close the file; it is gone unless another process has it open."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def descriptor(self) -> int:
        """The open file: token ids, uint32, one prompt after the other."""
        return self._file.fileno()

    @property
    def lengths(self) -> bytes:
        """The tokens of each prompt, uint32."""
        return self._lengths.tobytes()

    async def append(self, prompts: JobPrompts) -> None:
        """Write the next prompts, a few MiB at most. OSError if the disk is full."""
        written = prompts.tokens[prompts.starts[0] : prompts.starts[-1]]
        await asyncio.to_thread(self._write, memoryview(written.data).cast("B"))
        self._lengths.extend(np.diff(prompts.starts).tolist())

    def _write(self, content: memoryview) -> None:
        while content:
            content = content[self._file.write(content) :]
