"""The predictor process: `python -m gateway.prediction.serving.process`, a child of the gateway.

Reads `frames.Request` from stdin, writes `frames.Reply` to stdout, logs to stderr, and ends at once
when stdin closes: then the gateway is gone. One thread reads; one answers what has arrived, a
micro-batch at a time; one loads versions, which nobody waits for.
"""

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import BinaryIO, Final, TypeAlias

from gateway.logs import set_up_logging
from gateway.prediction.features.embedder import Embedder
from gateway.prediction.features.text_encoder import TextEncoder
from gateway.prediction.serving.frames import (
    LoadVersion,
    PredictorReply,
    Readable,
    Ready,
    RequestDropped,
    ScoreRequest,
    encode_frame,
    read_request,
)
from gateway.prediction.serving.scorer import Scorer

STDIN: Final = 0
MAX_READ_BYTES: Final = 1 << 20
MAX_BATCH_REQUESTS: Final = 32  # questions: the next ones wait for them
EMBEDDER_THREAD: Final = "embedder"  # the name of its thread
SWITCH_INTERVAL_S: Final = 0.0005  # for which the thread that answers waits for another to let go
EMBEDDER_NICENESS: Final = 19  # niceness

ScoreQueue: TypeAlias = SimpleQueue[ScoreRequest]
LoadQueue: TypeAlias = SimpleQueue[LoadVersion]


class PipeReader:
    """The receiving end of a pipe, unbuffered.

    A thread blocked in `sys.stdin` holds a lock that the interpreter's exit needs; here it holds
    none, so the process can end with its own error.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer only where the pipe was closed. Blocks."""
        found = bytearray()
        while len(found) < size:
            part = os.read(self._descriptor, min(size - len(found), MAX_READ_BYTES))
            if not part:
                break
            found += part
        return bytes(found)


class ReplyWriter:
    """The pipe to the gateway, written by two threads."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lock = Lock()

    def send(self, replies: Sequence[PredictorReply]) -> None:
        """Write replies, if there are any."""
        if replies:
            with self._lock:
                self._pipe.write(b"".join(encode_frame(reply) for reply in replies))
                self._pipe.flush()


def answer_requests(scorer: Scorer, asks: ScoreQueue, replies: ReplyWriter) -> None:
    """Answer what is asked, oldest first, for ever."""
    waiting: deque[ScoreRequest] = deque()
    while True:
        waiting.extend(take_arrived(asks, wait=not waiting))
        batch, dropped = next_batch(waiting, time.monotonic())
        replies.send([*dropped, *scorer.answer(batch)])


def take_arrived(asks: ScoreQueue, *, wait: bool) -> list[ScoreRequest]:
    """Everything that has arrived; with `wait` at least one."""
    batch = [asks.get()] if wait else []
    while True:
        try:
            batch.append(asks.get_nowait())
        except Empty:
            return batch


def next_batch(
    asks: deque[ScoreRequest], now_s: float
) -> tuple[list[ScoreRequest], list[RequestDropped]]:
    """Takes the next MAX_BATCH_REQUESTS questions out of `asks`, and those that waited too long."""
    batch: list[ScoreRequest] = []
    dropped: list[RequestDropped] = []
    while asks and len(batch) < MAX_BATCH_REQUESTS:
        ask = asks.popleft()
        if ask.deadline_s > now_s:
            batch.append(ask)
        else:
            dropped.append(RequestDropped(ask.number))
    return batch, dropped


def load_versions(scorer: Scorer, loads: LoadQueue, replies: ReplyWriter) -> None:
    """Load the versions that are ordered, one after another, for ever."""
    while True:
        replies.send([scorer.load(loads.get())])


def read_requests(pipe: Readable, asks: ScoreQueue, loads: LoadQueue) -> None:
    """Pass on what the gateway sends until the pipe closes; then this process ends."""
    while (request := read_request(pipe)) is not None:
        if isinstance(request, ScoreRequest):
            asks.put(request)
        else:
            loads.put(request)
    os._exit(0)


def prioritise_answers() -> None:
    """Let the thread that answers go before the others, above all before the embedder."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for thread in threading.enumerate():
        if thread.name == EMBEDDER_THREAD and thread.native_id is not None:
            with suppress(OSError):  # only Linux gives threads priorities of their own
                os.setpriority(os.PRIO_PROCESS, thread.native_id, EMBEDDER_NICENESS)


def main() -> None:
    """Serve the gateway that started this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gateway's to handle
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints spoils no frame
    set_up_logging("info")
    asks: ScoreQueue = SimpleQueue()
    loads: LoadQueue = SimpleQueue()
    replies = ReplyWriter(pipe)
    texts = TextEncoder()
    texts.encode("warm up")
    scorer = Scorer(texts, Embedder())
    prioritise_answers()
    replies.send([Ready()])
    Thread(target=read_requests, args=(PipeReader(STDIN), asks, loads), daemon=True).start()
    Thread(target=load_versions, args=(scorer, loads, replies), daemon=True).start()
    answer_requests(scorer, asks, replies)


if __name__ == "__main__":
    main()
