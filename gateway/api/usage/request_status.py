"""One request as its tenant sees it: its place and band, then its usage and what took its time."""

from typing import Literal, Self
from uuid import UUID

from msgspec import Struct

from gateway.generation.insight.progress import RequestProgress
from gateway.generation.insight.reasons import WaitFacts, explain_wait
from gateway.generation.insight.times import RequestTimes, request_times
from gateway.scheduling.waits.bands import WaitBand
from gateway.usage.request import RequestUsage


class BandAnswer(Struct, frozen=True):
    """Quantiles of a time, in seconds from now: four of five lie between `p10` and `p90`."""

    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, band: WaitBand | None) -> "BandAnswer | None":
        """The band, to the millisecond; None without one."""
        return None if band is None else cls(*(round(each, 3) for each in band))


class RequestStatus(Struct, frozen=True, kw_only=True):
    """A request that waits, runs or has ended.

    `place` 1 starts next; it and the expected times are null once they have come, or where nothing
    is known. `outcome` and `cost` are null until the end; `cost` also if no price was valid.
    `times` add up to the time from the request's arrival to its end, or to now; `why` explains
    them.
    """

    id: UUID
    state: Literal["waiting", "running", "ended"]
    model: str
    outcome: str | None
    prompt_tokens: int
    cached_tokens: int | None
    generation_tokens: int
    cost: str | None
    place: int | None
    expected_start_s: BandAnswer | None
    expected_finish_s: BandAnswer | None
    times: RequestTimes
    why: str

    @classmethod
    def of_progress(cls, found: RequestProgress, model: str) -> Self:
        """A request that waits or runs."""
        return cls(
            id=found.id,
            state=found.state,
            model=model,
            outcome=None,
            prompt_tokens=found.prompt_tokens,
            cached_tokens=found.cached_tokens,
            generation_tokens=found.generation_tokens,
            cost=None,
            place=found.place,
            expected_start_s=BandAnswer.of(found.expected_start),
            expected_finish_s=BandAnswer.of(found.expected_finish),
            times=found.times,
            why=found.why,
        )

    @classmethod
    def of_usage(cls, found: RequestUsage) -> Self:
        """A request that has ended."""
        course = found.course
        times = request_times(
            course.response_s,
            queued_s=course.queued_s,
            first_token_s=course.first_token_s,
            preempted_s=course.preempted_s,
        )
        facts = WaitFacts(
            state="ended",
            started=course.batch_id is not None,
            waited_s=times.waited_s,
            queue_ahead=course.queue_ahead,
            passed_by=course.passed_by,
            policy_order=course.policy_order,
            overdue=bool(course.overdue),
            preemptions=course.preemptions,
            times=None if course.first_token_s is None else times,
            gave_up=course.gave_up,
        )
        return cls(
            id=found.id,
            state="ended",
            model=found.model,
            outcome=found.outcome,
            prompt_tokens=found.prompt_tokens,
            cached_tokens=found.cached_tokens,
            generation_tokens=found.generation_tokens,
            cost=found.cost,
            place=None,
            expected_start_s=None,
            expected_finish_s=None,
            times=times,
            why=explain_wait(facts),
        )
