"""The bounds on files, from the settings."""

from datetime import timedelta
from typing import Self

from msgspec import Struct

from gateway.settings import Settings


class FileBounds(Struct, frozen=True, kw_only=True):
    """Bounds on uploads and on what a tenant keeps; the defaults are those of the settings.

    Files of batch jobs count towards what a tenant keeps, but are never refused. `retention` is the
    longest time from a file's creation to its deletion.
    """

    file_bytes: int = 512 << 20
    tenant_bytes: int = 4 << 30
    tenant_files: int = 1000
    retention: timedelta = timedelta(days=30)
    upload_s: float = 600.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The bounds that an operator set."""
        return cls(
            file_bytes=settings.max_file_bytes,
            tenant_bytes=settings.max_tenant_file_bytes,
            tenant_files=settings.max_tenant_files,
            retention=timedelta(days=settings.file_days),
            upload_s=settings.upload_timeout_s,
        )
