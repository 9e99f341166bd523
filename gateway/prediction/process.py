"""The predictor process: `python -m gateway.prediction.process`, a child of the gateway.

Reads `frames.Request` from stdin, writes `frames.Reply` to stdout, logs to stderr, and ends at once
when stdin closes: then the gateway is gone. Questions that wait are embedded in micro-batches.
"""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import BinaryIO, TypeAlias

from gateway.logs import set_up_logging
from gateway.prediction.embedder import MOST_TEXTS, Embedder
from gateway.prediction.frames import (
    Ask,
    Load,
    Ready,
    Reply,
    Request,
    frame,
    read_request,
)
from gateway.prediction.scorer import Scorer

Requests: TypeAlias = SimpleQueue[Request]


def serve(scorer: Scorer, requests: Requests, replies: BinaryIO) -> None:
    """Answer for ever: each question at once without its embedding, then with it, oldest first."""
    unembedded: deque[Ask] = deque()
    while True:
        fresh = arrived(requests, wait=not unembedded)
        asks = [each for each in fresh if isinstance(each, Ask)]
        loaded: list[Reply] = [scorer.load(each) for each in fresh if isinstance(each, Load)]
        send(replies, [*loaded, *scorer.hasten(asks)])
        unembedded.extend(asks)
        send(replies, scorer.answer(oldest(unembedded, time.monotonic())))


def arrived(requests: Requests, *, wait: bool) -> list[Request]:
    """Everything that has arrived; with `wait` at least one."""
    batch = [requests.get()] if wait else []
    while True:
        try:
            batch.append(requests.get_nowait())
        except Empty:
            return batch


def oldest(asks: deque[Ask], now_s: float) -> list[Ask]:
    """Takes the next MOST_TEXTS questions out of `asks`, and those nobody waits for any more."""
    batch: list[Ask] = []
    while asks and len(batch) < MOST_TEXTS:
        ask = asks.popleft()
        if ask.deadline_s > now_s:
            batch.append(ask)
    return batch


def send(replies: BinaryIO, answers: Sequence[Reply]) -> None:
    """Write answers, if there are any."""
    if answers:
        replies.write(b"".join(frame(answer) for answer in answers))
        replies.flush()


def read_all(pipe: BinaryIO, requests: Requests) -> None:
    """Queue requests until the pipe closes, then end the process."""
    while (request := read_request(pipe)) is not None:
        requests.put(request)
    os._exit(0)


def main() -> None:
    """Serve the gateway that started this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gateway's to handle
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints spoils no frame
    set_up_logging("info")
    requests: Requests = SimpleQueue()
    Thread(target=read_all, args=(sys.stdin.buffer, requests), daemon=True).start()
    scorer = Scorer(Embedder())
    replies.write(frame(Ready()))
    replies.flush()
    serve(scorer, requests, replies)


if __name__ == "__main__":
    main()
