"""Files as OpenAI's API shows them."""

import re
from typing import Annotated, Final, Literal, Self, TypeAlias
from urllib.parse import quote
from uuid import UUID

from litestar.params import QueryParameter
from msgspec import Struct

from gateway.errors import InvalidRequest, UnsupportedParameter, shortened
from gateway.tenancy.paging import Page
from models import StoredFile

PREFIX: Final = "file-"
FILE_ID: Final = re.compile(r"file-[0-9a-f]{32}", re.ASCII)
MAX_LIMIT: Final = 10_000
BATCH: Final = "batch"
MIN_EXPIRY_S: Final = 3600
MAX_EXPIRY_S: Final = 30 * 86_400
EXPIRES_AFTER: Final = ("expires_after[anchor]", "expires_after[seconds]")
FIELDS: Final = ("purpose", *EXPIRES_AFTER)  # of the form, next to the file
MAX_FILENAME: Final = 255  # characters
PLAIN_NAME: Final = re.compile(r"[\w .()+-]+", re.ASCII)  # needs no quoting in a header

FileLimit: TypeAlias = Annotated[
    int, QueryParameter(ge=1, le=MAX_LIMIT, description="most files wanted")
]
FileAfter: TypeAlias = Annotated[
    str | None, QueryParameter(description="last id of the previous page; unset: the first page")
]
FileOrder: TypeAlias = Annotated[
    Literal["asc", "desc"], QueryParameter(description="by creation; desc: newest first")
]
FilePurpose: TypeAlias = Annotated[
    Literal["batch", "batch_output"] | None,
    QueryParameter(description="only files of this purpose; unset: all"),
]


class FileObject(Struct, frozen=True, kw_only=True):
    """A file; `sha256`, in hexadecimal, is of its bytes. Times are seconds since 1970."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    sha256: str
    object: Literal["file"] = "file"
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, file: StoredFile) -> Self:
        """A complete file as clients see it."""
        return cls(
            id=public_id(file.id),
            bytes=file.size_bytes,
            created_at=int(file.created_at.timestamp()),
            expires_at=int(file.expires_at.timestamp()),
            filename=file.filename,
            purpose=file.purpose,
            sha256=(file.sha256 or b"").hex(),
        )


class FileListing(Struct, frozen=True, kw_only=True):
    """A page of files. If `has_more`, the next page is `after` the last one's id."""

    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"

    @classmethod
    def of(cls, page: Page[StoredFile]) -> Self:
        """A page of complete files as clients see it."""
        data = [FileObject.of(file) for file in page.items]
        return cls(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=page.more,
        )


class DeletedFile(Struct, frozen=True, kw_only=True):
    """A file that was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


def public_id(file_id: UUID) -> str:
    """A file's id in the API."""
    return f"{PREFIX}{file_id.hex}"


def file_id_of(public: str) -> UUID | None:
    """The id that clients know as `public`; None if no file can have it."""
    return UUID(public.removeprefix(PREFIX)) if FILE_ID.fullmatch(public) else None


def checked_purpose(purpose: str | None) -> str:
    """The purpose of an upload. InvalidRequest."""
    if purpose != BATCH:
        sent = "is missing" if purpose is None else f"is {shortened(purpose)!r}"
        raise InvalidRequest(f"purpose {sent}; accepted is {BATCH}", param="purpose")
    return purpose


def checked_filename(filename: str | None) -> str:
    """The last part of an upload's filename. InvalidRequest."""
    if filename is None:
        raise InvalidRequest("file is not sent as a file with a filename", param="file")
    name = filename.rpartition("/")[2].strip()
    if not 1 <= len(name) <= MAX_FILENAME or not name.isprintable():
        raise InvalidRequest(
            f"the filename is {shortened(filename)!r}; accepted are 1 to {MAX_FILENAME} printable "
            "characters",
            param="file",
        )
    return name


def checked_expiry(anchor: str | None, seconds: str | None) -> float | None:
    """Seconds until an upload expires, by its form; None if it has none. InvalidRequest."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(
            "expires_after[anchor] must be created_at", param="expires_after[anchor]"
        )
    digits = seconds is not None and seconds.isascii() and seconds.isdecimal()
    if not digits or not MIN_EXPIRY_S <= int((seconds or "")[:20]) <= MAX_EXPIRY_S:
        raise InvalidRequest(
            f"expires_after[seconds] must be {MIN_EXPIRY_S} to {MAX_EXPIRY_S}",
            param="expires_after[seconds]",
        )
    return float(seconds or 0)


def checked_field(name: str) -> str:
    """The name of a field of the form. UnsupportedParameter."""
    if name not in FIELDS:
        raise UnsupportedParameter(
            f"{shortened(name)} is not a field of this form; accepted are: file, "
            f"{', '.join(FIELDS)}",
            param=shortened(name),
        )
    return name


def content_disposition(filename: str) -> str:
    """The header that names a download (RFC 6266)."""
    if PLAIN_NAME.fullmatch(filename):
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
