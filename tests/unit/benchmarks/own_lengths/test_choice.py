"""Which lines a model is asked to answer."""

from collections import Counter
from random import Random

from benchmarks.own_lengths.choice import AGAIN, GREEDY, KINDS, OFFERED, OTHER_FORM, asks, spread
from benchmarks.own_lengths.lengths_file import line_id
from gateway.evaluation.corpus import CorpusLine


def lines(app: str, count: int) -> list[CorpusLine]:
    """Every fifth is `valid`."""
    return [
        CorpusLine(
            app=app,
            instruction="do",
            input=f"{number}",
            output="done",
            split="train" if number % 5 else "valid",
        )
        for number in range(count)
    ]


def test_every_app_has_its_lines_and_the_splits_their_share() -> None:
    found = asks([*lines("a", 500), *lines("b", 200), *lines("small", 30)], count=50)
    sampled = Counter((ask.line.app, ask.split) for ask in found if ask.kind == "sampled")
    assert sampled == {
        ("a", "valid"): 10, ("a", "train"): 40,
        ("b", "valid"): 10, ("b", "train"): 40,
        ("small", "valid"): 6, ("small", "train"): 24,
    }  # fmt: skip
    assert len({ask.key for ask in found}) == len(found)


def test_some_lines_of_each_app_are_answered_in_several_ways_with_several_seeds() -> None:
    found = asks([*lines("a", 500), *lines("b", 200)], count=100)
    per_line = Counter(ask.id for ask in found)
    assert Counter(per_line.values()) == {
        6: 2 * OFFERED,
        5: 2 * (GREEDY - OFFERED),
        4: 2 * (OTHER_FORM - GREEDY),
        2: 2 * (AGAIN - OTHER_FORM),
        1: 2 * (100 - AGAIN),
    }
    assert len({ask.seed for ask in found}) == len(found)
    assert all(0 <= ask.seed < 2**63 for ask in found)


def test_run_that_is_stopped_has_answers_of_every_app() -> None:
    found = asks([*lines("a", 500), *lines("b", 200)], count=50)
    first = Counter(ask.line.app for ask in found[:10])
    assert first == {"a": 5, "b": 5}
    assert [ask.kind for ask in found] == sorted((a.kind for a in found), key=KINDS.index)


def test_answered_lines_count_and_are_repeated_first() -> None:
    own = lines("a", 500)
    answered = {line_id(line) for line in own[:80]}
    found = asks(own, answered, count=100)
    assert answered <= {ask.id for ask in found}
    assert sum(ask.kind == "sampled" for ask in found) == 100
    assert {ask.id for ask in found if ask.kind == "again"} <= answered
    assert found == asks(own, answered, count=100)


def test_spread_takes_one_line_of_each_part_of_the_file() -> None:
    own = lines("a", 103)
    places = [own.index(line) for line in spread(own, 10, Random(1))]
    assert [place * 10 // 103 for place in places] == list(range(10))
    assert list(spread(own[:4], 10, Random(1))) == own[:4]
    assert list(spread([], 10, Random(1))) == []
