"""What is checked of a gateway in front of two servers: one is lost and returns, one is drained."""

import asyncio
from collections.abc import Mapping
from typing import Final

from tests.upstream.checks import CLIENTS, Check
from tests.upstream.pair import MOVED, SUBMITTED, Pair, Story

LEAST_SHARE: Final = 0.25  # of the tokens, of each of two equal servers
AT_ONCE: Final = 2 * CLIENTS  # more than both are given at once


async def divided(at: Pair) -> str:
    """Requests go to both servers."""
    before = await at.generated()
    await at.check_whole(await asyncio.gather(*map(at.story, range(AT_ONCE))))
    tokens = [now - then for now, then in zip(await at.generated(), before, strict=True)]
    shares = [count / sum(tokens) for count in tokens]
    assert min(shares) >= LEAST_SHARE, tokens
    return f"{shares[0]:.0%} and {shares[1]:.0%} of the tokens"


async def killed(at: Pair) -> str:
    """kill -9 of a server under load: the other goes on; the first gets work when it is back."""
    undisturbed = await asyncio.gather(*map(at.story, range(CLIENTS)))
    streams = await _under_way(at, CLIENTS)
    number = max(await at.engines(), key=lambda engine: int(engine["running"]))["number"]
    lost = at.servers[number]
    lost.kill()
    lost.start()
    ended = await asyncio.gather(*streams)
    await at.check_whole(ended, 1 - number)
    moved = sum((await at.counted(MOVED)).values())
    assert moved, "no sequence went on at the other server"
    await asyncio.to_thread(lost.wait)
    await at.until(lambda engines: bool(engines[number]["connected"]))
    before = (await at.generated())[number]  # when it was probed
    await at.check_whole(await asyncio.gather(*map(at.story, range(CLIENTS))))
    tokens = (await at.generated())[number] - before
    assert tokens, "the server that returned got nothing"
    same = sum(one.text == other.text for one, other in zip(undisturbed, ended, strict=True))
    return (
        f"{CLIENTS} of {CLIENTS} ended in full, {moved:.0f} went on at the other server, {same} "
        f"are as without the loss; back, it generated {tokens:.0f} tokens"
    )


async def drained(at: Pair) -> str:
    """A drained server ends what it has, gets nothing new, and serves again when resumed."""
    streams = await _under_way(at, AT_ONCE)
    await at.command("drain", 0)
    before = await at.counted(SUBMITTED)
    await at.until(lambda engines: engines[0]["running"] == 0)
    left = sum(not stream.done() for stream in streams)
    assert left, "all had ended before the server was empty"
    ended = await asyncio.gather(*streams)
    after = await at.counted(SUBMITTED)
    await at.command("resume", 0)
    await at.check_whole(ended)
    assert after["0"] == before["0"], "it got something new"
    await at.check_whole(await asyncio.gather(*map(at.story, range(CLIENTS))))
    assert (await at.counted(SUBMITTED))["0"] > after["0"], "it got nothing when it was resumed"
    return f"{left} of {AT_ONCE} ended at the other server after it was empty"


async def _under_way(at: Pair, count: int) -> list[asyncio.Task[Story]]:
    """Streams of which as many have begun as a server runs at once, and none has ended."""
    begun: set[int] = set()
    streams = [asyncio.create_task(at.story(number, begun)) for number in range(count)]
    while len(begun) < at.slots:
        assert not any(stream.done() for stream in streams), "they ended before others began"
        await asyncio.sleep(0.02)
    return streams


PAIR_CHECKS: Final[Mapping[str, Check[Pair]]] = {
    "requests are divided": divided,
    "kill -9 of one under load, and its return": killed,
    "one is drained and resumed": drained,
}
