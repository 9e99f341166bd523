"""What other serving systems predict a length by, from their published rules.

Each gives one number, which is its median, its mean and what it holds:
- 1.5 times the prompt, or a constant of 4,096 tokens (defaults of schedulers without a predictor);
- a histogram of answer lengths for each bucket of input lengths, of which a length is drawn at
  random or the mean is taken;
- the median or the 0.9 quantile of the app's earlier answers.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.forecast import Forecast
from gateway.prediction.features.features import INPUTS
from gateway.quantiles import LEVELS, Floats

PROMPT_FACTOR: Final = 1.5
CONSTANT_TOKENS: Final = 4_096.0
SEED: Final = 1
PEERS: Final = (
    "1.5 times the prompt",
    "constant 4,096",
    "histogram, drawn",
    "histogram, mean",
    "p50 of the app",
    "p90 of the app",
)


def peers(train: EvaluationRequests, test: EvaluationRequests) -> Iterator[tuple[str, Forecast]]:
    """The name and the forecast of each rule."""
    prompts = np.expm1(test.inputs.features[:, INPUTS.index("log_prompt_tokens")].astype(float))
    random = np.random.default_rng(SEED)
    rules = (
        PROMPT_FACTOR * prompts,
        np.full(len(test), CONSTANT_TOKENS),
        _by_group(train, _buckets(train), _buckets(test), random.choice),
        _by_group(train, _buckets(train), _buckets(test), lambda own, n: np.full(n, own.mean())),
        _by_group(train, train.names, test.names, lambda own, n: np.full(n, np.median(own))),
        _by_group(train, train.names, test.names, lambda own, n: np.full(n, np.quantile(own, 0.9))),
    )
    for name, tokens in zip(PEERS, rules, strict=True):
        yield name, _point(np.maximum(tokens, 1.0))


def _point(tokens: Floats) -> Forecast:
    logs = np.tile(np.log(tokens)[:, None], len(LEVELS))
    return Forecast(log_quantiles=logs, location=np.log1p(tokens), mean=tokens)


def _buckets(requests: EvaluationRequests) -> NDArray[np.int64]:
    """The input length's power of two, (n,)."""
    return np.asarray(np.floor(requests.inputs.log_uil / np.log(2)), dtype=np.int64)


def _by_group(
    train: EvaluationRequests,
    known: NDArray[Any],
    wanted: NDArray[Any],
    rule: Callable[[Floats, int], Floats],
) -> Floats:
    """The rule on the training lengths of each test row's group, or on all for a new group."""
    found = np.empty(len(wanted))
    for group in np.unique(wanted):
        own, rows = train.tokens[known == group], wanted == group
        found[rows] = rule(own if len(own) else train.tokens, int(rows.sum()))
    return found
