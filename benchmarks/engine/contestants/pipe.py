"""The contestant's end of the pipe: tasks arrive on stdin, one JSON line each; answers on stdout.

Also imported in vLLM's environment, hence standard library only.
"""

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any, TypeAlias

Task: TypeAlias = list[tuple[list[int], int]]  # prompts, each with the number of tokens to generate
Tokens: TypeAlias = list[list[int]]
Answer: TypeAlias = Callable[[Task], Tokens]


class Channel:
    """JSON lines on stdin and stdout; from its construction on, other output goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def serve(self, answer: Callable[[Any], dict[str, object]]) -> None:
        """Answer each message until stdin ends."""
        self._write({"ready": True})
        for line in sys.stdin:
            self._write(answer(json.loads(line)))

    def _write(self, message: dict[str, object]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()


def serve(prepare: Callable[[Namespace], AbstractContextManager[Answer]], *numbers: str) -> None:
    """Load the model with `prepare`, then answer tasks until stdin ends, each with its duration.

    The command line takes the model's folder, `--threads`, and each of `numbers`.
    """
    parser = ArgumentParser()
    parser.add_argument("folder")
    for number in ("--threads", *numbers):
        parser.add_argument(number, type=int, required=True)
    channel = Channel()
    with prepare(parser.parse_args()) as answer:

        def timed(task: Any) -> dict[str, object]:
            start = perf_counter()
            tokens = answer([(prompt, count) for prompt, count in task])
            return {"wall_s": perf_counter() - start, "tokens": tokens}

        channel.serve(timed)
