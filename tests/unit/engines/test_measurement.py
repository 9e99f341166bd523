"""What a step computed is derived from its tokens and token count."""

import pytest

from engine.protocol import Finish, KvState, Sequence, Step
from gateway.engines.measurement import ScheduledSequence, TrialProgress
from gateway.errors import GenerationFailed

KV = KvState(pages=64, free=64, page_tokens=16)


def a_sequence(name: str, prompt: int) -> Sequence:
    return Sequence(name, prompt=[1] * prompt, max_tokens=9, reserve=9)


def a_step(computed: int, *drawn: str, finished: tuple[str, ...] = ()) -> Step:
    ends = [Finish(name, "length") for name in finished]
    tokens = {name: [7] for name in drawn}
    return Step(1, KV, tokens, finished=ends, computed=computed, took_s=0.5)


def test_prefill_and_decode_tokens_are_separated() -> None:
    progress = TrialProgress(
        "a trial",
        [ScheduledSequence(0, a_sequence("a", 10)), ScheduledSequence(0, a_sequence("b", 6))],
    )
    assert [sequence.id for sequence in progress.due(0.0)] == ["a", "b"]
    progress.take(a_step(12, "a"), 1.0)  # all of a, and two tokens of b
    progress.take(a_step(5, "a", "b"), 3.0)  # a decodes, and the rest of b
    progress.take(a_step(2, "a", "b"), 4.0)
    first, second, third = progress.steps
    assert (first.prefill_tokens, first.sequences, first.kv_tokens) == (12, 0, 0)
    assert first.prefill_reads == 10 * 5 + 2 * 1
    assert (second.prefill_tokens, second.sequences, second.kv_tokens) == (4, 1, 11)
    assert second.prefill_reads == 4 * (2 + 2)
    assert (third.prefill_tokens, third.sequences, third.kv_tokens) == (0, 2, 12 + 7)
    assert [step.gap_s for step in progress.steps] == [None, 2.0, 1.0]


def test_sequence_waits_for_its_steps_and_its_lag_is_measured() -> None:
    progress = TrialProgress(
        "a trial",
        [ScheduledSequence(2, a_sequence("late", 4)), ScheduledSequence(0, a_sequence("a", 4))],
    )
    assert [sequence.id for sequence in progress.due(0.0)] == ["a"]
    progress.take(a_step(4, "a"), 1.0)
    assert progress.due(0.0) == []
    progress.take(a_step(1, "a"), 2.0)
    assert [sequence.id for sequence in progress.due(0.0)] == ["late"]
    progress.take(a_step(1, "a"), 3.0)
    progress.take(a_step(1, "a"), 4.0)
    progress.take(a_step(5, "a", "late"), 5.0)
    assert progress.waits == [[0.5, 0.5]]
    assert progress.orders_s == [0.5]


def test_idle_engine_gets_the_next_sequence_at_once() -> None:
    progress = TrialProgress(
        "a trial",
        [ScheduledSequence(0, a_sequence("a", 4)), ScheduledSequence(50, a_sequence("late", 4))],
    )
    progress.due(0.0)
    progress.take(a_step(4, "a"), 1.0)
    progress.take(a_step(1, "a", finished=("a",)), 2.0)
    assert not progress.ended
    assert [sequence.id for sequence in progress.due(0.0)] == ["late"]
    progress.take(a_step(4, "late", finished=("late",)), 9.0)
    assert progress.ended
    assert progress.steps[-1].gap_s is None
    assert progress.waits == []
    assert len(progress.orders_s) == 2


def test_event_without_computed_tokens_is_no_step() -> None:
    progress = TrialProgress("a trial", [ScheduledSequence(0, a_sequence("a", 4))])
    progress.due(0.0)
    progress.take(a_step(4, "a"), 1.0)
    progress.take(a_step(0, finished=("a",)), 2.0)
    assert len(progress.steps) == 1
    assert progress.ended


def test_sequence_that_ends_early_is_an_error() -> None:
    progress = TrialProgress("a trial", [ScheduledSequence(0, a_sequence("a", 4))])
    progress.due(0.0)
    step = Step(1, KV, {}, finished=[Finish("a", "error", "a page is broken")], computed=4)
    with pytest.raises(GenerationFailed, match="a page is broken"):
        progress.take(step, 1.0)
