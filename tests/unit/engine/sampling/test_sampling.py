"""Sampling the tokens of a step."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.protocol import Sampling
from engine.sampling import SamplingParams, copy_to_host, prepare, read_tokens, sample
from engine.sampling.batch import GROUP_SCORES

CPU = torch.device("cpu")
VOCABULARY = 50
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.1, 1.0]) | st.floats(0.0, 100.0),
    top_k=st.integers(0, 60),
    top_p=st.just(1.0) | st.floats(0.01, 1.0),
    min_p=st.just(0.0) | st.floats(0.0, 1.0),
    presence_penalty=st.just(0.0) | st.floats(-2.0, 2.0),
    repetition_penalty=st.just(1.0) | st.floats(0.1, 10.0),
    logit_bias=st.dictionaries(st.integers(0, 60), st.floats(-100.0, 100.0), max_size=3),
    allowed=st.lists(st.integers(0, 49), max_size=5),
    logprobs=st.none() | st.integers(0, 20),
    seed=st.integers(-(2**70), 2**70),
)
tokens_before = st.lists(st.integers(0, 49), max_size=6)
params_of_a_row = st.tuples(samplings, st.integers(0, 2**20), tokens_before, tokens_before).map(
    lambda fields: SamplingParams(*fields)
)


def some_logits(rows: int, vocabulary: int = VOCABULARY) -> Tensor:
    """Logits with ties."""
    generator = torch.Generator().manual_seed(rows)
    return (torch.randn(rows, vocabulary, generator=generator) * 3).bfloat16()


def sampled(logits: Tensor, params: list[SamplingParams]) -> list[int | None]:
    batch = prepare(params, logits.shape[-1], CPU)
    return [result.token for result in read_tokens(copy_to_host(sample(logits, batch)), batch)]


def chi_square_limit(freedom: int) -> float:
    """The 0.999 quantile of chi-square (Wilson and Hilferty, PNAS 17, 1931)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 3.09 * sqrt(spread)) ** 3


@given(st.lists(params_of_a_row, min_size=1, max_size=8))
def test_a_row_samples_the_same_alone_and_in_any_batch(params: list[SamplingParams]) -> None:
    logits = some_logits(len(params))
    alone = [
        sampled(logits[row : row + 1], [row_params])[0] for row, row_params in enumerate(params)
    ]
    assert sampled(logits, params) == alone
    assert sampled(logits.flip(0), params[::-1]) == alone[::-1]


def test_a_row_samples_the_same_in_a_group_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = some_logits(9)
    params = [SamplingParams(Sampling(1.0, top_k, 0.9, seed=top_k), 5) for top_k in range(9)]
    together = sampled(logits, params)
    monkeypatch.setitem(GROUP_SCORES, "cpu", 2 * VOCABULARY)
    assert sampled(logits, params) == together


@pytest.mark.parametrize(
    "greedy",
    [
        Sampling(),
        Sampling(9e-6),
        Sampling(100.0, top_k=1),
        Sampling(100.0, top_p=1e-9),
    ],
)
def test_greedy_takes_the_lowest_likeliest_id_next_to_any_row(greedy: Sampling) -> None:
    logits = some_logits(6)
    logits[:, 30:32] = logits.amax() + 1
    params = [SamplingParams(greedy, 3), SamplingParams(Sampling(50.0), 3)] * 3
    assert sampled(logits, params)[::2] == [30, 30, 30]


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e-5, 1e-3])
@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.999}])
def test_a_temperature_near_zero_is_greedy(temperature: float, options: dict[str, Any]) -> None:
    logits = some_logits(5)
    logits[:, 30] = logits.amax() + 1
    params = [SamplingParams(Sampling(temperature, seed=row, **options), 9) for row in range(5)]
    assert sampled(logits, params) == [30] * 5


def test_seeds_and_positions_determine_the_tokens() -> None:
    logits = torch.zeros(40, VOCABULARY)
    params = [
        SamplingParams(Sampling(1.0, seed=seed), position)
        for seed in range(5)
        for position in range(8)
    ]
    assert sampled(logits, params) == sampled(logits, params)
    assert len(set(sampled(logits, params))) > 20


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({}, lambda p: p > 0),
        ({"temperature": 2.5}, lambda p: p > 0),
        ({"top_k": 4}, lambda p: p >= p.sort().values[-4]),
        ({"top_p": 0.8}, lambda p: p >= p.sort().values[-5]),
        ({"min_p": 0.1}, lambda p: p >= 0.1 * p.max()),
        ({"top_k": 6, "top_p": 0.9}, lambda p: p >= p.sort().values[-5]),
    ],
)
def test_token_frequencies_follow_the_probabilities(
    sampling: dict[str, Any], kept: Callable[[Tensor], Tensor]
) -> None:
    logits = torch.arange(12).remainder(7) * 0.6 - torch.arange(12) * 0.05
    sampling = {"temperature": 1.0, "seed": 7, **sampling}
    likely = torch.softmax(logits.double() / sampling["temperature"], -1)
    likely = torch.where(kept(likely), likely, 0.0)
    count = 20_000
    tokens = sampled(
        logits.expand(count, -1), [SamplingParams(Sampling(**sampling), n) for n in range(count)]
    )
    found = torch.tensor(tokens).bincount(minlength=12)
    expected = count * likely / likely.sum()
    assert not found[expected == 0].any()
    there = expected > 0
    distance = ((found - expected).square() / expected)[there].sum().item()
    assert distance < chi_square_limit(int(there.sum()) - 1)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.5}, {"allowed": [3]}])
def test_a_row_with_nan_or_infinity_ends_alone(poison: float, options: dict[str, Any]) -> None:
    logits = some_logits(3)
    logits[1, 4] = poison
    params = [SamplingParams(Sampling(1.0, **options), 1)] * 3
    batch = prepare(params, VOCABULARY, CPU)
    step = sample(logits, batch)
    results = read_tokens(copy_to_host(step), batch)
    assert [result.token is None for result in results] == [False, True, False]
    assert results[1].reason == "the model's scores are not finite numbers"
    assert step.finite.tolist() == [True, False, True]
    assert step.tokens[1] == 0


@pytest.mark.parametrize("options", [{}, {"top_k": 2000}, {"top_p": 0.5}, {"top_k": 20}])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_tokens_of_probability_zero_are_not_sampled(
    temperature: float, options: dict[str, Any]
) -> None:
    logits = torch.full((1, VOCABULARY), -torch.inf)
    logits[0, 17] = -3.0
    assert sampled(logits, [SamplingParams(Sampling(temperature, **options), 1)]) == [17]


def test_a_vocabulary_of_one_token_gives_that_token() -> None:
    params = [SamplingParams(Sampling(temperature, top_k=5), 1) for temperature in (0.0, 1.0)]
    assert sampled(torch.zeros(2, 1), params) == [0, 0]


def test_a_step_without_rows_gives_no_tokens() -> None:
    assert sampled(torch.zeros(0, VOCABULARY), []) == []


def test_sampling_reads_nothing_back_from_the_device() -> None:
    everything = Sampling(1.0, 20, 0.9, 0.1, 0.3, 0.4, 1.2, {3: 2.0}, [5, 6], 4)
    samplings_used = [Sampling(), Sampling(1.0), Sampling(1.0, top_k=2000, top_p=0.9), everything]
    params = [SamplingParams(sampling, 3, [1], [2], carried=0) for sampling in samplings_used]
    meta = torch.device("meta")  # has no values to read
    batch = prepare(params, 3000, meta)
    logits = torch.empty(4, 3000, device=meta, dtype=torch.bfloat16)
    step = sample(logits, batch, torch.empty(4, device=meta, dtype=torch.int64))
    assert (step.tokens.shape, step.finite.shape) == ((4,), (4,))
