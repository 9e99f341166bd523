"""A version of the predictor, kept on disk for the next process."""

import weakref
from tempfile import TemporaryFile
from typing import IO, Final
from uuid import UUID

import structlog

from gateway.prediction.serving.frames import LoadVersion

HEAD_BYTES: Final = 64  # of an artefact, with its checksum

log = structlog.get_logger()


class KeptVersion:
    """A message that loads a version: in a file without a name, which ends with this object.

    It may have tens of megabytes, about one for each thousand rows that the version was trained on.
    Where the disk is full it stays in memory. Making one and reading it block.
    """

    def __init__(self, load: LoadVersion) -> None:
        self.identity = identity_of(load)
        self._load = load
        self._file: IO[bytes] | None = None
        file = None
        try:
            file = TemporaryFile()  # noqa: SIM115  it ends with this object
            file.write(load.artefact)
            file.flush()
        except OSError as error:
            if file is not None:
                file.close()
            log.warning("version_kept_in_memory", reason=str(error))
            return
        weakref.finalize(self, file.close)
        self._file = file
        self._load = LoadVersion(load.predictor, load.model_hash, b"")

    @property
    def predictor(self) -> UUID:
        """The version's id."""
        return self._load.predictor

    def read(self) -> LoadVersion:
        """The message."""
        if self._file is None:
            return self._load
        self._file.seek(0)
        return LoadVersion(self.predictor, self._load.model_hash, self._file.read())


def identity_of(load: LoadVersion) -> tuple[UUID, bytes]:
    """A version and the beginning of its bytes: they may change."""
    return load.predictor, load.artefact[:HEAD_BYTES]
