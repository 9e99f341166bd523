"""Own lengths: a model answers lines of the texts through the gateway; only lengths are kept.

The answers of the committed file count, and so do those of a run that was stopped: only what is
missing is asked for. The result is the file that P1-own and others read.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Final

from tokenizers import Tokenizer

from benchmarks.harness.paths import CACHE
from benchmarks.live.gateway_process import GatewayProcess
from benchmarks.own_lengths.answers import Conversation, ask_all
from benchmarks.own_lengths.choice import LINES, Ask, asks
from benchmarks.own_lengths.lengths_file import FILE, OwnLength, read_lengths, write_lengths
from benchmarks.own_lengths.partial import PartialRun
from gateway.evaluation.corpus import read_corpus

CLIENTS: Final = 64
FOLDER: Final = CACHE / "own-lengths"
SAY_EVERY: Final = 20  # answers


def run(data: Path, model: Path, count: int, clients: int, threads: int) -> None:
    """Ask for what is missing, then write the file; with fewer lines only that in `.bench`."""
    corpus = read_corpus(data, data)
    file = FILE if count >= LINES else FOLDER / f"{model.name}-{count}.csv.gz"
    partial = PartialRun(FOLDER / f"{model.name}-{count}.csv")
    earlier = read_lengths(file) if file.exists() else []
    found = {each.key: each for each in (*earlier, *partial.known)}
    wanted = asks([*corpus.train, *corpus.test], {each.line for each in earlier}, count)
    missing = [ask for ask in wanted if ask.key not in found]
    print(f"{len(wanted)} answers, {len(missing)} of them to ask for", flush=True)
    if missing:
        _ask(missing, model, clients, threads, partial)
    found.update((each.key, each) for each in partial.known)
    write_lengths(found.values(), file)
    print(f"written to {file}", flush=True)


def _ask(
    missing: Sequence[Ask], model: Path, clients: int, threads: int, partial: PartialRun
) -> None:
    began, kept, tokens = monotonic(), 0, 0

    def keep(length: OwnLength) -> None:
        nonlocal kept, tokens
        partial.add(length)
        kept, tokens = kept + 1, tokens + length.answer_tokens
        if kept % SAY_EVERY == 0:
            took_s = monotonic() - began
            print(f"{kept} of {len(missing)}, {tokens / took_s:.0f} tokens/s", flush=True)

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    with GatewayProcess(
        "own-lengths",
        model=model.absolute(),
        model_name=model.name,
        engine_threads=threads,
        max_running=clients,
    ) as gateway:
        where = Conversation(
            gateway.url,
            model.name,
            lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids),
        )
        asyncio.run(ask_all(where, missing, clients, keep))
