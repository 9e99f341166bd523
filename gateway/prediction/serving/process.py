"""The predictor process: `python -m gateway.prediction.serving.process`, a child of the gateway.

Reads `frames.PredictorRequest` from stdin, writes `frames.PredictorReply` to stdout, logs to stderr
and exits when stdin closes, since the gateway has ended. One thread reads requests, one scores them
in micro-batches, one loads versions in the background, one embeds texts at the lowest priority. If
a load or an embedding hangs, the process ends, and its supervisor starts it again.
"""

import argparse
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

import structlog

from engine.log_thread import standard_error
from gateway.logs import set_up_child_logging
from gateway.prediction.features.embedder import LOAD_LIMIT_S
from gateway.prediction.features.embedder import THREAD_NAME as EMBEDDER_THREAD
from gateway.prediction.features.embedder_model import find_embedder
from gateway.prediction.features.text_encoder import TextEncoder
from gateway.prediction.serving.frames import (
    LoadVersion,
    Ping,
    Pong,
    PredictorReply,
    Readable,
    Ready,
    RequestsStarted,
    ScoreRequest,
    encode_frame,
    read_request,
)
from gateway.prediction.serving.score_queue import MAX_BATCH_REQUESTS, ScoreQueue
from gateway.prediction.serving.scorer import Arrival, Arrivals, EmbeddedRequest, Scorer
from gateway.prediction.work_limits import WorkHung, WorkLimits

STDIN: Final = 0
MAX_READ_BYTES: Final = 1 << 20
SWITCH_INTERVAL_S: Final = 0.0005  # longest wait of the scoring thread for the GIL
EMBEDDER_NICENESS: Final = 19  # the lowest priority
VERSION_LIMIT_S: Final = 120.0  # to load one, which takes a second

log = structlog.get_logger()

LoadQueue: TypeAlias = SimpleQueue[LoadVersion]


class PipeReader:
    """The receiving end of a pipe, unbuffered.

    A thread blocked in `sys.stdin` holds a lock that the interpreter's exit needs; this one does
    not, so the process can exit with its own error.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer only if the pipe was closed. Blocks."""
        found = bytearray()
        while len(found) < size:
            part = os.read(self._descriptor, min(size - len(found), MAX_READ_BYTES))
            if not part:
                break
            found += part
        return bytes(found)


class ReplyWriter:
    """The pipe to the gateway; thread-safe."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lock = Lock()

    def send(self, replies: Sequence[PredictorReply]) -> None:
        """Write replies, if any."""
        if replies:
            with self._lock:
                self._pipe.write(b"".join(encode_frame(reply) for reply in replies))
                self._pipe.flush()


def answer_requests(
    scorer: Scorer, arrivals: Arrivals, replies: ReplyWriter, limits: WorkLimits
) -> None:
    """Score requests in micro-batches, until another thread hangs: WorkHung at the next ping.

    Second replies, to requests whose embeddings have been computed, wait for all first replies.
    A ping is answered between two micro-batches: it shows that this thread is alive.
    """
    queue = ScoreQueue()
    embedded: deque[EmbeddedRequest] = deque()
    while True:
        for arrived in take_arrived(arrivals, wait=not (queue or embedded)):
            if isinstance(arrived, ScoreRequest | RequestsStarted):
                queue.add([arrived])
            elif isinstance(arrived, Ping):
                limits.check()
                replies.send([Pong()])
            else:
                embedded.append(arrived)
        if queue:
            batch, dropped = queue.next_batch(time.monotonic())
            replies.send([*dropped, *scorer.score(batch)])
        else:
            size = min(len(embedded), MAX_BATCH_REQUESTS)
            replies.send(scorer.score_embedded([embedded.popleft() for _ in range(size)]))


def take_arrived(arrivals: Arrivals, *, wait: bool) -> list[Arrival]:
    """All that has arrived; with `wait` at least one."""
    found = [arrivals.get()] if wait else []
    while True:
        try:
            found.append(arrivals.get_nowait())
        except Empty:
            return found


def load_versions(
    scorer: Scorer, loads: LoadQueue, replies: ReplyWriter, limits: WorkLimits
) -> None:
    """Load queued versions, one after another, forever."""
    while True:
        command = loads.get()
        with limits.limit("import LightGBM", LOAD_LIMIT_S):
            scorer.prepare()
        with limits.limit("load a version", VERSION_LIMIT_S):
            reply = scorer.load(command)
        replies.send([reply])


def read_requests(pipe: Readable, arrivals: Arrivals, loads: LoadQueue) -> None:
    """Queue the gateway's requests until the pipe closes; then exit."""
    while (request := read_request(pipe)) is not None:
        if isinstance(request, LoadVersion):
            loads.put(request)
        else:
            arrivals.put(request)
    os._exit(0)


def prioritise_answers() -> None:
    """Give the scoring thread priority over the others, above all over the embedder."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for thread in threading.enumerate():
        if thread.name == EMBEDDER_THREAD and thread.native_id is not None:
            with suppress(OSError):  # only Linux has priorities per thread
                os.setpriority(os.PRIO_PROCESS, thread.native_id, EMBEDDER_NICENESS)


def main() -> None:
    """Serve the gateway that started this process."""
    parser = argparse.ArgumentParser(description="Predict lengths for the gateway at the pipe.")
    parser.add_argument("--embedder", help="folder of a sentence-transformers model")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gateway's to handle
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a printing library cannot corrupt frames
    set_up_child_logging("info")
    arrivals: Arrivals = SimpleQueue()
    loads: LoadQueue = SimpleQueue()
    replies, limits = ReplyWriter(pipe), WorkLimits()
    texts = TextEncoder()
    texts.encode("warm up")
    scorer = Scorer(texts, find_embedder(arguments.embedder), arrivals, limits)
    prioritise_answers()
    replies.send([Ready()])
    Thread(target=read_requests, args=(PipeReader(STDIN), arrivals, loads), daemon=True).start()
    loading = (scorer, loads, replies, limits)
    Thread(target=load_versions, args=loading, daemon=True).start()
    try:
        answer_requests(scorer, arrivals, replies, limits)
    except WorkHung as hung:
        log.error("predictor_work_hung", reason=str(hung))
        standard_error().drain()
        os._exit(1)  # an orderly exit might wait for the thread that hangs


if __name__ == "__main__":
    main()
