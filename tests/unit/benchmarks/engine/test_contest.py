"""Turns, absences, and the comparison of two sides."""

import pytest

from benchmarks.engine import round_robin as round_robin_file
from benchmarks.engine.contestants.process import TimedAnswers
from benchmarks.engine.e1 import BOUNDS, CONTENDERS, SLOW, targets
from benchmarks.engine.round_robin import ContestantSpec, RoundRobin
from benchmarks.engine.workload import Request, mixed_requests
from benchmarks.harness.cpu_noise import Meter, Reading
from benchmarks.harness.ratios import paired


class Player:
    """Answers at once, and notes when it was awake."""

    def __init__(self, name: str, notes: list[str], fails_at: int = 99) -> None:
        self.name, self.notes, self.left = name, notes, fails_at

    def answer(self, requests: list[Request]) -> TimedAnswers:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError(f"{self.name} broke")
        self.notes.append(f"{self.name} answers {len(requests)}")
        return TimedAnswers(2.0, [[1] * request.tokens for request in requests])

    def pause(self) -> None:
        self.notes.append(f"{self.name} sleeps")

    def resume(self) -> None:
        self.notes.append(f"{self.name} wakes")

    def close(self) -> None:
        self.notes.append(f"{self.name} ends")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contestants settle at once, and the tests' own machine counts as quiet."""
    monkeypatch.setattr(round_robin_file, "SETTLE_S", 0.0)
    clock = iter(range(1000))
    monkeypatch.setattr(Meter.__init__, "__defaults__", (lambda: Reading(next(clock), 0, 0, 0),))


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def round_robin() -> RoundRobin:
    return RoundRobin(mixed_requests(6), lambda _: None)


def test_all_contestants_but_the_one_in_turn_are_paused(
    round_robin: RoundRobin, notes: list[str]
) -> None:
    for name in "ab":
        round_robin.enter(ContestantSpec(name, lambda name=name: Player(name, notes), rounds=1))
    notes.clear()
    list(round_robin.rounds(1))
    turn = ["{} wakes", "{} answers 4", "{} answers 6", "{} sleeps"]
    assert notes == [line.format(name) for name in "ab" for line in turn]


def test_another_contestant_begins_each_round(round_robin: RoundRobin, notes: list[str]) -> None:
    for name in "abc":
        round_robin.enter(ContestantSpec(name, lambda name=name: Player(name, notes), rounds=9))
    orders = ["".join(run.name for run in runs) for runs in round_robin.rounds(3)]
    assert orders == ["abc", "bca", "cab"]


def test_slow_contestant_leaves_the_later_rounds_to_others(
    round_robin: RoundRobin, notes: list[str]
) -> None:
    round_robin.enter(ContestantSpec("slow", lambda: Player("slow", notes), rounds=1))
    round_robin.enter(ContestantSpec("quick", lambda: Player("quick", notes), rounds=3))
    assert [len(runs) for runs in round_robin.rounds(3)] == [2, 1, 1]


def test_contest_goes_on_without_who_cannot_start(
    round_robin: RoundRobin, notes: list[str]
) -> None:
    def fail() -> Player:
        raise RuntimeError("no wheel")

    round_robin.enter(ContestantSpec("missing", fail, rounds=1))
    round_robin.enter(ContestantSpec("here", lambda: Player("here", notes), rounds=1))
    assert [run.name for runs in round_robin.rounds(1) for run in runs] == ["here"]
    assert round_robin.absent == {"missing": "no wheel"}


def test_contest_goes_on_without_who_breaks_on_the_way(
    round_robin: RoundRobin, notes: list[str]
) -> None:
    round_robin.enter(ContestantSpec("frail", lambda: Player("frail", notes, fails_at=3), rounds=3))
    round_robin.enter(ContestantSpec("sound", lambda: Player("sound", notes), rounds=3))
    assert [len(runs) for runs in round_robin.rounds(3)] == [2, 1, 1]
    assert "frail ends" in notes


def test_rate_counts_generated_tokens(round_robin: RoundRobin, notes: list[str]) -> None:
    round_robin.enter(ContestantSpec("a", lambda: Player("a", notes), rounds=1))
    (run,) = next(round_robin.rounds(1))
    assert run.rate == sum(request.tokens for request in mixed_requests(6)) / 2.0


def test_ratio_is_the_median_of_paired_ratios() -> None:
    ratio = paired([10.0, 22.0, 60.0], [10.0, 11.0, 20.0])
    assert ratio
    assert ratio.runs == [1.0, 2.0, 3.0]
    assert ratio.median == 2.0
    assert 1.0 <= ratio.low <= 2.0 <= ratio.high <= 3.0


def test_interval_is_the_same_every_time() -> None:
    ours, theirs = [3.0, 4.0, 5.0, 7.0, 6.0], [1.0, 2.0, 2.0, 2.0, 3.0]
    assert paired(ours, theirs) == paired(ours, theirs)


def test_one_round_gives_a_ratio_without_width() -> None:
    ratio = paired([4.0], [2.0])
    assert ratio
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 2.0)


def test_sides_that_never_met_have_no_ratio() -> None:
    assert paired([], [1.0]) is None


def test_all_settings_of_ours_and_of_vllm_run_every_round() -> None:
    assert SLOW.isdisjoint(CONTENDERS["ours"] + CONTENDERS["vllm"])


def test_every_target_of_e1_is_missed_while_nothing_is_measured() -> None:
    verdicts = targets([])
    assert len(verdicts) == len(BOUNDS) == 5
    assert not any(verdict.met for verdict in verdicts)


def test_target_of_e1_reads_its_ratio() -> None:
    row = {"size": "tiny", "ratio": "ours / vllm", "median": 1.2}
    met = [verdict for verdict in targets([row]) if verdict.met]
    assert [(verdict.name, verdict.value) for verdict in met] == [
        ("tiny: ours / vllm, at least", 1.2)
    ]
