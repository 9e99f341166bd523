from collections import deque
from queue import SimpleQueue
from uuid import UUID

from gateway.prediction.serving.frames import RequestDropped, ScoreRequest
from gateway.prediction.serving.process import (
    MAX_BATCH_REQUESTS,
    ScoreQueue,
    next_batch,
    take_arrived,
)


def an_ask(number: int, deadline_s: float = 10.0) -> ScoreRequest:
    return ScoreRequest(number, deadline_s, UUID(int=1), b"", "", "", b"")


def test_everything_that_arrived_is_taken_at_once() -> None:
    requests: ScoreQueue = SimpleQueue()
    asks = [an_ask(number) for number in range(3)]
    for ask in asks:
        requests.put(ask)
    assert take_arrived(requests, wait=True) == asks
    assert take_arrived(requests, wait=False) == []


def test_oldest_questions_are_answered_first_and_a_few_at_a_time() -> None:
    asks = deque(an_ask(number) for number in range(MAX_BATCH_REQUESTS + 1))
    assert [ask.number for ask in next_batch(asks, 0.0)[0]] == list(range(MAX_BATCH_REQUESTS))
    assert [ask.number for ask in asks] == [MAX_BATCH_REQUESTS]


def test_questions_nobody_waits_for_are_not_answered() -> None:
    asks = deque([an_ask(1, deadline_s=1.0), an_ask(2, deadline_s=3.0)])
    batch, dropped = next_batch(asks, 2.0)
    assert [ask.number for ask in batch] == [2]
    assert dropped == [RequestDropped(1)]
    assert not asks
