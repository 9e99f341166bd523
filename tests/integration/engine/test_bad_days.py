"""The engine process reports invalid calls, survives them, and survives random work."""

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.protocol import (
    Cancel,
    Drain,
    Pause,
    Pin,
    Resume,
    Revise,
    Sampling,
    SetMode,
    Unpin,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
OPERATIONS = ["submit", "cancel", "revise", "pin", "unpin", "pause", "resume", "drain", "mode", "?"]


def ended_or_returned(stream: Any) -> set[str]:
    return stream.finishes.keys() | {name for step in stream.steps for name in step.returned}


async def pages_are_consistent(gateway: Any) -> bool:
    return (await gateway.http.get("/audit")).json() == {"wrong": None}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": [1] * 5000}, "the engine's context is"),
        ({"max_tokens": 10**9, "reserve": 1}, "the engine's context is"),
        ({"stop_ids": list(range(10**6))}, "is outside the vocabulary of"),
        ({"sampling": Sampling(logit_bias={10**6: 1.0})}, "token id 1000000 is outside"),
        ({"sampling": Sampling(allowed=[-1])}, "token id -1 is outside"),
    ],
)
async def test_an_invalid_sequence_is_refused_with_the_reason(
    fields: dict[str, Any], message: str, gateway: Any, a_sequence: Callable
) -> None:
    [refused] = (await gateway.submit(a_sequence(**fields))).refused
    assert message in refused.reason


@pytest.mark.parametrize(
    ("sampling", "path"),
    [
        ({"temperature": -1}, "sampling.temperature"),
        ({"top_p": 0}, "sampling.top_p"),
        ({"min_p": 2}, "sampling.min_p"),
        ({"top_k": -5}, "sampling.top_k"),
        ({"repetition_penalty": 0}, "sampling.repetition_penalty"),
        ({"logprobs": 1000}, "sampling.logprobs"),
        ({"logit_bias": {"7": "much"}}, "sampling.logit_bias"),
    ],
)
async def test_invalid_sampling_is_reported_with_its_path(
    sampling: dict[str, Any], path: str, gateway: Any
) -> None:
    sequence = {"id": "s", "prompt": [1], "max_tokens": 1, "reserve": 1, "sampling": sampling}
    operation = {"op": "submit", "batch": "b", "sequences": [sequence]}
    body = {"session": gateway.session, "epoch": gateway.epoch, "operations": [operation]}
    answer = await gateway.http.post("/submit", content=msgspec.json.encode(body))
    assert answer.status_code == 400
    assert path in answer.json()["error"]


async def test_any_body_is_accepted_or_answered_with_an_error(gateway: Any) -> None:
    bodies: list[bytes] = []

    @settings(max_examples=150, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(OPERATIONS), st.dictionaries(st.text(max_size=8), JSON), JSON)
    def collect(name: str, fields: dict[str, Any], anything: Any) -> None:
        operation = {**fields, "op": name, "sequences": anything, "ids": anything, "batch": "b"}
        body = {"session": gateway.session, "epoch": gateway.epoch, "operations": [operation]}
        bodies.extend((msgspec.json.encode(body), msgspec.json.encode(anything)))

    collect()
    for body in bodies:
        answer = await gateway.http.post("/submit", content=body)
        assert answer.status_code in {200, 400}, answer.text
    assert await pages_are_consistent(gateway)


async def test_a_draining_engine_refuses_new_sequences_until_it_is_resumed(
    gateway: Any, a_sequence: Callable
) -> None:
    async with gateway.events() as stream:
        running = a_sequence(max_tokens=64)
        await gateway.submit(running)
        await gateway.operate(Drain())
        [refused] = (await gateway.submit(new := a_sequence())).refused
        assert "draining" in refused.reason
        await stream.until(lambda stream: running.id in stream.finishes)
        await gateway.operate(Resume())
        assert not (await gateway.submit(new)).refused
        await stream.until(lambda stream: new.id in stream.finishes)
    assert stream.finishes[running.id].reason == "length"


async def test_the_next_gateway_finds_neither_pause_nor_drain_nor_lockstep(
    gateway: Any, a_sequence: Callable, connect: Callable
) -> None:
    await gateway.operate(Drain(), SetMode("lockstep"), Pause())
    async with connect(gateway.engine) as successor, successor.events() as stream:
        await successor.submit(sequence := a_sequence())
        await stream.until(lambda stream: sequence.id in stream.finishes)
        stats = await successor.stats()
    assert (stats["mode"], stats["paused"], stats["draining"]) == ("continuous", False, False)


@pytest.fixture(scope="module")
def small(start_engine: Callable) -> Any:
    """An engine that holds little, and on the host less."""
    engine = start_engine(
        LMAAS_KV_TOKENS="512", LMAAS_ENGINE_STEP_TOKENS="48", LMAAS_HOST_KV_TOKENS="256"
    )
    engine.wait_until_ready()
    return engine


@pytest.mark.parametrize("seed", range(2))
async def test_random_work_leaves_every_page_in_its_place(
    seed: int, small: Any, connect: Callable, a_sequence: Callable
) -> None:
    random = Random(seed)
    sent: list[str] = []

    def some_operation() -> Any:
        names = random.sample(sent, min(len(sent), 3))
        operations = [
            Cancel(names),
            Revise({name: random.randrange(200) for name in names}),
            Pin(random.choice("xyz"), [1] * random.randrange(1, 60), "a"),
            Unpin([random.choice("xyz")]),
            SetMode(random.choice(["lockstep", "continuous"])),
            Pause(),
        ]
        return random.choice([*operations, *[Resume()] * 6])

    async with connect(small) as gateway, gateway.events() as stream:
        for _ in range(40):
            batch = [
                a_sequence(
                    prompt=[1] * random.randrange(1, 60) + [random.randrange(90)],
                    max_tokens=(max_tokens := random.randrange(1, 90)),
                    reserve=random.randrange(1, max_tokens + 1),
                    salt=random.choice("ab"),
                    sampling=Sampling(
                        temperature=random.choice([0, 1]),
                        logprobs=random.choice([None, 0, 3]),
                        repetition_penalty=random.choice([1, 1.2]),
                    ),
                )
                for _ in range(random.randrange(4))
            ]
            sent += [sequence.id for sequence in batch]
            await gateway.submit(*batch)
            await gateway.operate(some_operation())
            assert await pages_are_consistent(gateway)
        await gateway.operate(Resume())
        await stream.until(lambda stream: ended_or_returned(stream) >= set(sent))
        assert await pages_are_consistent(gateway)
        await gateway.operate(Unpin(list("xyz")))
        assert await pages_are_consistent(gateway)  # and the loop has obeyed
        stats = await gateway.stats()
    assert (stats["free"], stats["swapped"], stats["failed"]) == (stats["pages"], 0, 0)
