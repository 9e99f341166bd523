"""The queue of sequences in host memory, whatever arrives and however long answers get."""

from hypothesis import given
from hypothesis import strategies as st

from engine.kv.pages import PagePool
from engine.protocol import Sequence
from engine.step.offloaded import OffloadedQueue
from engine.step.sequence import SequenceState, new_sequence

POOL, PAGE_TOKENS = 12, 4

arrivals = st.lists(
    st.tuples(
        st.integers(0, 6),  # the step of its arrival
        st.integers(1, 20),  # prompt tokens
        st.integers(1, 20),  # max_tokens
        st.integers(1, 20),  # reserve
        st.integers(0, 1),  # preempt_first
    ),
    min_size=1,
    max_size=8,
)


def made(number: int, prompt: int, most: int, reserve: int, preempt_first: int) -> SequenceState:
    sequence = Sequence(
        f"s{number}",
        [1] * prompt,
        most,
        reserve,
        preempt_first=preempt_first,
        memory="host-exact",
    )
    return new_sequence(sequence, number)


@given(arrivals, st.integers(1, 12), st.integers(1, 4))
def test_every_sequence_gets_its_tokens(
    arrivals: list[tuple[int, ...]], step_tokens: int, max_running: int
) -> None:
    queue = OffloadedQueue(PagePool(POOL, PAGE_TOKENS), max_running)
    states = [made(number, *fields[1:]) for number, fields in enumerate(arrivals)]
    for step in range(2000):
        queue.add([s for s, a in zip(states, arrivals, strict=True) if a[0] == step])
        if step > 6 and queue.idle:
            break
        preempted: list[SequenceState] = []
        chunks = queue.compose(step_tokens, preempted)
        queue.check()
        assert len(queue.running) <= max_running
        assert sum(chunk.length for chunk in chunks) <= step_tokens
        assert chunks or queue.idle, "nothing runs"
        for chunk in chunks:
            sequence = chunk.sequence
            assert sequence not in preempted
            assert sequence.computed <= len(sequence.pages) * PAGE_TOKENS
            if chunk.samples_token:
                sequence.in_flight -= 1
                sequence.tokens.append(1)
                if sequence.generated == sequence.max_tokens:
                    queue.remove(sequence)
    assert queue.idle
    assert all(state.generated == state.max_tokens for state in states)
    assert queue.pool.free == POOL
