"""The process that compiles grammars, started when it is needed."""

import select
import signal
import subprocess
import sys
from pathlib import Path
from threading import Lock
from typing import Final

import msgspec
import structlog

from engine.protocol import EngineInfo, Grammar
from gateway.child_process import child_environment

log = structlog.get_logger()

COMMAND: Final = (sys.executable, "-m", "engine.grammar.process")
DEADLINE_S: Final = 30.0  # for one grammar, the process's start included
TOO_SLOW: Final = "it takes too long to compile; use a smaller grammar"
TOO_LARGE: Final = "it is nested too deep, or needs too much memory; use a smaller grammar"


class CompilerLost(Exception):
    """The process did not start or hangs; the grammar is not the cause."""


class CompilerProcess:
    """Compiles one grammar after the other.

    A grammar that exhausts time or memory ends the process; the next one starts another.
    """

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer
        self._process: subprocess.Popen[bytes] | None = None
        self._in_use = Lock()

    def refusal(self, grammar: Grammar, info: EngineInfo) -> str | None:
        """Why this engine cannot follow a grammar; None if it can. CompilerLost."""
        with self._in_use:
            process = self._process = self._process or self._start(info)
            return self._refusal(process, grammar)

    def close(self) -> None:
        """End the process, whatever it compiles."""
        if self._process is not None:
            self._process.kill()
        with self._in_use:
            if self._process is not None:
                self._ended(self._process)

    def _refusal(self, process: subprocess.Popen[bytes], grammar: Grammar) -> str | None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(grammar) + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return _reason(self._ended(process))
        answered, _, _ = select.select([process.stdout], [], [], DEADLINE_S)
        if not answered:
            process.kill()
            self._ended(process)
            raise CompilerLost(f"no answer for {DEADLINE_S:g} s")
        line = process.stdout.readline()
        return msgspec.json.decode(line, type=str | None) if line else _reason(self._ended(process))

    def _start(self, info: EngineInfo) -> subprocess.Popen[bytes]:
        stop_ids = [f"--stop-id={token}" for token in info.stop_ids]
        try:
            return subprocess.Popen(  # noqa: S603  a program of ours, without a shell
                (
                    *COMMAND,
                    f"--tokenizer={self._tokenizer}",
                    f"--vocabulary={info.vocabulary}",
                    *stop_ids,
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C is the gateway's to handle
            )
        except OSError as error:
            raise CompilerLost(str(error)) from error

    def _ended(self, process: subprocess.Popen[bytes]) -> int:
        """Forget a process that ends; its exit code."""
        self._process = None
        process.communicate()
        return process.returncode


def _reason(code: int) -> str:
    """Why a process ended that was compiling. CompilerLost if not because of the grammar."""
    log.warning("grammar_compiler_ended", code=code)
    if code == -signal.SIGPROF:
        return TOO_SLOW
    if code < 0:
        return TOO_LARGE
    raise CompilerLost(f"the process exited with code {code}")
