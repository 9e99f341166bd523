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
from typing import TextIO, TypeAlias

Task: TypeAlias = list[tuple[list[int], int]]  # prompts, each with the number of tokens to generate
Tokens: TypeAlias = list[list[int]]
Answer: TypeAlias = Callable[[Task], Tokens]


def serve(prepare: Callable[[Namespace], AbstractContextManager[Answer]], *numbers: str) -> None:
    """Load the model with `prepare`, then answer tasks until stdin ends, each with its duration.

    The command line takes the model's folder, `--threads`, and each of `numbers`. Output of
    libraries goes to stderr.
    """
    parser = ArgumentParser()
    parser.add_argument("folder")
    for number in ("--threads", *numbers):
        parser.add_argument(number, type=int, required=True)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with prepare(parser.parse_args()) as answer:
        _write(channel, {"ready": True})
        for line in sys.stdin:
            task = [(prompt, tokens) for prompt, tokens in json.loads(line)]
            start = perf_counter()
            tokens = answer(task)
            _write(channel, {"wall_s": perf_counter() - start, "tokens": tokens})


def _write(channel: TextIO, message: dict[str, object]) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()
