"""Bias, penalties and masks against a slow loop over the vocabulary."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.protocol import Sampling
from engine.sampling import SampledToken, SamplingParams, copy_to_host, prepare, read_tokens, sample
from engine.sampling.edits import LogitEdits

CPU = torch.device("cpu")
VOCABULARY = 12
tokens = st.integers(0, VOCABULARY - 1)
histories = st.lists(tokens, max_size=10)
samplings = st.builds(
    Sampling,
    presence_penalty=st.just(0.0) | st.floats(-2.0, 2.0),
    frequency_penalty=st.just(0.0) | st.floats(-2.0, 2.0),
    repetition_penalty=st.just(1.0) | st.floats(0.1, 10.0),
    logit_bias=st.dictionaries(st.integers(-3, 20), st.floats(-100.0, 100.0), max_size=4),
    allowed=st.lists(st.integers(-3, 20), max_size=4),
    bad_words=st.lists(st.lists(tokens, min_size=1, max_size=3), max_size=3),
)
banned_ids = st.lists(st.integers(-3, 20), max_size=3)
LOGITS = torch.tensor([0.5, -1.0, 3.0, 0.0, 2.5, -4.0, 1.0, 1.5, -0.5, 2.0, -2.0, 2.75])


def edited(params: list[SamplingParams], previous: Tensor | None = None) -> Tensor:
    scores = LOGITS.repeat(len(params), 1)
    LogitEdits.of(params, VOCABULARY, CPU).apply(scores, previous)
    return scores


def sampled_tokens(params: list[SamplingParams]) -> list[SampledToken]:
    batch = prepare(params, VOCABULARY, CPU)
    return read_tokens(copy_to_host(sample(LOGITS.expand(len(params), -1), batch)), batch)


def slowly_edited(
    sampling: Sampling, prompt: list[int], generated: list[int], banned: list[int]
) -> list[float]:
    scores = []
    for token, logit in enumerate(LOGITS.tolist()):
        score = logit + sampling.logit_bias.get(token, 0.0)
        if token in prompt or token in generated:
            factor = sampling.repetition_penalty
            score = score / factor if score > 0 else score * factor
        score -= sampling.frequency_penalty * generated.count(token)
        score -= sampling.presence_penalty * (token in generated)
        masked = bool(sampling.allowed) and token not in sampling.allowed
        masked |= token in banned
        for *before, last in sampling.bad_words:
            masked |= (
                token == last and [-1, *generated][len(generated) + 1 - len(before) :] == before
            )
        scores.append(-torch.inf if masked else score)
    return scores


@given(st.lists(st.tuples(samplings, histories, histories, banned_ids), min_size=1, max_size=4))
def test_scores_are_edited_in_the_order_the_options_state(
    rows: list[tuple[Sampling, list[int], list[int], list[int]]],
) -> None:
    params = [
        SamplingParams(sampling, 9, prompt, generated, banned=banned)
        for sampling, prompt, generated, banned in rows
    ]
    expected = torch.tensor([slowly_edited(*row) for row in rows])
    torch.testing.assert_close(edited(params), expected, rtol=1e-5, atol=1e-5)


@given(st.lists(st.tuples(samplings, histories, histories, tokens), min_size=1, max_size=4))
def test_a_carried_token_is_penalised_like_a_known_one(
    rows: list[tuple[Sampling, list[int], list[int], int]],
) -> None:
    previous = torch.tensor([newest for *_, newest in rows]).flip(0)
    known, carried = [], []
    for row, (sampling, prompt, generated, newest) in enumerate(rows):
        known.append(SamplingParams(sampling, 9, prompt, [*generated, newest]))
        carried.append(SamplingParams(sampling, 9, prompt, generated, carried=len(rows) - 1 - row))
    assert torch.equal(edited(carried, previous), edited(known))


def test_a_penalty_moves_greedy_to_the_next_token() -> None:
    params = [
        SamplingParams(Sampling(frequency_penalty=0.2), 9, generated=[2] * n) for n in range(4)
    ]
    assert [result.token for result in sampled_tokens(params)] == [2, 2, 11, 11]


@pytest.mark.parametrize("temperature", [0.0, 100.0])
def test_only_allowed_tokens_are_sampled(temperature: float) -> None:
    params = [
        SamplingParams(Sampling(temperature, allowed=[5, 1]), position) for position in range(40)
    ]
    ids = {result.token for result in sampled_tokens(params)}
    assert ids == ({5, 1} if temperature else {1})


def test_a_row_without_allowed_tokens_ends_alone_with_the_reason() -> None:
    stuck = SamplingParams(Sampling(1.0, top_p=0.5, allowed=[-1]), 9)
    unknown_id = SamplingParams(Sampling(allowed=[99]), 9)
    found = sampled_tokens([SamplingParams(Sampling(), 9), stuck, unknown_id])
    assert [result.token for result in found] == [2, None, None]
    assert {result.reason for result in found[1:]} == {"no token is allowed"}
