"""The file of a journal: its lines, and what replaces them."""

from pathlib import Path
from typing import IO, Final

from gateway.history.disk.spool import numbered

SUFFIX: Final = ".journal"


class JournalFile:
    """The file that a gateway writes, in a folder where earlier ones may have left theirs.

    After a write that failed, nothing is appended until the file has been replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = max((int(path.stem) for path in journals(folder)), default=0)
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self._size = 0
        self._whole = True

    def append(self, data: bytes) -> int:
        """Write lines; the size of the file then. OSError."""
        if not self._whole:
            raise OSError("a line before was not written")
        self._whole = False
        if self._file is None:
            self._open()
        self._write(data)
        self._whole = True
        return self._size

    def replace(self, data: bytes) -> int:
        """Begin a file with these lines, and remove the one before it; its size. OSError.

        If that fails, the one before it stays.
        """
        before, old = self._path, self._file
        self._whole = False
        self._path = self._file = None
        try:
            self._open()
            self._write(data)
        except OSError:
            self._discard()
            self._path = before
            raise
        finally:
            if old is not None:
                old.close()
        if before is not None:
            before.unlink(missing_ok=True)
        self._whole = True
        return self._size

    def close(self, *, remove: bool) -> None:
        """Close the file; remove it if nothing in it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._path is not None and remove:
            self._path.unlink(missing_ok=True)
            self._path = None

    def _open(self) -> None:
        self._number += 1
        self._path = self._folder / f"{self._number:012d}{SUFFIX}"
        self._file, self._size = self._path.open("ab", buffering=0), 0

    def _write(self, data: bytes) -> None:
        assert self._file is not None, "it was opened"
        written = self._file.write(data)
        self._size += written
        if written < len(data):
            raise OSError("a line was written only in part")

    def _discard(self) -> None:
        """Remove a file that could not be written whole."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def journals(folder: Path) -> list[Path]:
    """The journals in a folder, oldest first."""
    return numbered(folder, SUFFIX)
