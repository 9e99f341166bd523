"""Slots on the device hold exactly the wanted tokens, and only what is missing is fetched."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.offload.staging import StagedTokens

HEADS = 2


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, list[list[int]]]]:
    """Steps of a growing sequence: its tokens, and those wanted by each head."""
    tokens, steps = draw(st.integers(1, 6)), []
    for _ in range(draw(st.integers(1, 8))):
        count = draw(st.integers(1, tokens))
        wanted = [draw(st.permutations(range(tokens)))[:count] for _ in range(HEADS)]
        steps.append((tokens, wanted))
        tokens += draw(st.integers(0, 3))
    return steps


@given(histories())
def test_slots_hold_what_is_wanted(steps: list[tuple[int, list[list[int]]]]) -> None:
    staged = StagedTokens(HEADS)
    slots: list[dict[int, int]] = [{} for _ in range(HEADS)]
    for tokens, wanted in steps:
        count = len(wanted[0])
        before = [{slot: t for slot, t in held.items() if slot < count} for held in slots]
        difference = staged.change(torch.tensor(wanted), tokens)
        for head, token, slot in zip(*(part.tolist() for part in difference), strict=True):
            assert token not in before[head].values(), "it was there"
            slots[head][slot] = token
        for head in range(HEADS):
            held = [slots[head][slot] for slot in range(count)]
            assert sorted(held) == sorted(wanted[head])
            slots[head] = dict(enumerate(held))
        assert staged.slots == count
