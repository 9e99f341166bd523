"""Refuses grammars that cannot be compiled, before their requests are queued."""

from collections import OrderedDict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from engine.protocol import EngineInfo, Grammar
from gateway.errors import InvalidRequest, Unavailable
from gateway.generation.grammar.compiler_process import CompilerLost, CompilerProcess
from gateway.generation.text.work_queue import WorkBounds
from gateway.generation.text.workers import SHORT_US, TextWorkers

MAX_CHARACTERS: Final = 131_072
COMPILE_US: Final = 20_000  # CPU time of a usual grammar
MAX_KNOWN: Final = 4_096
BOUNDS: Final = WorkBounds(tenant_jobs=64, total_jobs=256)
WAIT_S: Final = 40.0


class GrammarChecker:
    """Compiles each grammar once in a process of its own, tenants by turns; used by one event loop.

    What it knows of the last `MAX_KNOWN` grammars is kept.
    """

    def __init__(self, tokenizer: Path) -> None:
        self._process = CompilerProcess(tokenizer)
        self._workers = TextWorkers(threads=1, bounds=BOUNDS, wait_s=WAIT_S, what="grammars")
        self._known: OrderedDict[bytes, str | None] = OrderedDict()

    async def check(self, tenant: str, grammar: Grammar, info: EngineInfo, *, param: str) -> None:
        """InvalidRequest names `param` if the grammar is too long or cannot be compiled.

        TenantQueueFull, QueueFull or Unavailable if too many wait to be compiled.
        """
        if len(grammar.source) > MAX_CHARACTERS:
            raise InvalidRequest(
                f"{param}: it has {len(grammar.source)} characters; at most {MAX_CHARACTERS} are "
                "accepted",
                param=param,
            )
        key = sha256(f"{grammar.kind} {grammar.source}".encode()).digest()
        if key not in self._known:
            refused = partial(self._process.refusal, grammar, info)
            try:
                reason = await self._workers.run(tenant, max(COMPILE_US, SHORT_US + 1), refused)
            except CompilerLost as error:
                raise Unavailable(f"grammars cannot be compiled now: {error}; try again") from error
            self._known[key] = reason
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        if (reason := self._known[key]) is not None:
            raise InvalidRequest(f"{param}: {reason}", param=param)

    def close(self) -> None:
        """End the process."""
        self._workers.close()
        self._process.close()
