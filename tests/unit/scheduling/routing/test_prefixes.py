"""The index of prefixes against a list of the prompts that each engine was sent."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.routing.prefixes import BLOCK_TOKENS, MAX_BLOCKS, PrefixIndex, blocks_of

ENGINES, ROOM = 3, 6  # blocks
prompts = st.lists(st.integers(0, 2), max_size=5).map(
    lambda parts: tuple(hash(tuple(parts[: end + 1])) for end in range(len(parts)))
)
sends = st.lists(st.tuples(st.integers(0, ENGINES - 1), prompts), max_size=20)


def an_index(room: int = ROOM) -> PrefixIndex:
    index = PrefixIndex(ENGINES)
    for engine in range(ENGINES):
        index.resize(engine, room * BLOCK_TOKENS)
    return index


@given(sends, prompts)
def test_engine_has_the_longest_prefix_of_what_it_was_sent_and_not_yet_forgot(
    sent: list[tuple[int, tuple[int, ...]]], prompt: tuple[int, ...]
) -> None:
    index = an_index()
    held: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(ENGINES)]
    for engine, blocks in sent:
        index.sent(engine, blocks)
        for block in reversed(blocks):
            held[engine].pop(block, None)
            held[engine][block] = None
        while len(held[engine]) > ROOM:
            held[engine].popitem(last=False)
        index.check()
    expected = []
    for kept in held:
        known = 0
        while known < len(prompt) and prompt[known] in kept:
            known += 1
        expected.append(known * BLOCK_TOKENS)
    assert index.known_tokens(prompt) == expected


@given(sends)
def test_lost_engine_has_no_prefix(sent: list[tuple[int, tuple[int, ...]]]) -> None:
    index = an_index()
    for engine, blocks in sent:
        index.sent(engine, blocks)
    index.forget(1)
    index.check()
    assert all(index.known_tokens(blocks)[1] == 0 for _, blocks in sent)


def test_start_of_a_prompt_is_forgotten_last() -> None:
    index = an_index(room=2)
    index.sent(0, (1, 2, 3, 4))
    assert index.known_tokens((1, 2, 3, 4)) == [2 * BLOCK_TOKENS, 0, 0]


@given(
    st.lists(st.integers(0, 3), max_size=5 * BLOCK_TOKENS),
    st.lists(st.integers(0, 3), max_size=5 * BLOCK_TOKENS),
    st.integers(0, 5 * BLOCK_TOKENS),
)
def test_prompts_have_the_blocks_of_their_common_prefix_in_common(
    one: list[int], other: list[int], common: int
) -> None:
    other = one[:common] + other
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    ours, theirs = blocks_of(one, "t"), blocks_of(other, "t")
    assert len(ours) == len(one) // BLOCK_TOKENS
    shared = [a == b for a, b in zip(ours, theirs, strict=False)]
    assert sum(shared) == same // BLOCK_TOKENS
    assert shared == sorted(shared, reverse=True)


def test_blocks_are_bounded_and_of_one_tenant() -> None:
    prompt = list(range(2 * MAX_BLOCKS * BLOCK_TOKENS))
    blocks = blocks_of(prompt, "t")
    assert len(blocks) == MAX_BLOCKS == len(set(blocks))
    assert not set(blocks) & set(blocks_of(prompt, "u"))
