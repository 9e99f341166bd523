"""What feeds the lines of batch jobs to the generation service, and where they come from."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from gateway.errors import LmaasError
from gateway.generation.request import GenerationRequest
from gateway.generation.request_state import RequestState


class JobLine(Struct, frozen=True, kw_only=True, eq=False):
    """A line of a batch job, claimed for this gateway, as its request.

    `request_id` is the same in every attempt, so that history counts a line once. The request's
    lane is `batch`, and its `prefix` is that of the line's group, if it has one.
    """

    request_id: UUID
    request: GenerationRequest


class LineOutcome(Struct, frozen=True):
    """How a line ended: the states of its choices, or the error that kept it from an answer.

    A state has the answer's text (`read(ended=True)`, once), its finish reason, its tokens and its
    error.
    """

    line: JobLine
    states: Sequence[RequestState] = ()
    error: LmaasError | None = None

    @property
    def failure(self) -> LmaasError | None:
        """The error of the line or of one of its choices; None if it was answered."""
        return self.error or next((state.error for state in self.states if state.error), None)


class LineSource(Protocol):
    """The lines that wait, in the order in which they are to start.

    Any call may raise LmaasError, SQLAlchemyError or OSError while the source cannot be reached; it
    is repeated then.
    """

    async def claim(self, count: int) -> Sequence[JobLine]:
        """Up to `count` lines, claimed for this gateway; none if nothing waits."""

    async def finished(self, outcomes: Sequence[LineOutcome]) -> None:
        """Write outcomes, all or none, in the transaction that marks their lines done.

        It is repeated if it failed, so a repetition has no effect. A line that is no longer this
        gateway's is left out. One whose failure may pass (OverLimit, Unavailable) waits again.
        """

    async def release(self, lines: Sequence[JobLine]) -> None:
        """Give lines back that have not ended: they wait again, which is not an attempt."""

    async def lost(self, lines: Sequence[JobLine]) -> Sequence[JobLine]:
        """Of these lines, those that are not to go on: cancelled, expired, or run elsewhere."""
