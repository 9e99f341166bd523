"""E1: our engine against transformers and vLLM on a CPU, with the same model and requests."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.engine.contestants.process import Contestant, EngineContestant, PipedContestant
from benchmarks.engine.contestants.vllm_cpu import KV_MIB
from benchmarks.engine.floor import floor_s, ideal_steps, peak
from benchmarks.engine.installation import vllm_environment, vllm_python
from benchmarks.engine.models import SHAPES, model_folder
from benchmarks.engine.round_robin import ContestantRun, ContestantSpec, RoundRobin
from benchmarks.engine.workload import MIXED, Request, mixed_requests
from benchmarks.harness.ratios import Ratio, paired
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import quietest

THREADS: Final = 2
KV_TOKENS: Final = 65_536  # all requests fit at once at any page size: nothing is preempted
STEP_TOKENS: Final = 512
WEIGHT_BYTES: Final = {"float32": 4, "bfloat16": 2}

# A contender is one engine in several settings; the fastest represents it.
CONTENDERS: Final = {
    "static": ("static-8", "static-16"),
    "continuous": ("cb-256", "cb-512"),
    "vllm": ("vllm-64", "vllm-128", "vllm-64-default", "vllm-64-compiled"),
    "ours": ("ours",),
    "ours-bf16": ("ours-bf16",),
}
# Fewer rounds on m100, where a run takes minutes. All settings of vLLM run every round: one with
# fewer could represent vLLM by a lucky run, and be paired with few of ours.
SLOW: Final = {*CONTENDERS["static"], *CONTENDERS["continuous"]}
OPTIONAL: Final = {"vllm-64-compiled"}
DEFAULT: Final = [name for names in CONTENDERS.values() for name in names if name not in OPTIONAL]
# On m100, one setting represents each slow contender.
SKIPPED_ON_M100: Final = {"static-8", "cb-256", "vllm-64-default"}
BOUNDS: Final = (  # size, contender, divided by, at least
    ("tiny", "ours", "vllm", 1.15),
    ("tiny", "ours", "continuous", 3.5),
    ("m100", "ours", "vllm", 1.1),
    ("m100", "ours", "continuous", 3.0),
    ("m100", "ours-bf16", "ours", 1.6),
)


def run(
    rounds: int, slow_rounds: int, sizes: list[str], only: list[str], requests: int, threads: int
) -> None:
    """Measure the sizes one after the other; writes the result after each round."""
    look = bool(only) or set(sizes) != set(SHAPES) or requests != MIXED or threads != THREADS
    report = Report("E1", look)
    task = mixed_requests(requests)
    measured: dict[str, list[Row]] = {}
    for size in sizes:
        left_out = SKIPPED_ON_M100 if size == "m100" else {"ours-bf16"}
        names = only or [name for name in DEFAULT if name not in left_out]
        part = SizeBenchmark(size, task, threads, report)
        for found in part.measure(names, rounds, slow_rounds):
            measured[size] = found
            rows = [row for part_rows in measured.values() for row in part_rows]
            report.write(rows, targets(rows))
    rows = [row for part_rows in measured.values() for row in part_rows]
    report.conclude(rows, targets(rows))


def targets(rows: Iterable[Row]) -> list[Target]:
    """The targets for the ratios among the rows."""
    ratios = {(row["size"], row["ratio"]): row["median"] for row in rows if "ratio" in row}
    return [
        target(f"{size}: {ours} / {theirs}", ratios.get((size, f"{ours} / {theirs}")), bound)
        for size, ours, theirs, bound in BOUNDS
    ]


class SizeBenchmark:
    """The comparison on one model size."""

    def __init__(self, size: str, requests: list[Request], threads: int, report: Report) -> None:
        self._size = size
        self._requests = requests
        self._threads = threads
        self._report = report
        self._runs: dict[str, list[ContestantRun]] = {}
        self._floors: list[Row] = []

    def measure(self, names: list[str], rounds: int, slow_rounds: int) -> Iterable[list[Row]]:
        """All rows so far, after each round."""
        folder = model_folder(self._size)
        self._floors = [self._floor(dtype) for dtype in sorted({_dtype(name) for name in names})]
        round_robin = RoundRobin(
            self._requests, lambda line: self._report.say(f"{self._size} {line}")
        )
        try:
            for name in names:
                start = _starter(name, self._size, folder, self._threads)
                slow = self._size == "m100" and name in SLOW
                round_robin.enter(ContestantSpec(name, start, slow_rounds if slow else rounds))
            for runs_of_round in round_robin.rounds(rounds):
                for one in runs_of_round:
                    self._runs.setdefault(one.name, []).append(one)
                yield self._rows()
        finally:
            round_robin.close()

    def _rows(self) -> list[Row]:
        absolute = [self._row(name, runs) for name, runs in self._runs.items()]
        return [*absolute, *self._floors, *self._ratios()]

    def _row(self, name: str, runs: list[ContestantRun]) -> Row:
        rates = [run.rate for run in runs]
        return {
            "size": self._size,
            "contestant": name,
            "dtype": _dtype(name),
            "tokens_s": rates,
            "median": median(rates),
            "min": min(rates),
            "max": max(rates),
            "rounds": len(runs),
            "foreign": [run.measured.load.foreign for run in runs],
            "stolen": [run.measured.load.stolen for run in runs],
            "attempt": [run.measured.attempt for run in runs],
            "most_foreign": max(run.measured.load.foreign for run in runs),
            "same_answers_as_ours": self._agreement(runs),
        }

    def _agreement(self, runs: list[ContestantRun]) -> float | None:
        """Share of requests answered like by our float32 engine, in the first round."""
        if "ours" not in self._runs:
            return None
        ours, theirs = self._runs["ours"][0].tokens, runs[0].tokens
        return sum(one == other for one, other in zip(ours, theirs, strict=True)) / len(ours)

    def _ratios(self) -> list[Row]:
        contenders = {side: self._fastest(names) for side, names in CONTENDERS.items()}
        pairs = [("ours", side) for side in ("vllm", "continuous", "static")]
        compared = (
            (f"{one} / {other}", self._ratio(contenders[one], contenders[other]))
            for one, other in [*pairs, ("ours-bf16", "ours")]
        )
        return [
            {
                "size": self._size,
                "ratio": name,
                "runs": found.runs,
                "median": found.median,
                "low": found.low,
                "high": found.high,
            }
            for name, found in compared
            if found
        ]

    def _ratio(self, one: str | None, other: str | None) -> Ratio | None:
        """The ratio paired by round, over the rounds in which both took part."""
        if one is None or other is None:
            return None
        ours, theirs = ({r.round: r.rate for r in self._runs[name]} for name in (one, other))
        common = sorted(ours.keys() & theirs.keys())
        return paired([ours[n] for n in common], [theirs[n] for n in common])

    def _fastest(self, names: Iterable[str]) -> str | None:
        """The setting of a contender with the highest median."""
        present = [name for name in names if name in self._runs]
        return max(
            present, key=lambda name: median(run.rate for run in self._runs[name]), default=None
        )

    def _floor(self, dtype: str) -> Row:
        """The bound by matrix products alone, at this machine's measured peak."""
        best = quietest(
            lambda: peak(SHAPES[self._size].weights, dtype, self._threads), lambda _: None
        ).outcome
        steps = ideal_steps(self._requests, STEP_TOKENS)
        bound_s = floor_s(SHAPES[self._size], steps, best, WEIGHT_BYTES[dtype])
        rate = sum(request.tokens for request in self._requests) / bound_s
        self._report.say(
            f"{self._size} floor, {dtype}: {rate:,.0f} tok/s "
            f"({best.flops / 1e9:.0f} GFLOP/s, {best.bytes_s / 1e9:.1f} GB/s)"
        )
        return {
            "size": self._size,
            "floor": dtype,
            "tokens_s": rate,
            "gflops": best.flops / 1e9,
            "gb_s": best.bytes_s / 1e9,
        }


def _dtype(name: str) -> str:
    return "bfloat16" if name == "ours-bf16" else "float32"


def _starter(name: str, size: str, folder: Path, threads: int) -> Callable[[], Contestant]:
    """A function that starts the contestant of a name such as `cb-256`."""
    kind, *settings = name.split("-")
    label = f"E1-{size}-{name}"
    if kind == "ours":
        return lambda: EngineContestant(
            label,
            folder,
            engine_threads=threads,
            engine_dtype=_dtype(name),
            kv_tokens=KV_TOKENS,
            prefix_sharing=0,  # each round repeats the same prompts
        )
    if kind == "vllm":
        return lambda: _vllm(label, folder, threads, settings)
    module, option = {
        "static": ("static", "--batch"),
        "cb": ("continuous", "--step-tokens"),
    }[kind]
    python = [sys.executable, "-m", f"benchmarks.engine.contestants.{module}", str(folder)]
    command = [*python, "--threads", str(threads), option, settings[0]]
    return lambda: PipedContestant(label, command, {"OMP_NUM_THREADS": str(threads)})


def _vllm(label: str, folder: Path, threads: int, settings: list[str]) -> PipedContestant:
    """Start vLLM with a thread per core, or with its default binding."""
    environment = vllm_environment(threads)
    if "default" in settings:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "auto"
    python = [str(vllm_python()), "-m", "benchmarks.engine.contestants.vllm_cpu", str(folder)]
    compiled = int("compiled" in settings)
    options = (
        f"--sequences {settings[0]} --compiled {compiled} --kv-mib {KV_MIB} --caching 0".split()
    )
    return PipedContestant(label, [*python, "--threads", str(threads), *options], environment)
