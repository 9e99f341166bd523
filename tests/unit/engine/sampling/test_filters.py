"""top_k, top_p and min_p against slow sampling from a sorted row."""

from math import ceil
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.protocol import Sampling
from engine.sampling import SamplingParams, prepare, sample
from engine.sampling.filters import MAX_SORTED_TOP_K, SamplingMethod, method_of
from engine.sampling.randomness import uniforms
from engine.sampling.top_k import leading_mask, ranks

VOCABULARY = 60
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def sampled(logits: Tensor, sampling: Sampling, position: int) -> int:
    batch = prepare([SamplingParams(sampling, position)], len(logits), torch.device("cpu"))
    return int(sample(logits[None], batch).tokens)


def slowly_sampled(logits: Tensor, sampling: Sampling, position: int) -> int:
    """Walk through the tokens by probability, lower ids first among equals."""
    scores = logits.tolist()
    likeliest = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    if method_of(sampling, len(scores)) is SamplingMethod.GREEDY:
        return likeliest[0]
    unit = 2 ** (62 - (len(scores) - 1).bit_length())
    heights = (logits - logits.max()) / torch.tensor(sampling.temperature)
    weights = [int(weight * unit) for weight in heights.exp().tolist()]
    kept = likeliest[: sampling.top_k or None]
    total = sum(weights[token] for token in kept)
    nucleus, mass = [], 0
    for token in kept:
        if sampling.top_p == 1 or mass < ceil(sampling.top_p * float(total)):
            nucleus.append(token)
        mass += weights[token]
    candidates = [token for token in nucleus if weights[token] >= sampling.min_p * unit]
    if method_of(sampling, len(scores)) is not SamplingMethod.TOP_K:
        candidates.sort()
    total = sum(weights[token] for token in candidates)
    remaining = min(int(uniforms([sampling.seed], [position])[0] * float(total)), total - 1)
    for token in candidates:
        remaining -= weights[token]
        if remaining < 0:
            return token
    raise AssertionError


@given(
    st.lists(st.sampled_from([-torch.inf, -4.0, -1.0, -0.5, -0.0, 0.0, 0.25, 2.0]) | finite),
    st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0.0, 100.0),
        top_k=st.integers(0, 70),
        top_p=st.sampled_from([0.1, 0.25, 0.5, 1.0]) | st.floats(1e-6, 1.0),
        min_p=st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0.0, 1.0),
        seed=st.integers(0, 2**40),
    ),
    st.integers(0, 1000),
)
def test_a_token_is_the_one_a_sorted_walk_finds(
    scores: list[float], sampling: Sampling, position: int
) -> None:
    logits = torch.tensor([0.0, *scores])
    assert sampled(logits, sampling, position) == slowly_sampled(logits, sampling, position)


@pytest.mark.parametrize(
    "options", [{"top_k": MAX_SORTED_TOP_K}, {"top_k": MAX_SORTED_TOP_K + 1}, {}]
)
@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
def test_a_large_vocabulary_gives_the_same(options: dict[str, Any], top_p: float) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = (torch.randn(4001, generator=generator) * 2).bfloat16().float()
    for position in range(6):
        sampling = Sampling(1.3, top_p=top_p, min_p=0.001, **options)
        assert sampled(logits, sampling, position) == slowly_sampled(logits, sampling, position)


@given(st.integers(0, 2**40), st.integers(1, 2**20))
def test_top_p_samples_from_the_smallest_set_that_reaches_it(seed: int, position: int) -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    assert sampled(logits, Sampling(1.0, top_p=0.74, seed=seed), position) in {1, 3}
    assert sampled(logits, Sampling(1.0, top_p=0.49, seed=seed), position) == 1


@given(st.integers(0, 2**40))
def test_among_equal_scores_the_lower_ids_are_kept(seed: int) -> None:
    logits = torch.zeros(VOCABULARY)
    logits[40] = 1.0
    assert sampled(logits, Sampling(9.0, top_k=3, seed=seed), 1) in {0, 1, 40}
    assert sampled(logits, Sampling(9.0, top_p=0.04, seed=seed), 1) in {0, 1, 40}


@given(st.lists(finite | st.sampled_from([0.0, -0.0, torch.inf, -torch.inf]), min_size=1))
def test_ranks_fall_as_scores_rise(scores: list[float]) -> None:
    rank = ranks(torch.tensor([scores]))[0].tolist()
    assert all(0 <= place < 2**32 for place in rank)
    pairs = list(zip(scores, rank, strict=True))
    assert all((one > other) == (p < q) for one, p in pairs for other, q in pairs)


@given(
    st.lists(st.integers(0, 5) | st.integers(0, 2**32 - 1), min_size=1, max_size=20),
    st.data(),
)
def test_the_leading_tokens_are_the_first_that_reach_the_target(
    rank: list[int], data: st.DataObject
) -> None:
    weight_of = {place: data.draw(st.integers(1, 2**50)) for place in set(rank)}
    weights = [weight_of[place] for place in rank]
    target_weight = data.draw(st.integers(1, sum(weights)))
    first, mass = set(), 0
    for token in sorted(range(len(rank)), key=lambda token: (rank[token], token)):
        if mass < target_weight:
            first.add(token)
        mass += weights[token]
    found = leading_mask(
        torch.tensor([rank]), torch.tensor([weights]), torch.tensor([[target_weight]])
    )
    assert set(found[0].nonzero()[:, 0].tolist()) == first
