"""Log probabilities of sampled tokens."""

from typing import Any

import pytest
import torch

from engine.protocol import Sampling
from engine.sampling import SampledToken, SamplingParams, copy_to_host, prepare, read_tokens, sample

VOCABULARY = 30
LOGITS = torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(2)) * 4


def sampled_tokens(samplings: list[Sampling], logits: torch.Tensor = LOGITS) -> list[SampledToken]:
    params = [SamplingParams(sampling, 3, [1, 2], [3]) for sampling in samplings]
    batch = prepare(params, logits.shape[-1], torch.device("cpu"))
    return read_tokens(copy_to_host(sample(logits[: len(params)], batch)), batch)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 5.0},
        {"temperature": 2.0, "top_k": 3, "repetition_penalty": 3.0},
        {"logit_bias": {7: 100.0}},
        {"allowed": [4]},
    ],
)
def test_logprobs_are_those_of_the_models_own_scores(options: dict[str, Any]) -> None:
    expected = LOGITS.log_softmax(-1)
    for row, result in enumerate(sampled_tokens([Sampling(logprobs=2, **options)] * 6)):
        assert result.token is not None
        assert result.logprobs is not None
        assert result.logprobs.logprob == pytest.approx(expected[row, result.token].item())
        best = expected[row].topk(2)
        assert [token for token, _ in result.logprobs.top] == best.indices.tolist()
        assert [logprob for _, logprob in result.logprobs.top] == pytest.approx(best.values)


def test_each_row_gets_the_requested_number_of_likeliest_tokens() -> None:
    requested = [None, 0, 5, 20, None, 1]
    found = sampled_tokens([Sampling(logprobs=count) for count in requested])
    counts = [None if one.logprobs is None else len(one.logprobs.top) for one in found]
    assert counts == requested


def test_a_small_vocabulary_lists_fewer_tokens() -> None:
    (result,) = sampled_tokens([Sampling(logprobs=20)], torch.tensor([[0.0, 1.0, -torch.inf]]))
    assert result.logprobs is not None
    assert [token for token, _ in result.logprobs.top] == [1, 0]


def test_a_row_without_a_token_has_no_logprobs() -> None:
    logits = LOGITS.clone()
    logits[0] = torch.nan
    broken, whole = sampled_tokens([Sampling(logprobs=3)] * 2, logits)
    assert broken.logprobs is None
    assert whole.logprobs is not None
