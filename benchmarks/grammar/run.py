"""grammar: masks, compiling, decoding with grammars, and the JSON Schema Test Suite."""

import json
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from benchmarks.grammar.decoding import SAMPLINGS, Pair, pairs, step_ms
from benchmarks.grammar.masks import GRAMMARS, Times, measured
from benchmarks.grammar.suite import coverage, drafts_in
from benchmarks.harness.ratios import paired
from benchmarks.harness.report import Report, Row, Target, target
from engine.checkpoints.catalogue import DEMO_FOLDER
from engine.grammar.compiler import Compiler

MAX_SLOWER: Final = 1.05
MAX_MASK_US: Final = 100.0
ROUNDS: Final = 5


def run(model: Path, suite: Path | None, rounds: int, threads: int) -> None:
    """Measure all parts; writes the result after each."""
    report = Report("grammar", look=suite is None or rounds < ROUNDS)
    compiler, tokenizer = _compiler(model), Tokenizer.from_file(str(model / "tokenizer.json"))
    times = {name: measured(*given, compiler, tokenizer) for name, given in GRAMMARS.items()}
    rows: list[Row] = [each.row(name) for name, each in times.items()]
    targets = [_slowest_mask(times)]
    report.write(rows, targets)
    if suite is not None:
        for draft in drafts_in(suite):
            found = coverage(suite / draft, draft, compiler, tokenizer)
            report.say(f"{draft}: {found.compiled} of {found.schemas} schemas compile")
            rows.append(found.row(draft))
            targets.append(target(f"{draft}, invalid instances refused", found.safe, 1.0))
        report.write(rows, targets)
    for name, folder in {"demo": DEMO_FOLDER, "SmolLM2": model}.items():
        for sampling, temperature in SAMPLINGS.items():
            row = _decoding_row(name, sampling, pairs(folder, rounds, threads, temperature))
            rows.append(row)
            slower = row["slower"]
            targets.append(target(f"{name}, {sampling}, slower", slower, MAX_SLOWER, "at most"))
            report.say(f"{name}, {sampling}: {slower:.3f} times the time without grammars")
            report.write(rows, targets)
    report.conclude(rows, targets)


def _compiler(model: Path) -> Compiler:
    config = json.loads((model / "config.json").read_text())
    return Compiler(model / "tokenizer.json", config["vocab_size"], [config["eos_token_id"]])


def _slowest_mask(times: dict[str, Times]) -> Target:
    slowest = max(each.slow_mask_us for each in times.values())
    return target("99th percentile of a mask, slowest grammar, µs", slowest, MAX_MASK_US, "at most")


def _decoding_row(name: str, sampling: str, found: list[Pair]) -> Row:
    constrained, free = [pair.constrained for pair in found], [pair.free for pair in found]
    ratio = paired(
        [run.outcome.wall_s for run in constrained], [run.outcome.wall_s for run in free]
    )
    assert ratio is not None
    return {
        "model": name,
        "sampling": sampling,
        "step ms": step_ms(free),
        "with grammars": step_ms(constrained),
        "slower": ratio.median,
        "from": ratio.low,
        "to": ratio.high,
        "foreign": max(run.load.foreign for run in (*free, *constrained)),
    }
