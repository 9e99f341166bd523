"""The version in use, kept on disk for the next predictor process."""

from tempfile import TemporaryFile
from typing import IO

import structlog

from gateway.prediction.serving.frames import LoadVersion

log = structlog.get_logger()


class KeptVersion:
    """A message that loads a version: in a file without a name, which ends at `close`.

    It may have tens of megabytes, about one for each thousand rows that the version was trained on.
    Where the disk is full it stays in memory. Reading and writing block.
    """

    def __init__(self, load: LoadVersion) -> None:
        self._load = load
        self._file: IO[bytes] | None = None
        try:
            file = TemporaryFile()  # noqa: SIM115  until `close`
            file.write(load.artefact)
            file.flush()
        except OSError as error:
            log.warning("version_kept_in_memory", reason=str(error))
            return
        self._file = file
        self._load = LoadVersion(load.predictor, load.model_hash, b"")

    def read(self) -> LoadVersion:
        """The message."""
        if self._file is None:
            return self._load
        self._file.seek(0)
        return LoadVersion(self._load.predictor, self._load.model_hash, self._file.read())

    def close(self) -> None:
        """Keep it no longer."""
        if self._file is not None:
            self._file.close()
