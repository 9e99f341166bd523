"""Reads the answers to a request, as a stream of pieces or in full."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from gateway.generation.request_state import Piece, RequestState

COALESCE_S: Final = 0.025  # between two writes to one client; the first token is sent at once


async def stream_pieces(
    states: Sequence[RequestState],
) -> AsyncGenerator[tuple[RequestState, Piece | None], None]:
    """Yield (choice, piece) for all choices of a request; the piece is None at a choice's end.

    The first token is yielded at once, later tokens every `COALESCE_S`. A choice's error is raised
    after its last piece.
    """
    unfinished = list(states)
    while unfinished:
        await unfinished[0].wait_for_growth()
        for state in unfinished.copy():
            done = state.done
            if piece := state.read(ended=done):
                yield state, piece
            if not done:
                continue
            if state.error:
                raise state.error
            unfinished.remove(state)
            yield state, None
        if unfinished and any(state.tokens for state in states):
            await asyncio.sleep(COALESCE_S)


async def full_answer(state: RequestState) -> Piece:
    """Wait for the end of a choice and return its whole text. Raises its error."""
    await state.wait_for_end()
    if state.error:
        raise state.error
    return state.read(ended=True)
