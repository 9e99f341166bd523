"""An answer's text, as it comes or whole."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from gateway.generation.live import LiveRequest
from gateway.generation.tokens import AnswerDecoder

COALESCE_S: Final = 0.025  # writes to one client are this far apart, but for the first token


async def pieces(live: LiveRequest, decoder: AnswerDecoder) -> AsyncGenerator[str, None]:
    """Pieces of the answer: the first token at once, then what has come every `COALESCE_S`.

    Raises the request's error after what was generated before it.
    """
    read = 0
    while True:
        await live.growth()
        done = live.done
        fresh = live.tokens[read:]
        read += len(fresh)
        text = decoder.feed(fresh) + (decoder.finish() if done else "")
        if text:
            yield text
        if done:
            break
        if read:
            await asyncio.sleep(COALESCE_S)
    if live.error:
        raise live.error


async def whole(live: LiveRequest, decoder: AnswerDecoder) -> str:
    """The finished answer. Raises the request's error."""
    await live.ended()
    if live.error:
        raise live.error
    return decoder.feed(live.tokens) + decoder.finish()
