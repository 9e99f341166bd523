"""Estimates when queued and running requests start and end."""

from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple

from engine.protocol import SequenceId
from gateway.generation.request_state import RequestState
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.requests import QueuedRequest, WaitingBatch


class ExpectedTurn(NamedTuple):
    """A queued request's expected start and end, in seconds from now; `position` 1 is next."""

    request: QueuedRequest
    batch: WaitingBatch
    position: int
    start_s: float
    finish_s: float


def expected_turns(
    batches: Iterable[WaitingBatch],
    in_flight: int,
    free_s: float,
    *,
    tenant: str | None = None,
    skip: int = 0,
) -> Generator[ExpectedTurn, None, int]:
    """Yield each request's expected turn, for batches in their start order.

    Only those of `tenant`, if it is given, and not the first `skip` of these; returns how many of
    them were left to skip at the end. A batch without any that is wanted is not put in order.

    The first batch starts in `free_s` seconds. A batch of n requests with serving time S occupies
    the engine for S·n/`in_flight`; a request of it runs for S·(its length)/(the batch's length).
    Assumes that the number of requests in flight stays as it is, lengths equal their predictions,
    no batch is split, and nothing else arrives.
    """
    position, start_s = 0, free_s
    for batch in batches:
        certain = tenant is None or batch.tenant is not None  # all or none are of the tenant
        wanted = batch.size if tenant in {None, batch.tenant} else 0
        if certain and skip >= wanted:
            skip -= wanted
        else:
            for place, request in enumerate(batch.ordered(), position + 1):
                if tenant not in {None, request.tenant}:
                    continue
                if skip:
                    skip -= 1
                    continue
                runs_s = batch.serving_s * request.median / batch.generation_tokens
                yield ExpectedTurn(request, batch, place, start_s, start_s + runs_s)
        position += batch.size
        start_s += batch.serving_s * batch.size / max(in_flight, 1)
    return skip


def remaining_tokens(running: Sequence[RequestState]) -> list[float]:
    """Median remaining tokens of each request, conditioned on the tokens generated so far."""
    if not running:
        return []
    lengths = LengthDistributions.of([state.to_running() for state in running])
    remaining: list[float] = lengths.remaining_quantile(0.5).tolist()
    return remaining


def expected_remainders(running: Sequence[RequestState]) -> dict[SequenceId, int]:
    """The median remaining tokens of each request, by sequence."""
    remaining = map(round, remaining_tokens(running))
    return dict(zip([state.sequence_id for state in running], remaining, strict=True))


def first_free_s(
    running: Sequence[RequestState], remaining: Sequence[float], now_s: float, step_s: float | None
) -> float:
    """Seconds until the first running request is expected to end; 0 if none runs."""
    ends = (
        tokens * pace
        for state, tokens in zip(running, remaining, strict=True)
        if (pace := seconds_per_token(state, now_s, step_s)) is not None
    )
    return min(ends, default=0.0)


def seconds_per_token(state: RequestState, now_s: float, step_s: float | None) -> float | None:
    """Mean seconds per token since its first token; with fewer than two tokens `step_s`.

    Up to its last tokens, or to now if as many have not come for longer.
    """
    if state.first_token_s is None or len(state.tokens) < 2:  # noqa: PLR2004 - one interval
        return step_s
    tokens = len(state.tokens)
    return max(
        (state.grew_s - state.first_token_s) / (tokens - 1),
        (now_s - state.first_token_s) / (tokens - 1 + state.grew_tokens),
    )
