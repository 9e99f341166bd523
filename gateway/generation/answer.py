"""The answers to a request, as they come or whole."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from gateway.generation.request_state import Piece, RequestState

COALESCE_S: Final = 0.025  # writes to one client are this far apart, but for the first token


async def pieces(
    lives: Sequence[RequestState],
) -> AsyncGenerator[tuple[RequestState, Piece | None], None]:
    """Pieces of all choices of a request, each with whose it is; None where a choice has ended.

    The first token at once, then what has come every `COALESCE_S`. Raises the error of a choice
    after what was generated before it.
    """
    unfinished = list(lives)
    while unfinished:
        await unfinished[0].growth()
        for live in unfinished.copy():
            done = live.done
            if piece := live.read(ended=done):
                yield live, piece
            if not done:
                continue
            if live.error:
                raise live.error
            unfinished.remove(live)
            yield live, None
        if unfinished and any(live.tokens for live in lives):
            await asyncio.sleep(COALESCE_S)


async def whole(live: RequestState) -> Piece:
    """The finished answer. Raises the request's error."""
    await live.ended()
    if live.error:
        raise live.error
    return live.read(ended=True)
