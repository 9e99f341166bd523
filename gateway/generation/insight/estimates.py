"""When waiting and running requests are expected to start and to end."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.generation.request_state import RequestState
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.requests import QueuedRequest, WaitingBatch


class Turn(NamedTuple):
    """When a waiting request's turn comes; seconds count from now."""

    request: QueuedRequest
    batch: WaitingBatch
    position: int
    start_s: float
    finish_s: float


def turns(batches: Sequence[WaitingBatch], in_flight: int, free_s: float) -> Iterator[Turn]:
    """Each request's turn, for batches in the order in which they will start.

    The first batch starts in `free_s`. A batch of n requests with serving time S takes the engine
    for S·n/`in_flight`, and each of its requests runs for as much of S as its length is of the
    batch's. So it is assumed that the engine goes on running as many requests at once as now, that
    lengths come out as predicted, that no batch is split and that nothing else arrives.
    """
    position, start_s = 0, free_s
    for batch in batches:
        longest = batch.generation_tokens
        for request in batch.requests:
            position += 1
            runs_s = batch.serving_s * request.median / longest
            yield Turn(request, batch, position, start_s, start_s + runs_s)
        start_s += batch.serving_s * len(batch.requests) / max(in_flight, 1)


def remaining_tokens(running: Sequence[RequestState]) -> list[float]:
    """The median of what each still has to generate, given that it is not done yet."""
    if not running:
        return []
    lengths = LengthDistributions.of([live.running() for live in running])
    remaining: list[float] = lengths.remaining_quantile(0.5).tolist()
    return remaining


def first_free_s(
    running: Sequence[RequestState], remaining: Sequence[float], now_s: float, step_s: float | None
) -> float:
    """Seconds until the first running request is expected to end; 0 with none."""
    ends = (
        tokens * pace
        for live, tokens in zip(running, remaining, strict=True)
        if (pace := seconds_a_token(live, now_s, step_s)) is not None
    )
    return min(ends, default=0.0)


def seconds_a_token(live: RequestState, now_s: float, step_s: float | None) -> float | None:
    """At which pace it generated since its first token; with one or none the newest step's."""
    if live.first_token_s is None or len(live.tokens) < 2:  # noqa: PLR2004 - one interval
        return step_s
    return (now_s - live.first_token_s) / (len(live.tokens) - 1)
