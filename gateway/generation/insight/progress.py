"""How far a request has come, and when it is expected to start and to end."""

from typing import Literal
from uuid import UUID

from msgspec import Struct

from gateway.generation.engines.group import EngineGroup
from gateway.generation.insight.estimates import seconds_per_token
from gateway.generation.insight.explanation import Explanation
from gateway.generation.insight.queue_waits import QueueWaits
from gateway.generation.insight.times import RequestTimes
from gateway.generation.request_state import RequestState
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.waits.bands import WaitBand


class RequestProgress(Struct, frozen=True, kw_only=True):
    """A request that waits or runs; bands are seconds from now.

    `place` 1 starts next. Expected times are None while the engine takes no requests, or nothing
    is known yet.
    """

    id: UUID
    state: Literal["waiting", "running"]
    prompt_tokens: int
    cached_tokens: int | None
    generation_tokens: int
    place: int | None
    expected_start: WaitBand | None
    expected_finish: WaitBand | None
    times: RequestTimes
    why: str


def progress_of(
    state: RequestState,
    explained: Explanation,
    waits: QueueWaits,
    engine: EngineGroup,
    now_s: float,
) -> RequestProgress:
    """The progress of a request in memory."""
    waiting = explained.state == "waiting"
    place, start, finish = None, None, None
    if engine.accepting and waiting:
        outlook = waits.outlook(state, now_s)
        if outlook is not None:
            place, start, finish = outlook.place, outlook.start, outlook.finish
    elif engine.accepting:
        finish = _end_of_running(state, engine, now_s)
    return RequestProgress(
        id=state.id,
        state="waiting" if waiting else "running",
        prompt_tokens=len(state.prompt),
        cached_tokens=state.cached_tokens,
        generation_tokens=len(state.tokens),
        place=place,
        expected_start=start,
        expected_finish=finish,
        times=explained.times,
        why=explained.why,
    )


def _end_of_running(state: RequestState, engine: EngineGroup, now_s: float) -> WaitBand | None:
    """By the quantiles of what is left of its answer, at its own pace."""
    pace_s = seconds_per_token(state, now_s, engine.step_s)
    if pace_s is None:
        return None
    left = LengthDistributions.of([state.to_running()])
    low, middle, high = (float(left.remaining_quantile(level)[0]) for level in (0.1, 0.5, 0.9))
    return WaitBand(low * pace_s, middle * pace_s, high * pace_s)
