"""Prompts on disk on their way to the planning process, so that no process holds them twice."""

import asyncio
import mmap
import os
import tempfile
from array import array
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gateway.jobs.prompts import JobPrompts, PromptPages

Value = TypeVar("Value", np.uint32, np.uint64)


class PromptFile:
    """Token ids of prompts, or hashes of their pages, in a file without a name.

    It ends with the last to have it open. Takes four bytes of memory a prompt.
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
        """The open file: one prompt after the other, uint32 token ids or uint64 hashes."""
        return self._file.fileno()

    @property
    def lengths(self) -> bytes:
        """The tokens of each prompt, or its pages, uint32."""
        return self._lengths.tobytes()

    async def append(self, prompts: JobPrompts | PromptPages) -> None:
        """Write the next prompts, a few MiB at most. OSError if the disk is full."""
        values = prompts.tokens if isinstance(prompts, JobPrompts) else prompts.hashes
        written = values[prompts.starts[0] : prompts.starts[-1]]
        await asyncio.to_thread(self._write, memoryview(written.data).cast("B"))
        self._lengths.extend(np.diff(prompts.starts).tolist())

    def _write(self, content: memoryview) -> None:
        while content:
            content = content[self._file.write(content) :]


def read_prompt_file(descriptor: int, kind: np.dtype[Value]) -> npt.NDArray[Value]:
    """The file's content, mapped: the system may drop and read again what it holds of it."""
    if not os.fstat(descriptor).st_size:
        return np.zeros(0, kind)
    return np.frombuffer(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ), kind)
