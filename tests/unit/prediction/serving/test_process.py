from collections import deque
from queue import SimpleQueue
from uuid import UUID

import numpy as np

from gateway.prediction.features.embedder import Embedded
from gateway.prediction.serving.frames import RequestDropped, ScoreRequest
from gateway.prediction.serving.process import (
    MAX_BATCH_REQUESTS,
    next_batch,
    take_arrived,
)
from gateway.prediction.serving.scorer import Arrivals, EncodedRequest


def a_score_request(number: int, deadline_s: float = 10.0) -> ScoreRequest:
    return ScoreRequest(number, deadline_s, UUID(int=1), b"", "", "", b"")


def test_all_arrived_requests_are_taken_at_once() -> None:
    queue: Arrivals = SimpleQueue()
    requests = [a_score_request(number) for number in range(3)]
    for request in requests:
        queue.put(request)
    assert take_arrived(queue, wait=True) == requests
    assert take_arrived(queue, wait=False) == []


def test_embedded_requests_arrive_with_new_ones() -> None:
    queue: Arrivals = SimpleQueue()
    encoded = EncodedRequest(a_score_request(1), np.zeros(1, dtype=np.float16))
    arrived = [Embedded(encoded, b"vector"), a_score_request(2)]
    for each in arrived:
        queue.put(each)
    assert take_arrived(queue, wait=True) == arrived


def test_oldest_requests_are_scored_first_in_bounded_batches() -> None:
    requests = deque(a_score_request(number) for number in range(MAX_BATCH_REQUESTS + 1))
    assert [request.number for request in next_batch(requests, 0.0)[0]] == list(
        range(MAX_BATCH_REQUESTS)
    )
    assert [request.number for request in requests] == [MAX_BATCH_REQUESTS]


def test_requests_past_their_deadline_are_dropped() -> None:
    requests = deque([a_score_request(1, deadline_s=1.0), a_score_request(2, deadline_s=3.0)])
    batch, dropped = next_batch(requests, 2.0)
    assert [request.number for request in batch] == [2]
    assert dropped == [RequestDropped(1)]
    assert not requests
