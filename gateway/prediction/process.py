"""The predictor process: `python -m gateway.prediction.process`, a child of the gateway.

Reads `frames.Request` from stdin, writes `frames.Reply` to stdout, logs to stderr, and ends at once
when stdin closes: then the gateway is gone. One thread reads and scores each question at once,
without its embedding; the other embeds them in micro-batches and scores them again.
"""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import BinaryIO, TypeAlias

from gateway.logs import set_up_logging
from gateway.prediction.embedder import MOST_TEXTS, Embedder
from gateway.prediction.frames import (
    Ask,
    Dropped,
    Ready,
    Reply,
    Request,
    frame,
    read_request,
)
from gateway.prediction.scorer import Scorer

Requests: TypeAlias = SimpleQueue[Request]


class Replies:
    """The pipe to the gateway, written by two threads."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lock = Lock()

    def send(self, replies: Sequence[Reply]) -> None:
        """Write replies, if there are any."""
        if replies:
            with self._lock:
                self._pipe.write(b"".join(frame(reply) for reply in replies))
                self._pipe.flush()


def serve(scorer: Scorer, requests: Requests, replies: Replies) -> None:
    """Load versions and embed what was asked, oldest first, for ever."""
    unembedded: deque[Ask] = deque()
    while True:
        for request in arrived(requests, wait=not unembedded):
            if isinstance(request, Ask):
                unembedded.append(request)
            else:
                replies.send([scorer.load(request)])
        batch, dropped = oldest(unembedded, time.monotonic())
        replies.send([*dropped, *scorer.answer(batch)])


def arrived(requests: Requests, *, wait: bool) -> list[Request]:
    """Everything that has arrived; with `wait` at least one."""
    batch = [requests.get()] if wait else []
    while True:
        try:
            batch.append(requests.get_nowait())
        except Empty:
            return batch


def oldest(asks: deque[Ask], now_s: float) -> tuple[list[Ask], list[Dropped]]:
    """Takes the next MOST_TEXTS questions out of `asks`, and those that waited too long."""
    batch: list[Ask] = []
    dropped: list[Dropped] = []
    while asks and len(batch) < MOST_TEXTS:
        ask = asks.popleft()
        if ask.deadline_s > now_s:
            batch.append(ask)
        else:
            dropped.append(Dropped(ask.number))
    return batch, dropped


def read_all(pipe: BinaryIO, scorer: Scorer, requests: Requests, replies: Replies) -> None:
    """Answer each question without its embedding and queue it, until the pipe closes.

    Then the gateway is gone, and so is this process.
    """
    while (request := read_request(pipe)) is not None:
        if isinstance(request, Ask):
            replies.send(scorer.hasten([request]))
        requests.put(request)
    os._exit(0)


def main() -> None:
    """Serve the gateway that started this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gateway's to handle
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints spoils no frame
    set_up_logging("info")
    requests: Requests = SimpleQueue()
    scorer, replies = Scorer(Embedder()), Replies(pipe)
    replies.send([Ready()])
    reader = (sys.stdin.buffer, scorer, requests, replies)
    Thread(target=read_all, args=reader, daemon=True).start()
    serve(scorer, requests, replies)


if __name__ == "__main__":
    main()
