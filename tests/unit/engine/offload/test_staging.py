"""Slots on the device hold exactly the wanted tokens, and only what is missing is fetched."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.offload.staging import NOWHERE, StagedLayer

HEADS = 2
NAMES = "abc"


class Wish(NamedTuple):
    tokens: int  # that the sequence has
    wanted: list[list[int]]  # of them, by head


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Wish]]:
    """Steps of growing sequences, not all of which are in each step."""
    tokens, steps = dict.fromkeys(NAMES, 1), []
    for _ in range(draw(st.integers(1, 8))):
        step = {}
        for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
            tokens[name] += draw(st.integers(0, 4))
            count = draw(st.integers(1, tokens[name]))
            orders = [draw(st.permutations(range(tokens[name]))) for _ in range(HEADS)]
            step[name] = Wish(tokens[name], [order[:count] for order in orders])
        steps.append(step)
    return steps


@given(histories())
def test_slots_hold_what_is_wanted(steps: list[dict[str, Wish]]) -> None:
    names = {name: object() for name in NAMES}
    staged = StagedLayer([], HEADS, torch.empty(0, 1))
    before: dict[str, list[list[int]]] = {}  # by head, the token in each slot
    for step in steps:
        counts = np.array([len(wish.wanted[0]) for wish in step.values()])
        most = int(counts.max())
        staged.regroup([names[name] for name in step], most)
        wanted = np.array(
            [[head + head[:1] * (most - len(head)) for head in w.wanted] for w in step.values()]
        )
        longest = max(wish.tokens for wish in step.values())
        found = staged.tokens.change(wanted, counts, longest)
        for sequence, head, token, slot in zip(*(x.tolist() for x in found), strict=True):
            name = list(step)[sequence]
            assert slot < counts[sequence]
            there = before.get(name, [[]] * HEADS)[head][: counts[sequence]]
            assert token not in there, "it was there"
            staged.content[sequence, head, 1 + slot, 0] = token
        assert staged.content.shape[2] > most
        before = {}
        for number, (name, wish) in enumerate(step.items()):
            held = staged.content[number, :, 1 : 1 + counts[number], 0].int().tolist()
            assert list(map(sorted, held)) == list(map(sorted, wish.wanted))
            before[name] = held


def test_fewer_slots_keep_what_is_in_them() -> None:
    sequence = object()
    staged = StagedLayer([sequence], 1, torch.empty(0, 1))
    staged.regroup([sequence], 3)
    staged.tokens.change(np.array([[[4, 5, 6]]]), np.array([3]), 7)
    found = staged.tokens.change(np.array([[[5, 6, NOWHERE]]]), np.array([2]), 7)
    assert found.tokens.tolist() == [6]  # it was in a slot that is gone
    assert found.slots.tolist() == [0]
