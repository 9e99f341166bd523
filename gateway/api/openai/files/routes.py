"""`/v1/files`: files are uploaded, listed, read and deleted, and streamed both ways."""

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from litestar import Controller, Request, Router, delete, get, post
from litestar.background_tasks import BackgroundTask
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath
from litestar.response import Stream

from gateway.api.openai.files.form import FORM_BYTES, MULTIPART, receive_file
from gateway.api.openai.files.schema import (
    BATCH,
    EXPIRES_AFTER,
    MAX_EXPIRY_S,
    MAX_LIMIT,
    MIN_EXPIRY_S,
    DeletedFile,
    FileAfter,
    FileLimit,
    FileListing,
    FileObject,
    FileOrder,
    FilePurpose,
    content_disposition,
    file_id_of,
    public_id,
)
from gateway.api.openapi import errors
from gateway.api.query import check_query
from gateway.errors import InvalidRequest, LmaasError
from gateway.files.store import FileOwner, FileStore
from gateway.files.upload import Uploads
from gateway.tenancy.caller import Caller
from models import StoredFile

BINARY: Final = "application/octet-stream"
# More than comes at a time: a file's own bound, whose error names it, is met before the body's.
PIECE_BYTES: Final = 1 << 20

log = structlog.get_logger(__name__)

_FORM: Final = Schema(
    type=OpenAPIType.OBJECT,
    required=["file", "purpose"],
    properties={
        "file": Schema(type=OpenAPIType.STRING, content_media_type=BINARY),
        "purpose": Schema(type=OpenAPIType.STRING, enum=[BATCH]),
        EXPIRES_AFTER[0]: Schema(type=OpenAPIType.STRING, enum=["created_at"]),
        EXPIRES_AFTER[1]: Schema(
            type=OpenAPIType.INTEGER, minimum=MIN_EXPIRY_S, maximum=MAX_EXPIRY_S
        ),
    },
)


@dataclass
class _UploadOperation(Operation):
    """The documented operation, whose body the framework does not see."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody(
            content={MULTIPART: OpenAPIMediaType(schema=_FORM)}, required=True
        )


class FilesController(Controller):
    """Uploads, lists, reads and deletes the files of the caller's tenant."""

    @post(
        summary="Upload a file",
        status_code=200,
        responses=errors(409),
        operation_class=_UploadOperation,
    )
    async def upload_file(
        self,
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        uploads: NamedDependency[Uploads],
        files: NamedDependency[FileStore],
    ) -> FileObject:
        """The stored file. An upload that is cut off leaves none.

        413 for a file over `LMAAS_MAX_FILE_BYTES`; 429 if the tenant may keep no more files or
        bytes; 409 if an administrator erased the tenant's files meanwhile.
        """
        owner = FileOwner.of(caller)
        return FileObject.of(await receive_file(request, uploads, owner, files.bounds.file_bytes))

    @get(summary="List the files")
    async def list_files(
        self,
        caller: NamedDependency[Caller],
        files: NamedDependency[FileStore],
        limit: FileLimit = MAX_LIMIT,
        after: FileAfter = None,
        order: FileOrder = "desc",
        purpose: FilePurpose = None,
    ) -> FileListing:
        """The tenant's files by their creation."""
        start = file_id_of(after) if after is not None else None
        if after is not None and start is None:
            raise InvalidRequest("after is not the id of a file", param="after")
        page = await files.list(
            caller.tenant_id, limit=limit, after=start, order=order, purpose=purpose
        )
        return FileListing.of(page)

    @get("/{file_id:str}", summary="Show a file")
    async def show_file(
        self,
        file_id: FromPath[str],
        caller: NamedDependency[Caller],
        files: NamedDependency[FileStore],
    ) -> FileObject:
        """One file; 404 if the tenant has none of this id."""
        return FileObject.of(await files.show(caller.tenant_id, file_id_of(file_id)))

    @get(
        "/{file_id:str}/content",
        summary="Read a file",
        responses={200: ResponseSpec(bytes, media_type=BINARY, generate_examples=False)},
    )
    async def read_file(
        self,
        file_id: FromPath[str],
        caller: NamedDependency[Caller],
        files: NamedDependency[FileStore],
    ) -> Stream:
        """The file's bytes; `ETag` and `Repr-Digest` are of their SHA-256.

        404 if the tenant has none of this id.
        """
        file = await files.show(caller.tenant_id, file_id_of(file_id))
        return content_of(file, files)

    @delete("/{file_id:str}", summary="Delete a file", status_code=200)
    async def delete_file(
        self,
        file_id: FromPath[str],
        caller: NamedDependency[Caller],
        files: NamedDependency[FileStore],
    ) -> DeletedFile:
        """The deleted file's id; 404 if the tenant has none of this id."""
        found = file_id_of(file_id)
        await files.delete(caller.tenant_id, found)
        assert found is not None, "no file has an id that cannot be one"
        return DeletedFile(id=public_id(found))


def content_of(file: StoredFile, files: FileStore) -> Stream:
    """A file's bytes as a response."""
    digest = file.sha256 or b""
    chunks = _logged(files.read(file), file.id)
    return Stream(
        chunks,
        background=BackgroundTask(_close, chunks),
        media_type=BINARY,
        headers={
            "Content-Length": str(file.size_bytes),
            "Content-Disposition": content_disposition(file.filename),
            "ETag": f'"{digest.hex()}"',
            "Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
            "X-Content-Type-Options": "nosniff",
        },
    )


async def _logged(
    chunks: AsyncGenerator[bytes, None], file_id: UUID
) -> AsyncGenerator[bytes, None]:
    """The chunks. An error ends the connection before the promised length; the log has it."""
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
    except LmaasError as error:
        log.warning("download_cut_off", file=str(file_id), reason=error.message)
        raise


async def _close(chunks: AsyncGenerator[bytes, None]) -> None:
    """End a read whose client disconnected."""
    await chunks.aclose()


def files_router(max_file_bytes: int) -> Router:
    """The routes under `/files`; a body may be as large as a form with the largest file."""
    return Router(
        "/files",
        route_handlers=[FilesController],
        before_request=check_query,
        request_max_body_size=max_file_bytes + FORM_BYTES + PIECE_BYTES,
    )
