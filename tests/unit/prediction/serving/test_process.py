import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from queue import SimpleQueue
from threading import Event
from uuid import UUID

import numpy as np
import pytest

from gateway.prediction.features import embedder
from gateway.prediction.features.embedder import Embedded
from gateway.prediction.features.embedder_model import EmbedderModel, packaged_embedder
from gateway.prediction.features.text_encoder import TextEncoder
from gateway.prediction.serving.frames import (
    Ping,
    RequestDropped,
    RequestsStarted,
    ScoreRequest,
)
from gateway.prediction.serving.process import ReplyWriter, answer_requests, take_arrived
from gateway.prediction.serving.score_queue import MAX_BATCH_REQUESTS, ScoreQueue
from gateway.prediction.serving.scorer import Arrivals, EncodedRequest, Scorer
from gateway.prediction.work_limits import WorkHung, WorkLimits
from tests.conftest import PATIENCE_S


def a_score_request(number: int, deadline_s: float = 10.0) -> ScoreRequest:
    return ScoreRequest(number, deadline_s, UUID(int=1), b"", "", "", b"")


def taken(queue: ScoreQueue, now_s: float = 0.0) -> list[int]:
    return [request.number for request in queue.next_batch(now_s)[0]]


def test_all_that_arrived_is_taken_at_once() -> None:
    arrivals: Arrivals = SimpleQueue()
    encoded = EncodedRequest(a_score_request(4), np.zeros(1, dtype=np.float16))
    messages = [
        *(a_score_request(number) for number in range(3)),
        RequestsStarted((1,)),
        Embedded(encoded, b"vector"),
    ]
    for message in messages:
        arrivals.put(message)
    assert take_arrived(arrivals, wait=True) == messages
    assert take_arrived(arrivals, wait=False) == []


def test_oldest_requests_are_scored_first_in_bounded_batches() -> None:
    queue = ScoreQueue()
    queue.add(a_score_request(number) for number in range(MAX_BATCH_REQUESTS + 1))
    assert taken(queue) == list(range(MAX_BATCH_REQUESTS))
    assert taken(queue) == [MAX_BATCH_REQUESTS]
    assert not queue


def test_requests_that_wait_are_scored_before_those_that_started() -> None:
    queue, count = ScoreQueue(), MAX_BATCH_REQUESTS + 8
    queue.add(a_score_request(number) for number in range(count))
    queue.add([RequestsStarted((3, 0, 999)), RequestsStarted((5, 3))])
    first = [number for number in range(count) if number not in {0, 3, 5}]
    assert taken(queue) == first[:MAX_BATCH_REQUESTS]
    assert taken(queue) == [*first[MAX_BATCH_REQUESTS:], 3, 0, 5]


def test_requests_past_their_deadline_are_dropped() -> None:
    queue = ScoreQueue()
    queue.add([a_score_request(1, deadline_s=1.0), a_score_request(2, deadline_s=3.0)])
    batch, dropped = queue.next_batch(2.0)
    assert [request.number for request in batch] == [2]
    assert dropped == [RequestDropped(1)]
    assert not queue


def test_started_requests_do_not_pile_up_behind_those_that_wait() -> None:
    queue = ScoreQueue()
    for second in range(100):
        numbers = range(100 * second, 100 * (second + 1))
        queue.add(a_score_request(number, second + 10.0) for number in numbers)
        queue.add([RequestsStarted(tuple(numbers[40:]))])
        queue.next_batch(float(second))
        assert len(queue) <= 11 * 100


@pytest.fixture
def released() -> Iterator[Event]:
    """What a thread that hangs waits for, until the test ends."""
    event = Event()
    yield event
    event.set()


@pytest.mark.parametrize("hangs", ["load the embedder", "embed texts"])
def test_embedder_that_hangs_ends_the_answering_of_pings(
    hangs: str, released: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = Event()

    class HangingEncoder:
        def __init__(self, _: EmbedderModel) -> None:
            self._hang("load the embedder")

        def embed(self, texts: Sequence[str]) -> list[bytes]:
            self._hang("embed texts")
            return [b""] * len(texts)

        def _hang(self, work: str) -> None:
            if work == hangs:
                began.set()
                released.wait()

    for limit in ("LOAD_LIMIT_S", "BATCH_LIMIT_S"):
        monkeypatch.setattr(embedder, limit, 0.0)
    monkeypatch.setattr(embedder, "SentenceEncoder", HangingEncoder)
    arrivals: Arrivals = SimpleQueue()
    limits, pipe = WorkLimits(), BytesIO()
    scorer = Scorer(TextEncoder(), packaged_embedder(), arrivals, limits)
    scorer.score([a_score_request(1, deadline_s=time.monotonic() + PATIENCE_S)])
    assert began.wait(PATIENCE_S)
    arrivals.put(Ping())
    with pytest.raises(WorkHung, match=f"to {hangs} took longer than 0 s"):
        answer_requests(scorer, arrivals, ReplyWriter(pipe), limits)
    assert pipe.getvalue() == b""


def test_work_within_its_limit_or_done_is_not_overdue() -> None:
    limits = WorkLimits()
    with limits.limit("load a version", PATIENCE_S):
        limits.check()
    with limits.limit("embed texts", 0.0):
        pass
    limits.check()
