"""I2: what answers lose when a step attends to a part of the keys and values.

SmolLM2 in float32 reads real texts, and is then fed what follows, each layer but the first two
attending to what a method chooses: its distributions against those of full attention.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
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
from benchmarks.i2.methods import FULL, ORACLE, OURS, runs
from benchmarks.i2.texts import Texts
from engine.offload import selection
from engine.offload.layout import FETCH_SHARE
from engine.running.model import load_model

CONTEXTS: Final = (1_024, 2_048, 4_096, 8_192)
LEAST_SAME: Final = 0.95


def run(folder: Path, threads: int, contexts: Sequence[int]) -> None:
    """Measure each task that this code has not measured before, and write the rows."""
    report = Report("I2", look=not set(contexts) <= set(CONTEXTS))
    torch.set_num_threads(threads)
    model = load_model(str(folder), "cpu", "float32")
    all_runs = runs(skew_of_sample(model, folder))
    outcomes: list[Outcome] = []
    for number, task in enumerate(Texts(folder).tasks(contexts)):
        file = folder_of_code() / f"{task.kind}-{task.source}-{task.context}-{number}.json"
        outcomes += kept(file, partial(measure, model, task, all_runs))
        report.say(f"{task.kind}, {task.source}, {task.context} tokens: measured")
    report.conclude(table(outcomes), targets(outcomes))


def folder_of_code() -> Path:
    """Where the outcomes of this code are kept: after a change of it all is measured again.

    This file only shows them.
    """
    own = Path(__file__)
    folders = own.parent, Path(selection.__file__).parent
    files = [file for each in folders for file in sorted(each.glob("*.py")) if file != own]
    code = b"".join(file.read_bytes() for file in files)
    return CACHE / "i2" / sha256(code).hexdigest()[:16]


def kept(file: Path, measured: Callable[[], Iterable[Outcome]]) -> list[Outcome]:
    """The outcomes of a file; they are measured, and the file written, if there is none."""
    if file.exists():
        return msgspec.json.decode(file.read_bytes(), type=list[Outcome])
    found = list(measured())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.encode(found))
    return found


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
