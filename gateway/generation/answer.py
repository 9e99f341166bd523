"""Reads the answers to a request as a stream of pieces."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from gateway.generation.request_state import RequestState
from gateway.generation.text.growing_answer import Piece

TOKEN_US: Final = 10  # CPU time to decode a token
CALL_US: Final = 4  # the same, to find calls in it
CANDIDATE_US: Final = 6  # the same, to build and encode one of its candidates
COALESCE_S: Final = 0.025  # between two writes to one client; the first token is sent at once


async def stream_pieces(
    states: Sequence[RequestState],
) -> AsyncGenerator[tuple[RequestState, Piece | None], None]:
    """Yield (choice, piece) for all choices of a request; the piece is None at a choice's end.

    The first token is yielded at once, later tokens every `COALESCE_S`; the last ones of a choice
    once it is done, with its end. A choice's error is raised after its last piece.
    """
    unfinished = list(states)
    while unfinished:
        await unfinished[0].wait_for_growth()
        for state in [each for each in unfinished if each.done or not each.ended]:
            done = state.done
            for piece in state.read_parts(ended=done):
                if piece:
                    yield state, piece
            if not done:
                continue
            if state.error:
                raise state.error
            unfinished.remove(state)
            yield state, None
        if any(not state.ended for state in unfinished) and any(state.tokens for state in states):
            await asyncio.sleep(COALESCE_S)


def work_us_of(state: RequestState) -> int:
    """The CPU time to make an answer of a choice that has ended, in microseconds."""
    logprobs = state.request.logprobs
    candidates = 0 if logprobs is None else 1 + logprobs
    call_us = 0 if state.calls is None else CALL_US
    return (TOKEN_US + CANDIDATE_US * candidates + call_us) * len(state.tokens)
