"""What is predicted of scores from 4-bit codes, against the scores themselves."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.offload.layout import MIN_FETCHED, fetched_tokens
from engine.offload.selection import (
    CodeScale,
    encode,
    group_attention,
    likeliest,
    predicted_scores,
    scale_of,
)

KV_HEADS, GROUP, ROWS, DIM = 2, 3, 4, 8

seeds = st.integers(0, 1000)
token_counts = st.integers(1, 30)


def drawn(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def codes_of(packed: torch.Tensor) -> torch.Tensor:
    return torch.cat((packed & 15, packed >> 4), -1)


def decoded(packed: torch.Tensor, scale: CodeScale) -> torch.Tensor:
    return scale.low[:, None] + codes_of(packed) * scale.step[:, None]


@given(seeds, token_counts)
def test_codes_are_half_a_step_off_at_most(seed: int, tokens: int) -> None:
    keys = drawn(seed, KV_HEADS, tokens, DIM)
    scale = scale_of(keys)
    off = (decoded(encode(keys, scale), scale) - keys).abs()
    assert (off <= 0.5001 * scale.step[:, None] + 1e-5).all()


@given(seeds, token_counts)
def test_later_keys_get_the_nearest_code(seed: int, tokens: int) -> None:
    scale = scale_of(drawn(seed, KV_HEADS, 5, DIM))
    keys = 3 * drawn(seed + 1, KV_HEADS, tokens, DIM)
    values = scale.low[..., None] + scale.step[..., None] * torch.arange(16)
    nearest = (keys[..., None] - values[:, None]).abs().argmin(-1)
    assert (codes_of(encode(keys, scale)) == nearest).float().mean() > 0.999  # but for ties


@given(seeds, token_counts)
def test_scores_are_those_of_the_coded_keys(seed: int, tokens: int) -> None:
    query = drawn(seed, KV_HEADS, GROUP, DIM)
    keys = drawn(seed + 1, KV_HEADS, tokens, DIM)
    scale = scale_of(drawn(seed + 2, KV_HEADS, 40, DIM))
    codes = encode(keys, scale)
    predicted = predicted_scores(query, codes, scale.step, 0.5)
    assert predicted.shape == (KV_HEADS, GROUP, tokens)
    for head in range(KV_HEADS):
        coded = decoded(codes, scale)[head] - scale.low[head] - 7.5 * scale.step[head]
        assert torch.allclose(predicted[head], 0.5 * query[head] @ coded.T, atol=1e-4)


def test_keys_of_one_value_have_one_score() -> None:
    keys = torch.full((KV_HEADS, 5, DIM), 3.0)
    scale = scale_of(keys)
    query = drawn(1, KV_HEADS, GROUP, DIM)
    scores = predicted_scores(query, encode(keys, scale), scale.step, 1.0)
    assert torch.isfinite(scores).all()
    assert (scores - scores[..., :1]).abs().max() == 0


@given(seeds, token_counts)
def test_sequences_together_are_as_each_alone(seed: int, tokens: int) -> None:
    query, keys = drawn(seed, 3, KV_HEADS, GROUP, DIM), drawn(seed + 1, 3, KV_HEADS, tokens, DIM)
    scale = scale_of(keys)
    codes = encode(keys, scale)
    together = predicted_scores(query, codes, scale.step, 0.5)
    for number in range(3):
        alone = scale_of(keys[number])
        assert torch.equal(codes[number], encode(keys[number], alone))
        scores = predicted_scores(query[number], codes[number], alone.step, 0.5)
        assert torch.allclose(together[number], scores, atol=1e-5)


@given(seeds, token_counts)
def test_attention_is_summed_over_the_queries_of_a_group(seed: int, tokens: int) -> None:
    scores = drawn(seed, ROWS, KV_HEADS, GROUP, tokens)
    found = group_attention(scores)
    expected = sum(scores[:, :, member].softmax(-1) for member in range(GROUP))
    assert torch.allclose(found, expected)


@given(seeds, token_counts, st.data())
def test_likeliest_are_those_of_the_highest_scores(
    seed: int, tokens: int, data: st.DataObject
) -> None:
    scores = drawn(seed, KV_HEADS, tokens)
    count = data.draw(st.integers(1, tokens))
    chosen, ranked = likeliest(scores, count), likeliest(scores, count, ranked=True)
    for row, indices, by_rank in zip(*(x.tolist() for x in (scores, chosen, ranked)), strict=True):
        highest = sorted(row, reverse=True)[:count]
        assert sorted((row[i] for i in indices), reverse=True) == highest
        assert [row[i] for i in by_rank] == highest


@given(st.integers(0, 100_000))
def test_a_fifth_is_fetched_but_of_short_sequences(tokens: int) -> None:
    fetched = fetched_tokens(tokens)
    assert fetched <= tokens
    assert fetched == tokens if tokens <= MIN_FETCHED else fetched >= MIN_FETCHED
    assert fetched <= max(MIN_FETCHED, tokens / 5)
