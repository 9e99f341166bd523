import asyncio

import pytest

from gateway.prediction.serving import heartbeat
from gateway.prediction.serving.heartbeat import MAX_MISSED_BEATS, MAX_START_BEATS, Heartbeat
from tests.conftest import PATIENCE_S


@pytest.mark.parametrize(("replied", "beats"), [(False, MAX_START_BEATS), (True, MAX_MISSED_BEATS)])
async def test_process_is_lost_after_beats_without_a_reply_and_has_longer_to_start(
    monkeypatch: pytest.MonkeyPatch, replied: bool, beats: int
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.0)
    asked: list[None] = []
    watched = Heartbeat(lambda: asked.append(None))
    if replied:
        watched.heard()
    await asyncio.wait_for(watched.lost(), PATIENCE_S)
    assert len(asked) == beats


async def test_reply_after_a_few_missed_beats_counts_from_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.0)
    asked: list[None] = []

    def ask() -> None:
        asked.append(None)
        if len(asked) in {MAX_MISSED_BEATS, 2 * MAX_MISSED_BEATS - 1}:
            watched.heard()

    watched = Heartbeat(ask)
    watched.heard()
    await asyncio.wait_for(watched.lost(), PATIENCE_S)
    assert len(asked) == 3 * MAX_MISSED_BEATS - 2
