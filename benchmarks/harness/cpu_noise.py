"""Meters the CPU that others use while we measure: busy cores that are not our process tree's."""

import os
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import NamedTuple

import psutil


class Reading(NamedTuple):
    """Seconds since some start: of the clock, of the whole machine's CPUs, and of our own tree."""

    clock_s: float
    busy_s: float
    stolen_s: float  # by the host, from this virtual machine
    own_s: float


class CpuNoise(NamedTuple):
    """Mean cores during a run: used by others on this machine, and stolen by its host."""

    foreign: float
    stolen: float


class Meter:
    """Runs from its construction on."""

    def __init__(self, read: Callable[[], Reading] | None = None) -> None:
        self._read = read or reading
        self._start = self._read()

    def load(self) -> CpuNoise:
        """The load since the start; clocks tick, so a little less than none counts as none."""
        start, now = self._start, self._read()
        passed = now.clock_s - start.clock_s
        busy = now.busy_s - start.busy_s
        own = now.own_s - start.own_s
        return CpuNoise(max(0.0, (busy - own) / passed), (now.stolen_s - start.stolen_s) / passed)


def reading(others: Iterable[int] = ()) -> Reading:
    """What the clocks say now; processes of ours that are in no tree of ours, by their ids."""
    cpu = psutil.cpu_times()
    busy = cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq  # guests are part of user
    return Reading(perf_counter(), busy, cpu.steal, own_cpu_s(others))


def own_cpu_s(others: Iterable[int] = ()) -> float:
    """CPU seconds of this process and everything it started, whether it still runs or not.

    `others` are processes that count as our own, with everything they started.
    """
    return sum(map(_tree_cpu_s, [os.getpid(), *others]))


def _tree_cpu_s(pid: int) -> float:
    try:
        root = psutil.Process(pid)
        return sum(map(_cpu_s, [root, *root.children(recursive=True)]))
    except psutil.NoSuchProcess:
        return 0.0


def _cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process and those of its children that it has waited for."""
    try:
        return float(sum(process.cpu_times()[:4]))  # user, system, and the same of children
    except psutil.NoSuchProcess:
        return 0.0  # ended just now: its parent answers for it from now on
