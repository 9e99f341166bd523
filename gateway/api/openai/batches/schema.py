"""Bodies of `/v1/batches`, in OpenAI's format."""

import re
from datetime import datetime
from math import ceil, floor
from typing import Annotated, Final, Literal, Self, TypeAlias, cast
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from gateway.api.openai.files.schema import BATCH, public_id
from gateway.api.validation import STORABLE
from gateway.errors import InvalidRequest, shortened
from gateway.jobs.batches.batches import NewBatch, no_batch
from gateway.jobs.batches.progress.completion import Band
from gateway.jobs.batches.states import Status, Window
from gateway.tenancy.paging import Cursor
from models import Batch, StoredFile

Endpoint: TypeAlias = Literal["/v1/chat/completions", "/v1/completions"]
MetadataKey: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64, pattern=STORABLE)]
MetadataValue: TypeAlias = Annotated[str, Meta(max_length=512, pattern=STORABLE)]
Metadata: TypeAlias = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=16)]
PREFIX: Final = "batch_"
BATCH_ID: Final = re.compile(r"batch_[0-9a-f]{32}", re.ASCII)


class OutputExpiry(Struct, frozen=True, forbid_unknown_fields=True):
    """How long the output file and the error file are kept after they were written."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3_600, le=2_592_000)]


class BatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/batches`."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Window
    metadata: Metadata | None = None
    output_expires_after: OutputExpiry | None = None

    def to_new(self, file: StoredFile) -> NewBatch:
        """The job to create, with its input file. InvalidRequest for a file of another purpose."""
        expiry = self.output_expires_after
        if file.purpose != BATCH:
            raise InvalidRequest(
                f"input_file_id: the file's purpose is {file.purpose!r}; accepted is {BATCH!r}",
                param="input_file_id",
            )
        return NewBatch(
            input_file_id=file.id,
            endpoint=self.endpoint,
            window=self.completion_window,
            metadata=self.metadata,
            output_expires_s=None if expiry is None else expiry.seconds,
        )


class RequestCounts(Struct, frozen=True):
    """Lines of the job; those in the output file, and those in the error file."""

    total: int
    completed: int
    failed: int


class BatchProblem(Struct, frozen=True):
    """Why a job failed, at a line of its input file, from 1; 0: the whole file."""

    code: str | None
    line: int | None
    message: str
    param: str | None = None


class BatchProblems(Struct, frozen=True):
    """The first 100 reasons why a job failed."""

    data: list[BatchProblem]
    object: Literal["list"] = "list"


class InputTokensDetails(Struct, frozen=True):
    """The part of the input tokens that was not computed: an equal prefix was kept."""

    cached_tokens: int = 0


class OutputTokensDetails(Struct, frozen=True):
    """The reasoning part of the output tokens: 0."""

    reasoning_tokens: int = 0


class BatchUsage(Struct, frozen=True):
    """Tokens of the lines that were completed."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()


class ExpectedCompletion(Struct, frozen=True):
    """When the lines will have ended, in seconds since 1970, with 10 % and 90 % probability."""

    p10: int
    p90: int

    @classmethod
    def of(cls, band: Band) -> Self:
        """The band in whole seconds, rounded outwards."""
        return cls(floor(band.p10), ceil(band.p90))


class PrefixSharing(Struct, frozen=True):
    """What lines of equal beginnings save: tokens of all prompts, and those computed."""

    prompt_tokens: int
    computed_tokens: int
    saved_share: float
    groups: int
    warning: str | None = None

    @classmethod
    def of(cls, stored: object) -> Self | None:
        """What a batch's row has; None without, or if it cannot be read."""
        try:
            return msgspec.convert(stored, cls | None)
        except msgspec.ValidationError:
            return None


class BatchAnswer(Struct, frozen=True, kw_only=True):
    """A batch. `expected_completion` and `prefix_sharing` are this gateway's own fields."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str
    errors: BatchProblems | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    expected_completion: ExpectedCompletion | None
    prefix_sharing: PrefixSharing | None

    @classmethod
    def of(cls, batch: Batch, band: Band | None) -> Self:
        """A job as its tenant sees it."""
        used = batch.input_tokens, batch.output_tokens
        cached = InputTokensDetails(batch.cached_tokens)
        problems = [BatchProblem(**problem) for problem in batch.errors or ()]
        return cls(
            id=f"{PREFIX}{batch.id.hex}",
            endpoint=batch.endpoint,
            model=batch.model,
            errors=BatchProblems(problems) if problems else None,
            input_file_id=public_id(batch.input_file_id),
            completion_window=batch.completion_window,
            status=cast("Status", batch.status),
            output_file_id=_file(batch.output_file_id),
            error_file_id=_file(batch.error_file_id),
            created_at=_seconds(batch.created_at),
            in_progress_at=_time(batch.in_progress_at),
            expires_at=_seconds(batch.expires_at),
            finalizing_at=_time(batch.finalizing_at),
            completed_at=_time(batch.completed_at),
            failed_at=_time(batch.failed_at),
            expired_at=_time(batch.expired_at),
            cancelling_at=_time(batch.cancelling_at),
            cancelled_at=_time(batch.cancelled_at),
            request_counts=RequestCounts(batch.total, batch.completed, batch.failed),
            usage=BatchUsage(*used, sum(used), cached),
            metadata=batch.labels,
            expected_completion=ExpectedCompletion.of(band) if band else None,
            prefix_sharing=PrefixSharing.of(batch.sharing),
        )


class BatchList(Struct, frozen=True, kw_only=True):
    """A page of batches, newest first; the next page is `after` the last id."""

    object: Literal["list"] = "list"
    data: list[BatchAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


def batch_uuid(text: str) -> UUID:
    """The batch of an id. NotFound if it is none."""
    if not BATCH_ID.fullmatch(text):
        raise no_batch(text)
    return UUID(text.removeprefix(PREFIX))


def cursor_of(limit: int, after: str | None) -> Cursor:
    """Where a page of a list starts. InvalidRequest for what is no batch's id."""
    if after is not None and not BATCH_ID.fullmatch(after):
        raise InvalidRequest(f"after is {shortened(after)!r}; it is no batch's id", param="after")
    return Cursor(limit, None if after is None else batch_uuid(after))


def _file(found: UUID | None) -> str | None:
    return None if found is None else public_id(found)


def _seconds(time: datetime) -> int:
    return int(time.timestamp())


def _time(time: datetime | None) -> int | None:
    return None if time is None else _seconds(time)
