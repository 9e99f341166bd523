from queue import SimpleQueue
from uuid import UUID

import numpy as np

from gateway.prediction.features.embedder import Embedded
from gateway.prediction.serving.frames import RequestDropped, RequestsStarted, ScoreRequest
from gateway.prediction.serving.process import take_arrived
from gateway.prediction.serving.score_queue import MAX_BATCH_REQUESTS, ScoreQueue
from gateway.prediction.serving.scorer import Arrivals, EncodedRequest


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
