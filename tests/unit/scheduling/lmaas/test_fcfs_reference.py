"""Turns under first come, first served (FCFS), against serving a queue unit by unit."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.lmaas.fcfs_reference import FcfsReference

actions = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 9)),
        st.tuples(st.just("start"), st.integers(0, 30)),
    ),
    max_size=60,
)


class FcfsServer:
    """FCFS at the same rate: each unit of work goes to the head of the queue."""

    def __init__(self) -> None:
        self.left: list[list[int]] = []  # number and units of work
        self.reported = 0

    def arrive(self, number: int, work: int) -> None:
        self.left.append([number, work])

    def serve(self, work: int) -> None:
        for _ in range(work):
            head = next(request for request in self.left if request[1])
            head[1] -= 1

    def begun(self) -> list[int]:
        """Numbers of the requests that reached the head since the last call."""
        found = []
        while self.reported < len(self.left) and not any(
            work for _, work in self.left[: self.reported]
        ):
            found.append(self.left[self.reported][0])
            self.reported += 1
        return found


@given(actions)
def test_turn_comes_when_fcfs_would_start_the_request(
    drawn: list[tuple[str, int]],
) -> None:
    reference, server, waiting = FcfsReference[int](), FcfsServer(), list[tuple[int, int]]()
    for number, (action, value) in enumerate(drawn):
        if action == "arrive":
            reference.arrive(number, value)
            server.arrive(number, value)
            waiting.append((number, value))
        elif waiting:
            _, work = waiting.pop(value % len(waiting))  # any order
            reference.start(work)
            server.serve(work)
        assert list(reference.due()) == server.begun()
        assert len(reference) == len(server.left) - server.reported


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 19), st.integers(1, 9)), max_size=20),
    st.lists(st.integers(0, 19), max_size=20),
)
def test_revised_work_counts_as_if_it_had_arrived_so(
    works: list[int], revisions: list[tuple[int, int]], starts: list[int]
) -> None:
    reference = FcfsReference[int]()
    turns = [reference.arrive(number, work) for number, work in enumerate(works)]
    assert list(reference.due()) == [0]
    for place, work in revisions:
        reference.revise(turns[place % len(turns)], work)
        works[place % len(turns)] = work
        assert not list(reference.due())
    oracle = FcfsReference[int]()
    for number, work in enumerate(works):
        oracle.arrive(number, work)
    assert list(oracle.due()) == [0]
    waiting = list(works)
    for place in starts:
        if waiting:
            work = waiting.pop(place % len(waiting))
            reference.start(work)
            oracle.start(work)
        assert list(reference.due()) == list(oracle.due())


def test_turn_of_a_lone_request_comes_at_once() -> None:
    reference = FcfsReference[str]()
    reference.arrive("a", 5)
    assert list(reference.due()) == ["a"]
    assert not list(reference.due())


def test_turn_of_a_held_back_request_comes_while_later_ones_start() -> None:
    reference = FcfsReference[str]()
    for name in ("first", "long", "short", "shorter"):
        reference.arrive(name, {"long": 50.0}.get(name, 10.0))
    assert list(reference.due()) == ["first"]
    reference.start(10.0)  # the shorter one
    assert list(reference.due()) == ["long"]
    reference.start(10.0)
    reference.start(10.0)
    assert list(reference.due()) == []  # under FCFS the long one would still run
    reference.start(50.0)
    assert list(reference.due()) == ["short", "shorter"]
