"""An answer's text, as it comes or whole."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from gateway.generation.live import LiveRequest

COALESCE_S: Final = 0.025  # writes to one client are this far apart, but for the first token


async def pieces(live: LiveRequest) -> AsyncGenerator[str, None]:
    """Pieces of the answer: the first token at once, then what has come every `COALESCE_S`.

    Raises the request's error after what was generated before it.
    """
    while True:
        await live.growth()
        done = live.done
        text = live.text.read(ended=done)
        if text:
            yield text
        if done:
            break
        if live.tokens:
            await asyncio.sleep(COALESCE_S)
    if live.error:
        raise live.error


async def whole(live: LiveRequest) -> str:
    """The finished answer. Raises the request's error."""
    await live.ended()
    if live.error:
        raise live.error
    return live.text.read(ended=True)
