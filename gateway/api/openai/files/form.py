"""The form of an upload, parsed as it comes: the file's bytes are passed on, never collected."""

from contextlib import AsyncExitStack
from typing import Any, Final

from litestar import Request
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from gateway.api.openai.files.schema import (
    EXPIRES_AFTER,
    checked_expiry,
    checked_field,
    checked_filename,
    checked_purpose,
)
from gateway.errors import InvalidRequest, UnsupportedMediaType
from gateway.files.store import FileOwner
from gateway.files.upload import Upload, Uploads, file_too_large
from models import StoredFile

MULTIPART: Final = "multipart/form-data"
# Of a form without its file: boundaries, headers and fields.
FORM_BYTES: Final = 64 << 10
MAX_FIELD_BYTES: Final = 1024
MAX_BOUNDARY: Final = 70  # characters, RFC 2046
MAX_PARTS: Final = 8
MAX_HEADERS: Final = 8  # of a part
MAX_HEADER_BYTES: Final = 4096


async def receive_file(
    request: Request[Any, Any, Any], uploads: Uploads, owner: FileOwner, max_bytes: int
) -> StoredFile:
    """The file of a form, stored. InvalidRequest, FileTooLarge and what `Uploads` raises."""
    boundary = _boundary(request)
    length = request.content_length
    if length is not None and length > max_bytes + FORM_BYTES:
        raise file_too_large(max_bytes)
    sized = length is not None and "content-encoding" not in request.headers
    async with AsyncExitStack() as stack:
        form = _Form(stack, uploads, owner, length if sized else None)
        parser = PushMultipartParser(
            boundary,
            max_header_size=MAX_HEADER_BYTES,
            max_header_count=MAX_HEADERS,
            max_segment_count=MAX_PARTS,
        )
        try:
            with parser:
                async for piece in request.stream():
                    if piece:
                        for event in parser.parse(piece):
                            await form.take(event)
        except MultipartError as error:
            raise InvalidRequest(f"the form cannot be read: {error}") from error
        return await form.finish()
    raise AssertionError("no context here suppresses an error")


class _Form:
    """What was read of a form; the upload is entered into `stack`, which ends it."""

    def __init__(
        self, stack: AsyncExitStack, uploads: Uploads, owner: FileOwner, length: int | None
    ) -> None:
        self._stack = stack
        self._uploads = uploads
        self._owner = owner
        self._length = length  # of the whole form
        self._fields: dict[str, bytes] = {}
        self._field: str | None = None  # that is being read; None: the file
        self._upload: Upload | None = None

    async def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        """The next part, a piece of its bytes, or its end."""
        if isinstance(event, MultipartSegment):
            await self._begin(event)
        elif event is not None:
            await self._append(bytes(event))
        elif self._field == "purpose":
            checked_purpose(self._text("purpose"))  # before the file is sent in vain

    async def finish(self) -> StoredFile:
        """The stored file."""
        purpose = checked_purpose(self._text("purpose"))
        expires_after_s = checked_expiry(*(self._text(name) for name in EXPIRES_AFTER))
        if self._upload is None:
            raise InvalidRequest("file is missing", param="file")
        return await self._upload.finish(purpose=purpose, expires_after_s=expires_after_s)

    async def _begin(self, part: MultipartSegment) -> None:
        name = part.name or ""
        if name != "file":
            self._field = checked_field(name)
            if name in self._fields:
                raise InvalidRequest(f"{name} is sent twice; send it once", param=name)
            self._fields[name] = b""
            return
        if self._upload is not None:
            raise InvalidRequest("file is sent twice; send one file in a form", param="file")
        self._field = None
        self._upload = await self._stack.enter_async_context(
            self._uploads.receive(
                self._owner,
                filename=checked_filename(part.filename),
                least=max(0, (self._length or 0) - FORM_BYTES),
                most=self._length,
            )
        )

    async def _append(self, data: bytes) -> None:
        name = self._field
        if name is None:
            assert self._upload is not None, "bytes of a part follow its head"
            await self._upload.write(data)
            return
        self._fields[name] += data
        if len(self._fields[name]) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"{name} has more than {MAX_FIELD_BYTES} bytes", param=name)

    def _text(self, name: str) -> str | None:
        return self._fields[name].decode(errors="replace") if name in self._fields else None


def _boundary(request: Request[Any, Any, Any]) -> str:
    """What separates the form's parts. UnsupportedMediaType, InvalidRequest."""
    kind, options = request.content_type
    if kind != MULTIPART:
        raise UnsupportedMediaType(f"accepted is a form: Content-Type {MULTIPART}")
    boundary = options.get("boundary", "")
    if not 1 <= len(boundary) <= MAX_BOUNDARY or not boundary.isascii():
        raise InvalidRequest(
            f"the Content-Type's boundary must have 1 to {MAX_BOUNDARY} ASCII characters"
        )
    return boundary
