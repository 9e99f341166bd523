"""Measures CPU noise: cores used by processes other than the benchmark's own during a run."""

import os
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import NamedTuple

import psutil


class Reading(NamedTuple):
    """Seconds since a fixed start: of the clock, of all CPUs, and of our process tree."""

    clock_s: float
    busy_s: float
    stolen_s: float  # by the host, from this virtual machine
    own_s: float


class CpuNoise(NamedTuple):
    """Mean cores during a run: used by other processes, and stolen by the host."""

    foreign: float
    stolen: float


class Meter:
    """Measures CPU noise from its construction on."""

    def __init__(self, read: Callable[[], Reading] | None = None) -> None:
        self._read = read or reading
        self._start = self._read()

    def load(self) -> CpuNoise:
        """The noise since the start; small negative values, due to clock ticks, are 0."""
        start, now = self._start, self._read()
        passed = now.clock_s - start.clock_s
        busy = now.busy_s - start.busy_s
        own = now.own_s - start.own_s
        return CpuNoise(max(0.0, (busy - own) / passed), (now.stolen_s - start.stolen_s) / passed)


def reading(others: Iterable[int] = ()) -> Reading:
    """The clocks now; `others` are ids of our processes outside our process tree."""
    cpu = psutil.cpu_times()
    busy = cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq  # guests are part of user
    return Reading(perf_counter(), busy, cpu.steal, own_cpu_s(others))


def own_cpu_s(others: Iterable[int] = ()) -> float:
    """CPU seconds of this process and its descendants, running or ended.

    `others` are ids of processes that count as our own too, with their descendants.
    """
    return sum(map(_tree_cpu_s, [os.getpid(), *others]))


def _tree_cpu_s(pid: int) -> float:
    try:
        root = psutil.Process(pid)
        return sum(map(_cpu_s, [root, *root.children(recursive=True)]))
    except psutil.NoSuchProcess:
        return 0.0


def _cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process and of the children that it has waited for."""
    try:
        return float(sum(process.cpu_times()[:4]))  # user and system, own and of children
    except psutil.NoSuchProcess:
        return 0.0  # just ended: its parent counts it from now on
