"""The wait normaliser T, against a scan of the whole history."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.scheduling.lmaas.fcfs_reference import (
    LONGEST_WAIT_DECAY,
    MAX_CREDIT_RUNS,
    MAX_CREDIT_WAITS,
    MEAN_DECAY,
    MIN_RESPONSE_S,
    WaitNormaliser,
)

seconds = st.one_of(st.sampled_from([0.0, 1e-6, 1.0]), st.floats(0, 1e4))
events = st.lists(st.tuples(st.sampled_from(["arrived", "turn_came"]), seconds), max_size=60)
LONG = 5_000


class BruteForceNormaliser:
    """T by its definition: exponentially decaying weights over the whole history."""

    def __init__(self) -> None:
        self.servings_s: list[float] = []
        self.waits_s: list[float] = []

    @property
    def mean_s(self) -> float:
        weights = [MEAN_DECAY**age for age in range(len(self.servings_s))]
        newest = reversed(self.servings_s)
        weighted = sum(weight * each for weight, each in zip(weights, newest, strict=True))
        return weighted / sum(weights) if weights else 0.0

    @property
    def seconds(self) -> float:
        return max(self.longest_s + self.mean_s, MIN_RESPONSE_S)

    @property
    def longest_s(self) -> float:
        decayed = (
            LONGEST_WAIT_DECAY**age * each for age, each in enumerate(reversed(self.waits_s))
        )
        return max(decayed, default=0.0)


@given(events)
def test_t_is_the_decayed_longest_wait_plus_the_mean_run(
    drawn: list[tuple[str, float]],
) -> None:
    normaliser, brute_force = WaitNormaliser(), BruteForceNormaliser()
    for event, each_s in drawn:
        if event == "arrived":
            brute_force.servings_s.append(each_s)
            credit_s = normaliser.arrived(each_s).seconds
            bound_s = min(
                MAX_CREDIT_RUNS * brute_force.mean_s, MAX_CREDIT_WAITS * brute_force.longest_s
            )
            assert credit_s == pytest.approx(min(each_s, bound_s))
        else:
            brute_force.waits_s.append(each_s)
            normaliser.turn_came(each_s)
        assert normaliser.seconds == pytest.approx(brute_force.seconds)


@given(st.lists(seconds, min_size=1, max_size=60))
def test_credit_is_at_most_the_run_and_twice_the_mean(servings_s: list[float]) -> None:
    normaliser, brute_force = WaitNormaliser(), BruteForceNormaliser()
    normaliser.turn_came(1e9)
    for serving_s in servings_s:
        brute_force.servings_s.append(serving_s)
        credit_s = normaliser.arrived(serving_s).seconds
        assert 0.0 <= credit_s <= serving_s
        assert credit_s <= 2.0 * brute_force.mean_s * (1 + 1e-9) + 1e-9


@given(
    st.lists(seconds, min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 39), seconds), max_size=20),
)
@example([0.0], [(0, 2049.0), (0, 1e-6), (0, 4096.620929459553), (0, 0.0)])
def test_revised_serving_time_counts_as_if_recorded_at_arrival(
    servings_s: list[float], revisions: list[tuple[int, float]]
) -> None:
    normaliser, brute_force = WaitNormaliser(), BruteForceNormaliser()
    normaliser.turn_came(1e9)
    granted = [normaliser.arrived(serving_s) for serving_s in servings_s]
    for place, serving_s in revisions:
        normaliser.revised(granted[place % len(granted)], serving_s)
        servings_s[place % len(granted)] = serving_s
    brute_force.servings_s = servings_s
    assert normaliser.seconds - 1e9 == pytest.approx(brute_force.mean_s, abs=1e-3)
    for credit, serving_s in zip(granted, servings_s, strict=True):
        assert 0.0 <= credit.seconds <= serving_s
    brute_force.servings_s = servings_s[:1]
    first_s = min(servings_s[0], 2 * brute_force.mean_s)
    assert granted[0].seconds == pytest.approx(first_s, abs=1e-9)


def test_credit_of_the_longest_run_is_twice_the_mean() -> None:
    normaliser = WaitNormaliser()
    normaliser.turn_came(1e9)
    assert [normaliser.arrived(1.0).seconds for _ in range(99)] == pytest.approx([1.0] * 99)
    mean_s = 1.0 + 999.0 / sum(MEAN_DECAY**age for age in range(100))
    assert normaliser.arrived(1_000.0).seconds == pytest.approx(2 * mean_s)


def test_credit_is_zero_while_nothing_waits() -> None:
    normaliser = WaitNormaliser()
    assert [normaliser.arrived(5.0).seconds for _ in range(9)] == [0.0] * 9
    normaliser.turn_came(0.5)
    assert normaliser.arrived(5.0).seconds == 0.5 * MAX_CREDIT_WAITS


@given(events)
def test_t_is_always_positive(drawn: list[tuple[str, float]]) -> None:
    normaliser = WaitNormaliser()
    assert normaliser.seconds == MIN_RESPONSE_S
    for event, each_s in drawn:
        getattr(normaliser, event)(each_s / 1e9)
        assert normaliser.seconds >= MIN_RESPONSE_S


def test_longest_wait_rises_at_once_with_a_half_life_of_693_turns() -> None:
    normaliser = WaitNormaliser()
    normaliser.turn_came(40.0)
    normaliser.turn_came(100.0)
    assert normaliser.seconds == 100.0
    for _ in range(693):
        normaliser.turn_came(0.0)
    assert normaliser.seconds == pytest.approx(50.0, rel=0.005)
    normaliser.turn_came(60.0)
    assert normaliser.seconds == 60.0


def test_old_waits_decay() -> None:
    normaliser = WaitNormaliser()
    normaliser.turn_came(1e4)
    for _ in range(10_000):
        normaliser.turn_came(2.0)
    assert normaliser.seconds == 2.0


def test_mean_run_follows_recent_requests() -> None:
    normaliser = WaitNormaliser()
    for _ in range(LONG):
        normaliser.arrived(1.0)
    assert normaliser.seconds == pytest.approx(1.0)
    means_s = []
    for _ in range(3):
        for _ in range(138):  # half of the weight
            normaliser.arrived(9.0)
        means_s.append(normaliser.seconds)
    assert means_s == pytest.approx([5.0, 7.0, 8.0], rel=0.005)
