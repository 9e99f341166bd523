"""Packing a step's chunks into tensors."""

from collections.abc import Sequence
from types import SimpleNamespace

import torch

from engine.attention.interface import Context
from engine.networks.interface import Packed
from engine.running.packing import pack
from engine.step.chunks import Chunk


class RecordingAttention:
    """An attention whose plan is its list of contexts."""

    def plan(self, contexts: Sequence[Context]) -> list[Context]:
        return list(contexts)


def a_chunk(
    tokens: Sequence[int],
    start: int,
    length: int,
    *,
    samples_token: bool = True,
    carry: int | None = None,
    padding: int = 0,
) -> Chunk:
    sequence = SimpleNamespace(tokens=list(tokens), pages=[9], padding=padding)
    return Chunk(sequence, start, length, samples_token, carry)


def packed(*chunks: Chunk) -> Packed:
    return pack(chunks, RecordingAttention(), torch.device("cpu"))


def test_chunks_are_packed_in_order() -> None:
    step = packed(a_chunk([5, 6, 7], 2, 1), a_chunk([1, 2, 3, 4], 1, 3))
    assert step.token_ids.tolist() == [7, 2, 3, 4]
    assert step.positions.tolist() == [2, 1, 2, 3]
    assert step.plan == [Context(2, 1, [9], 0), Context(1, 3, [9], 0)]


def test_tokens_are_sampled_only_after_chunks_that_end_the_known_tokens() -> None:
    step = packed(
        a_chunk([5], 0, 1), a_chunk([1, 2, 3, 4], 0, 3, samples_token=False), a_chunk([8, 9], 0, 2)
    )
    assert step.sample_rows.tolist() == [0, 5]


def test_padding_does_not_count_as_position() -> None:
    step = packed(a_chunk([0, 0, 0, 6, 7], 1, 4, padding=3))
    assert step.positions.tolist() == [0, 0, 0, 1]
    assert step.plan[0].padding == 3


def test_tokens_not_known_yet_are_carried_over() -> None:
    step = packed(
        a_chunk([5, 6], 2, 1, carry=1), a_chunk([7], 0, 1), a_chunk([1, 2], 0, 3, carry=0)
    )
    assert step.token_ids.tolist() == [0, 7, 1, 2, 0]
    assert step.carry is not None
    assert step.carry.tolist() == [[0, 4], [1, 0]]


def test_nothing_is_carried_if_all_tokens_are_known() -> None:
    assert packed(a_chunk([5], 0, 1)).carry is None
