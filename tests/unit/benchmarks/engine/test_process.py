"""Contestants as processes: asked, stopped and ended."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

from benchmarks.engine.contestants import process as process_file
from benchmarks.engine.contestants.process import PipedContestant
from benchmarks.engine.workload import Request

PROGRAM = """
import subprocess, sys
from contextlib import contextmanager
from benchmarks.engine.contestants.pipe import serve

@contextmanager
def prepare(arguments):
    print("a library says hello")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    def answer(task):
        if task[0][1] == 13:
            raise ValueError("bad luck")
        return [prompt[:tokens] for prompt, tokens in task]
    yield answer
    child.communicate(b"end")

serve(prepare, "--batch")
"""


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., PipedContestant]]:
    """Starts contestants that answer with the beginning of the prompt."""
    started: list[PipedContestant] = []
    monkeypatch.setattr(process_file, "log_file", lambda name: tmp_path / f"{name}.log")

    def begin(program: str = PROGRAM) -> PipedContestant:
        options = ["folder", "--threads", "1", "--batch", "8"]
        started.append(PipedContestant("echo", [sys.executable, "-c", program, *options]))
        return started[-1]

    yield begin
    for contestant in started:
        contestant.close()


def tree_of(contestant: PipedContestant) -> list[psutil.Process]:
    parent = psutil.Process(contestant._process.pid)
    return [parent, *parent.children(recursive=True)]


def test_contestant_answers_in_the_order_of_the_requests(
    start: Callable[..., PipedContestant],
) -> None:
    answered = start().answer([Request("a", [5, 6, 7], 2), Request("b", [8, 9], 1)])
    assert answered.tokens == [[5, 6], [8]]
    assert answered.wall_s >= 0


def test_paused_contestant_and_its_children_stand_still_until_they_go_on(
    start: Callable[..., PipedContestant],
) -> None:
    contestant = start()
    contestant.pause()
    tree = tree_of(contestant)
    end = monotonic() + 10
    while not all(process.status() == psutil.STATUS_STOPPED for process in tree):
        assert monotonic() < end, tree
        sleep(0.01)
    assert len(tree) == 2
    contestant.resume()
    assert contestant.answer([Request("a", [5], 1)]).tokens == [[5]]


def test_crashed_contestant_raises_an_error(
    start: Callable[..., PipedContestant],
) -> None:
    contestant = start()
    with pytest.raises(RuntimeError, match=r"echo ended; see .*echo\.log"):
        contestant.answer([Request("a", [5], 13)])


def test_contestant_that_does_not_start_says_where_to_look(
    start: Callable[..., PipedContestant], tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="echo ended"):
        start("raise SystemExit('no model')")
    assert "no model" in (tmp_path / "echo.log").read_text()


def test_paused_contestant_can_be_closed(start: Callable[..., PipedContestant]) -> None:
    contestant = start()
    tree = tree_of(contestant)
    contestant.pause()
    contestant.close()
    assert not any(process.is_running() for process in tree)
