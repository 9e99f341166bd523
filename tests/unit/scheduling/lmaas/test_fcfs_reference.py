"""Turns under first come, first served against serving that line unit by unit."""

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


class RankLine:
    """First come, first served, at the same rate: each unit of work goes to the head."""

    def __init__(self) -> None:
        self.left: list[list[int]] = []  # number and units of work
        self.told = 0

    def arrive(self, number: int, work: int) -> None:
        self.left.append([number, work])

    def serve(self, work: int) -> None:
        for _ in range(work):
            head = next(request for request in self.left if request[1])
            head[1] -= 1

    def begun(self) -> list[int]:
        """Numbers of those that all before have made way for, since the last call."""
        found = []
        while self.told < len(self.left) and not any(work for _, work in self.left[: self.told]):
            found.append(self.left[self.told][0])
            self.told += 1
        return found


@given(actions)
def test_turn_comes_when_first_come_first_served_would_have_come_so_far(
    drawn: list[tuple[str, int]],
) -> None:
    first_come, line, waiting = FcfsReference[int](), RankLine(), list[tuple[int, int]]()
    for number, (action, value) in enumerate(drawn):
        if action == "arrive":
            first_come.arrive(number, value)
            line.arrive(number, value)
            waiting.append((number, value))
        elif waiting:
            _, work = waiting.pop(value % len(waiting))  # any order
            first_come.start(work)
            line.serve(work)
        assert list(first_come.due()) == line.begun()
        assert len(first_come) == len(line.left) - line.told


def test_turn_of_the_only_one_has_come() -> None:
    first_come = FcfsReference[str]()
    first_come.arrive("a", 5)
    assert list(first_come.due()) == ["a"]
    assert not list(first_come.due())


def test_one_put_back_has_its_turn_while_later_ones_start() -> None:
    first_come = FcfsReference[str]()
    for name in ("first", "long", "short", "shorter"):
        first_come.arrive(name, {"long": 50.0}.get(name, 10.0))
    assert list(first_come.due()) == ["first"]
    first_come.start(10.0)  # the last of them
    assert list(first_come.due()) == ["long"]
    first_come.start(10.0)
    first_come.start(10.0)
    assert list(first_come.due()) == []  # the long one would still run
    first_come.start(50.0)
    assert list(first_come.due()) == ["short", "shorter"]
