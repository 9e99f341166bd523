"""I2: what answers lose when a step attends to a part of the keys and values.

SmolLM2 in float32 reads real texts, and is then fed what follows, each layer but the first two
attending to what a method chooses: its distributions against those of full attention.
"""

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Final

import msgspec
import torch

from benchmarks.harness.paths import CACHE
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.i2.infinigen import skew_of_sample
from benchmarks.i2.measure import Outcome, measure
from benchmarks.i2.methods import FULL, ORACLE, OURS, Run, runs
from benchmarks.i2.texts import Task, Texts
from engine.offload import selection
from engine.offload.layout import FETCH_SHARE
from engine.running.loaded_model import LoadedModel
from engine.running.model import load_model

CONTEXTS: Final = (1_024, 2_048, 4_096, 8_192)
LEAST_SAME: Final = 0.95


def run(folder: Path, threads: int, contexts: Sequence[int]) -> None:
    """Measure each task that this code has not measured before, and write the rows.

    `threads` processes measure a task at a time each: operations are too small to be divided.
    """
    report = Report("I2", look=not set(contexts) <= set(CONTEXTS))
    files = files_of(Texts(folder).tasks(contexts))
    missing = {file: task for file, task in files.items() if not file.exists()}
    for file in _measured(folder, threads, missing):
        task = missing[file]
        report.say(f"{task.kind}, {task.source}, {task.context} tokens: measured")
    outcomes = [outcome for file in files for outcome in read(file)]
    report.conclude(table(outcomes), targets(outcomes))


def files_of(tasks: Iterable[Task]) -> dict[Path, Task]:
    """The tasks by the file of their outcomes, whatever other contexts are measured."""
    folder, counts, files = folder_of_code(), Counter[str](), {}
    for task in tasks:
        name = f"{task.kind}-{task.source}-{task.context}"
        files[folder / f"{name}-{counts[name]}.json"] = task
        counts[name] += 1
    return files


def _measured(folder: Path, threads: int, tasks: Mapping[Path, Task]) -> Iterable[Path]:
    """Measure the tasks in processes, the longest first; yields files as they are written."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(threads, spawn) as pool:
        longest_first = sorted(tasks.items(), key=lambda item: -item[1].context)
        measuring = {pool.submit(_measure, folder, *item): item[0] for item in longest_first}
        for done in as_completed(measuring):
            done.result()
            yield measuring[done]


@cache
def _model_and_runs(folder: Path) -> tuple[LoadedModel, list[Run]]:
    """The model, and what is measured, of this process."""
    torch.set_num_threads(1)
    model = load_model(str(folder), "cpu", "float32")
    return model, runs(skew_of_sample(model, folder))


def _measure(folder: Path, file: Path, task: Task) -> None:
    """Measure a task in this process, and write its outcomes."""
    model, all_runs = _model_and_runs(folder)
    found = list(measure(model, task, all_runs))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.encode(found))


def read(file: Path) -> list[Outcome]:
    """The outcomes of a task that was measured."""
    return msgspec.json.decode(file.read_bytes(), type=list[Outcome])


def folder_of_code() -> Path:
    """Where the outcomes of this code are kept: after a change of it all is measured again.

    This file only shows them.
    """
    own = Path(__file__)
    folders = own.parent, Path(selection.__file__).parent
    files = [file for each in folders for file in sorted(each.glob("*.py")) if file != own]
    code = b"".join(file.read_bytes() for file in files)
    return CACHE / "i2" / sha256(code).hexdigest()[:16]


def table(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each method and share: means over the tasks of a kind."""
    rows = []
    for method, share in dict.fromkeys((each.method, each.share) for each in outcomes):
        own = [each for each in outcomes if (each.method, each.share) == (method, share)]
        texts = [each for each in own if each.kind == "text"]
        row: Row = {"method": method, "share": share}
        row["tokens left"] = mean(each.left for each in texts)
        for context in dict.fromkeys(each.context for each in texts):
            row[f"KL, {context}"] = mean(each.kl for each in texts if each.context == context)
        row["same likeliest token"] = _share(texts, lambda each: each.same)
        row["log likelihood lost"] = mean(_lost(each, outcomes) for each in texts)
        for kind in ("copy", "answers"):
            row[f"{kind}: same"] = _share(_of(own, kind), lambda each: each.same)
        row["facts: digits right"] = _share(_of(own, "facts"), lambda each: each.right)
        rows.append(row)
    return rows


def targets(outcomes: Sequence[Outcome]) -> list[Target]:
    """On the texts: against the other methods at equal shares, full attention and the oracle."""
    texts = _of(outcomes, "text")
    ours = [each for each in texts if each.method == OURS]
    beaten = sum(
        other.kl < own.kl
        for own in ours
        for other in texts
        if _where(other) == _where(own) and other.method not in (FULL, ORACLE, OURS)
    )
    fifth = [each for each in ours if each.share == FETCH_SHARE]
    oracle = {_where(each): each for each in texts if each.method == ORACLE}
    worst = min(each.same / each.tokens for each in fifth)
    gaps = [each.kl / oracle[_where(each)].kl for each in fifth]
    return [
        target("texts and shares where another method has a lower KL", beaten, 0, "at most"),
        target("a fifth: same likeliest token, worst text", worst, LEAST_SAME),
        target("a fifth: KL over the oracle's, mean of the texts", mean(gaps), 1.5, "at most"),
    ]


def _of(outcomes: Iterable[Outcome], kind: str) -> list[Outcome]:
    return [each for each in outcomes if each.kind == kind]


def _share(outcomes: Sequence[Outcome], count: Callable[[Outcome], int]) -> float | None:
    """The counted tokens over all; None without any."""
    tokens = sum(each.tokens for each in outcomes)
    return sum(map(count, outcomes)) / tokens if tokens else None


def _where(outcome: Outcome) -> tuple[str, int, float]:
    return outcome.source, outcome.context, outcome.share


def _lost(outcome: Outcome, outcomes: Iterable[Outcome]) -> float:
    """Nats a token that a text is less likely than under full attention."""
    [whole] = [
        each
        for each in outcomes
        if each.method == FULL
        and (each.kind, each.source, each.context)
        == (outcome.kind, outcome.source, outcome.context)
    ]
    return outcome.nll - whole.nll
