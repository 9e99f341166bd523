"""The answers of a run that has not ended: a CSV file that grows by whole rows."""

import os
from pathlib import Path

from benchmarks.own_lengths.lengths_file import END_OF_ROW, OwnLength, as_row, from_rows


class PartialRun:
    """What earlier runs received, and what this one receives; `known` has both."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+b") as rows:
            rows.seek(0)
            whole, end, _ = rows.read().rpartition(END_OF_ROW.encode())
            rows.truncate(len(whole + end))  # without a row that was cut off by a kill
        self.known = from_rows(whole.decode().splitlines())

    def add(self, length: OwnLength) -> None:
        """Append an answer; it is on disk when this returns."""
        with self._file.open("ab", buffering=0) as rows:
            rows.write(as_row(length).encode())
            os.fsync(rows.fileno())
        self.known.append(length)
