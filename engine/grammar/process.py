"""Compiles grammars for the gateway: `python -m engine.grammar.process`, a child of it.

A grammar may be made to exhaust memory, stack or time. Here it ends a process that runs no request.
What passes here, with less of all three, passes in the engine. Reads a `Grammar` as a line of JSON
from stdin and writes a line to stdout: null if it passes, else the reason as a JSON string. Ends
when stdin closes; by SIGPROF if a grammar takes more than `CPU_S` seconds of processor time.
"""

import argparse
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Final

import msgspec
import numpy as np

from engine.errors import GrammarRefused
from engine.grammar.compiler import CompiledGrammar, Compiler, short_reason
from engine.protocol import Grammar

CPU_S: Final = 2.0
MEMORY_BYTES: Final = 1 << 29
STACK_BYTES: Final = 1 << 20  # less than any thread of the engine has
TRIALS: Final = 4
TRIAL_TOKENS: Final = 64
MAX_TRIALS_S: Final = 0.25  # of processor time; usual are 5 ms


def verdict(compiler: Compiler, grammar: Grammar) -> str | None:
    """Why a grammar cannot be used; None if it compiles and some answers at random go well."""
    try:
        compiled = compiler.compile(grammar)
    except GrammarRefused as error:
        return str(error)
    began_s = time.process_time()
    for seed in range(TRIALS):
        reason = _trial(compiled, Random(seed))
        if reason is not None:
            return reason
    if time.process_time() - began_s > MAX_TRIALS_S:
        return "it is too ambiguous: to find the tokens that may follow takes too long"
    return None


def _trial(compiled: CompiledGrammar, random: Random) -> str | None:
    """Why an answer of random tokens does not go well; None if it does."""
    matcher = compiled.matcher.deep_copy()
    for _ in range(TRIAL_TOKENS):
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        allowed = allowed[allowed != compiled.eos]
        if not len(allowed) or not matcher.consume_token(int(random.choice(allowed))):
            break
    if not matcher.is_error():
        return None
    reason = matcher.get_error()
    return "no text has this form" if reason.startswith("NoExtension") else short_reason(reason)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Compile grammars.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--vocabulary", type=int, required=True, help="token ids of the model")
    parser.add_argument("--stop-id", type=int, action="append", default=[], help="of the model")
    arguments = parser.parse_args()
    try:
        compiler = Compiler(arguments.tokenizer, arguments.vocabulary, arguments.stop_id)
    except GrammarRefused as error:
        sys.exit(str(error))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, hard))
    threading.stack_size(STACK_BYTES)
    answering = threading.Thread(target=_answer, args=[compiler])
    answering.start()
    answering.join()


def _answer(compiler: Compiler) -> None:
    for line in sys.stdin.buffer:
        grammar = msgspec.json.decode(line, type=Grammar)
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        reason = verdict(compiler, grammar)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(msgspec.json.encode(reason) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
