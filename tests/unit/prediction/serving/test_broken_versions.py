"""A version with which the process ends again and again is given up for the one before it."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from gateway.errors import PredictorRefused, Unavailable
from gateway.prediction.serving import process_client
from gateway.prediction.serving.process_client import MAX_LOADS, PredictorClient

# It predicts with good versions, and ends when it is to load or to use others.
PROCESS = """
import os, sys
from gateway.prediction.serving.frames import *

def send(reply):
    os.write(1, encode_frame(reply))

version = None
send(Ready())
while (request := read_request(sys.stdin.buffer)) is not None:
    if isinstance(request, LoadVersion):
        if request.artefact.endswith(b"ends when loaded"):
            os._exit(3)
        version = request
        send(VersionLoaded(version.predictor, None))
    elif isinstance(request, ScoreRequest):
        if version.artefact.endswith(b"ends when used"):
            os._exit(3)
        if version.artefact.endswith(b"damages replies"):
            os.write(1, (4).to_bytes(HEADER_BYTES, "big") + b"????")
        scored = VersionScore(version.predictor, (1.0,) * 6, 1.0)
        send(ScoreReply(request.number, None, b"", scored, "text", last=True))
    elif isinstance(request, Ping):
        send(Pong())
"""


@pytest.fixture
async def client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[PredictorClient, list[tuple[UUID, UUID | None]]]]:
    """A client of such a process, and the versions that it has given up."""
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    monkeypatch.setattr(process_client, "COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(process_client, "FIRST_BACKOFF_S", 0.01)
    broken: list[tuple[UUID, UUID | None]] = []
    client = PredictorClient(on_broken=lambda version, before: broken.append((version, before)))
    client.start()
    await client.ready()
    yield client, broken
    await client.close()


async def score(client: PredictorClient) -> UUID | None:
    """The version that predicts a request; None if the process ended."""
    first = client.request_score(
        app=uuid4(), instruction_hash=b"", instruction="", user_input="", features=b""
    )
    reply = await first
    return None if reply is None or reply.scored is None else reply.scored.predictor


async def test_version_that_cannot_be_loaded_is_refused_after_some_tries(
    client: tuple[PredictorClient, list[tuple[UUID, UUID | None]]],
) -> None:
    process, _ = client
    good, bad = uuid4(), uuid4()
    await process.load(good, "hash", b"good")
    assert await score(process) == good
    for _ in range(MAX_LOADS):
        with pytest.raises(Unavailable):
            await process.load(bad, "hash", b"ends when loaded")
        await process.ready()
    with pytest.raises(PredictorRefused, match=f"ended {MAX_LOADS} times"):
        await process.load(bad, "hash", b"ends when loaded")
    assert await score(process) == good
    await process.load(bad, "hash", b"other bytes of it")
    assert await score(process) == bad


@pytest.mark.parametrize("fault", [b"ends when used", b"damages replies"])
async def test_version_in_use_that_ends_the_process_gives_way_to_the_one_before(
    client: tuple[PredictorClient, list[tuple[UUID, UUID | None]]], fault: bytes
) -> None:
    process, broken = client
    good, bad = uuid4(), uuid4()
    await process.load(good, "hash", b"good")
    assert await score(process) == good
    await process.load(bad, "hash", fault)
    for _ in range(MAX_LOADS):
        assert await score(process) is None
        await process.ready()
    assert broken == [(bad, good)]
    assert await score(process) == good


async def test_version_that_a_gateway_starts_with_does_not_keep_its_process_away(
    client: tuple[PredictorClient, list[tuple[UUID, UUID | None]]],
) -> None:
    process, broken = client
    bad = uuid4()
    process._ready.clear()  # the version is known before the process is ready
    await process.load(bad, "hash", b"ends when loaded")
    assert process._process is not None
    process._process.kill()
    await process.ready()
    assert broken == [(bad, None)]
