"""The kinetic tournament against a full sort at each query."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.baselines.kinetic_tournament import KineticTournament
from gateway.scheduling.dispatch import LinearRank, ratio_rank, response_ratio

linear_ranks = st.builds(
    LinearRank,
    offset=st.integers(-5, 5).map(float),
    origin_s=st.integers(0, 50).map(float),
    slope=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, 2.0]),
)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 12), linear_ranks),
        st.tuples(st.just("discard"), st.integers(0, 12), st.none()),
        st.tuples(st.just("look"), st.integers(0, 9), st.none()),
    ),
    max_size=60,
)


@given(actions)
def test_ranked_is_the_order_of_a_full_sort(
    drawn: list[tuple[str, int, LinearRank | None]],
) -> None:
    tournament, known, now_s = KineticTournament(), dict[str, LinearRank](), 0.0
    for action, number, rank in drawn:
        if rank is not None:
            known[str(number)] = rank
            tournament.put(str(number), rank)
        elif action == "discard":
            known.pop(str(number), None)
            tournament.discard(str(number))
        else:
            now_s += number
        ranked = list(tournament.ranked(now_s))
        assert sorted(ranked) == sorted(known)
        ranks = [known[key].at(now_s) for key in ranked]
        assert ranks == sorted(ranks, reverse=True)
        tournament.check()


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 50)), min_size=1, max_size=20),
    st.lists(st.floats(0, 30), max_size=6),
)
def test_highest_response_ratio_is_next_at_any_time(
    batches: list[tuple[float, float]], passing: list[float]
) -> None:
    tournament, now_s = KineticTournament(), 100.0
    for key, (oldest_s, serving_s) in enumerate(batches):
        tournament.put(str(key), ratio_rank(oldest_s, serving_s))
    for step_s in passing:
        now_s += step_s
        ratios = [response_ratio(now_s - oldest_s, serving_s) for oldest_s, serving_s in batches]
        ranked = [ratios[int(key)] for key in tournament.ranked(now_s)]
        assert ranked[0] == pytest.approx(max(ratios))
        assert all(a >= b * (1 - 1e-9) for a, b in pairwise(ranked))


def test_ties_are_ordered_by_entry() -> None:
    tournament = KineticTournament()
    for key in "abcde":
        tournament.put(key, LinearRank(1.0, 0.0, 0.5))
    tournament.discard("a")
    tournament.put("f", LinearRank(1.0, 0.0, 0.5))
    assert list(tournament.ranked(3.0)) == ["b", "c", "d", "e", "f"]


def test_changing_all_ranks_at_once_changes_the_order() -> None:
    tournament = KineticTournament()
    for key in "abc":
        tournament.put(key, LinearRank(float(ord(key)), 0.0, 0.0))
    tournament.put_all({key: LinearRank(-float(ord(key)), 0.0, 0.0) for key in "abc"})
    assert list(tournament.ranked(0.0)) == ["a", "b", "c"]


def test_ratio_starts_at_one_and_grows_with_the_wait() -> None:
    assert response_ratio(0.0, 4.0) == 1.0
    assert response_ratio(6.0, 4.0) == 2.5
    assert ratio_rank(10.0, 4.0).at(16.0) == 2.5
