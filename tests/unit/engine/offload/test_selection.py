"""What is predicted of scores, against the scores themselves."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.offload.layout import MIN_FETCHED, fetched_tokens
from engine.offload.selection import (
    energy,
    likeliest,
    partial_keys,
    predicted_scores,
    skew_of,
    strongest_dims,
)

KV_HEADS, GROUP, DIM = 2, 3, 8


def drawn(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_skew_is_a_rotation() -> None:
    skew = skew_of(drawn(1, 40, KV_HEADS * GROUP, DIM), KV_HEADS)
    identity = torch.eye(DIM).expand(KV_HEADS, -1, -1)
    assert torch.allclose(skew @ skew.transpose(1, 2), identity, atol=1e-5)


def test_skew_gathers_energy_in_few_dimensions() -> None:
    plane = drawn(2, 2, DIM)  # the queries are combinations of two directions
    queries = (drawn(3, 40, KV_HEADS * GROUP, 2) @ plane).contiguous()
    rotated = energy(queries.view(40, KV_HEADS, GROUP, DIM).permute(1, 0, 2, 3).flatten(1, 2),
                     skew_of(queries, KV_HEADS))  # fmt: skip
    assert rotated[:, 2:].max() < 1e-3 * rotated[:, :2].min()


@given(st.integers(0, 1000), st.integers(1, 30))
def test_with_all_dimensions_the_prediction_is_the_score(seed: int, tokens: int) -> None:
    query, keys = drawn(seed, KV_HEADS * GROUP, DIM), drawn(seed + 1, KV_HEADS, tokens, DIM)
    skew = skew_of(drawn(seed + 2, 40, KV_HEADS * GROUP, DIM), KV_HEADS)
    dims = strongest_dims(energy(keys, skew), energy(keys, skew), DIM)
    predicted = predicted_scores(query, skew, dims, partial_keys(keys, skew, dims), 0.5)
    for head in range(KV_HEADS):
        scores = 0.5 * query[head * GROUP : (head + 1) * GROUP] @ keys[head].T
        relative = (scores - scores.max(1, keepdim=True).values).max(0).values
        assert torch.allclose(predicted[head], relative, atol=1e-4)


@given(st.integers(0, 1000), st.integers(1, 30), st.data())
def test_likeliest_are_those_of_the_highest_scores(
    seed: int, tokens: int, data: st.DataObject
) -> None:
    scores = drawn(seed, KV_HEADS, tokens)
    count = data.draw(st.integers(1, tokens))
    chosen = likeliest(scores, count)
    for row, indices in zip(scores.tolist(), chosen.tolist(), strict=True):
        assert sorted(row[i] for i in indices) == sorted(row)[tokens - count :]


@given(st.integers(0, 100_000))
def test_a_fifth_is_fetched_but_of_short_sequences(tokens: int) -> None:
    fetched = fetched_tokens(tokens)
    assert fetched <= tokens
    assert fetched == tokens if tokens <= MIN_FETCHED else fetched >= MIN_FETCHED
    assert fetched <= max(MIN_FETCHED, tokens / 5)
