"""Lock-step batches of the engine process: returned for lack of memory, continued in halves."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from engine.protocol import Sampling, Sequence, SetMode, SubmitBatch
from gateway.scheduling.magnus.lockstep import halves_of


@pytest.fixture(scope="module")
def tight(start_engine: Callable) -> Any:
    """An engine of 16 pages of 16 tokens."""
    engine = start_engine(LMAAS_KV_TOKENS="256", LMAAS_ENGINE_STEP_TOKENS="48")
    engine.wait_until_ready()
    return engine


def some_sequences(a_sequence: Callable) -> list[Sequence]:
    """Eight sequences of 5 pages each at their end."""
    return [
        a_sequence(
            prompt=[7 + n] * (11 + n),
            max_tokens=61,
            sampling=Sampling(temperature=1.0, seed=n, logit_bias={2: -100.0}),
        )
        for n in range(8)
    ]


def tokens_of(stream: Any, sequence: Sequence) -> list[int]:
    """The tokens of a sequence under all its ids."""
    names = {name for step in stream.steps for name in step.tokens if _origin(name) == sequence.id}
    return [token for name in sorted(names, key=len) for token in stream.tokens(name)]


def _origin(name: str) -> str:
    return name.rstrip("'")


async def continue_halves(gateway: Any, stream: Any, sequences: list[Sequence]) -> int:
    """Submit what is returned again in halves until all have ended; how often that was."""
    known = {sequence.id: sequence for sequence in sequences}
    taken: list[list[str]] = []

    def returned() -> list[list[str]]:
        return [step.returned for step in stream.steps if step.returned]

    def ended() -> bool:
        return {_origin(name) for name in stream.finishes} >= known.keys()

    while not ended():
        await stream.until(lambda _: ended() or len(returned()) > len(taken))
        for batch in returned()[len(taken) :]:
            assert (await gateway.http.get("/audit")).json() == {"wrong": None}
            for half in halves_of([known[_origin(name)] for name in batch]):
                again = [
                    structs.replace(
                        sequence,
                        id=next(n for n in batch if _origin(n) == sequence.id) + "'",
                        generated=tokens_of(stream, sequence),
                    )
                    for sequence in half
                ]
                assert not (await gateway.submit(*again)).refused
            taken.append(batch)
    return len(taken)


async def test_halves_of_a_returned_batch_give_the_tokens_of_an_unsplit_run(
    tight: Any, connect: Callable, gateway: Any, a_sequence: Callable
) -> None:
    sequences = some_sequences(a_sequence)
    async with gateway.events() as unsplit:
        await gateway.submit(*sequences)
        await unsplit.until(lambda stream: len(stream.finishes) == len(sequences))
    async with connect(tight) as session, session.events() as stream:
        await session.operate(SetMode("lockstep"))
        await session.submit(*sequences)
        splits = await continue_halves(session, stream, sequences)
        stats = await session.stats()
    assert splits >= 3  # 8, and both halves of 4
    expected = [unsplit.tokens(sequence.id) for sequence in sequences]
    assert [tokens_of(stream, sequence) for sequence in sequences] == expected
    assert {finish.reason for finish in stream.finishes.values()} == {"length"}
    assert (stats["free"], stats["failed"], stats["preemptions"]) == (16, 0, 0)
    assert stats["returned_batches"] == splits


async def test_a_repeated_submission_of_a_returned_batch_runs_nothing(
    tight: Any, connect: Callable, a_sequence: Callable
) -> None:
    sequences = some_sequences(a_sequence)
    async with connect(tight) as session, session.events() as stream:
        await session.operate(SetMode("lockstep"))
        await session.submit(*sequences)
        await stream.until(lambda stream: any(step.returned for step in stream.steps))
        await session.submit(*sequences)
        last = a_sequence()
        await session.submit(last)
        await stream.until(lambda stream: last.id in stream.finishes)
        assert stream.finishes.keys() == {last.id}
        assert (await session.stats())["free"] == 16


async def test_the_next_gateway_sees_nothing_of_a_returned_batch(
    tight: Any, connect: Callable, a_sequence: Callable
) -> None:
    sequences = some_sequences(a_sequence)
    async with connect(tight) as session, session.events() as stream:
        await session.operate(SetMode("lockstep"), SubmitBatch("batch", sequences))
        await stream.until(lambda stream: stream.steps)
        async with connect(tight) as successor, successor.events() as others:
            await successor.submit(own := a_sequence(max_tokens=40))
            await others.until(lambda stream: own.id in stream.finishes)
            assert not any(step.returned for step in others.steps)
            assert len(others.tokens(own.id)) == 40
            assert (await successor.stats())["free"] == 16
            assert (await successor.http.get("/audit")).json() == {"wrong": None}
