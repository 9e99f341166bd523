"""The meter of CPU noise, and repeats of disturbed runs."""

import subprocess
import sys

import pytest

from benchmarks.harness.cpu_noise import CpuNoise, Meter, Reading, own_cpu_s
from benchmarks.harness.retry import Measured, quietest

BURN = "import time\nwhile time.process_time() < 0.4: pass\n"


def meter_of(before: Reading, after: Reading) -> Meter:
    readings = iter([before, after])
    return Meter(lambda: next(readings))


def test_own_processes_are_no_noise() -> None:
    meter = meter_of(Reading(0.0, 100.0, 0.0, 5.0), Reading(10.0, 118.0, 0.0, 23.0))
    assert meter.load() == CpuNoise(foreign=0.0, stolen=0.0)


def test_cpu_outside_our_process_tree_is_noise() -> None:
    meter = meter_of(Reading(0.0, 100.0, 1.0, 5.0), Reading(10.0, 120.0, 3.0, 10.0))
    assert meter.load() == CpuNoise(foreign=1.5, stolen=0.2)


def test_clock_ticks_make_no_negative_noise() -> None:
    meter = meter_of(Reading(0.0, 0.0, 0.0, 0.0), Reading(1.0, 0.99, 0.0, 1.0))
    assert meter.load().foreign == 0.0


def test_child_counts_as_our_own_running_and_ended() -> None:
    before = own_cpu_s()
    with subprocess.Popen(
        [sys.executable, "-c", BURN + "print('burnt', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "burnt\n"
        running = own_cpu_s() - before
        child.communicate("\n")
    assert running >= 0.35
    assert own_cpu_s() - before >= 0.35


def test_grandchild_counts_as_our_own() -> None:
    before = own_cpu_s()
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert own_cpu_s() - before >= 0.35


def measure(*foreign: float) -> tuple[Measured[int], list[int]]:
    loads, runs, attempts = iter(foreign), iter(range(9)), []

    class Scripted(Meter):
        def __init__(self) -> None:
            super().__init__(lambda: Reading(0.0, 0.0, 0.0, 0.0))

        def load(self) -> CpuNoise:
            return CpuNoise(next(loads), 0.0)

    best = quietest(
        lambda: next(runs), lambda measured: attempts.append(measured.attempt), Scripted
    )
    return best, attempts


def test_quiet_run_is_not_repeated() -> None:
    best, attempts = measure(0.1)
    assert (best.outcome, attempts) == (0, [1])


def test_disturbed_run_is_repeated_until_it_is_quiet() -> None:
    best, attempts = measure(0.9, 0.05)
    assert (best.outcome, best.quiet, attempts) == (1, True, [1, 2])


def test_quietest_of_three_disturbed_runs_counts() -> None:
    best, attempts = measure(0.9, 0.3, 0.6)
    assert (best.outcome, best.quiet, attempts) == (1, False, [1, 2, 3])
    assert "NOT QUIET" in str(best)


@pytest.mark.parametrize("cores", [0.0, 0.15])
def test_run_with_little_noise_is_quiet(cores: float) -> None:
    assert Measured(0, CpuNoise(cores, 0.0), 1).quiet
