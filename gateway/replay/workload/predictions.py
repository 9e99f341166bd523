"""What the policy is told of lengths in a replay: what was recorded, or something made up."""

from typing import Final, Literal, TypeAlias

import numpy as np

from gateway.errors import InvalidRequest
from gateway.quantiles import LEVELS, Floats
from gateway.replay.workload.workload import Counts, Singles, Workload

PredictorName: TypeAlias = Literal["recorded", "noise", "oracle", "shuffled"]

TAU: Final = 0.7  # about what our predictor reaches over many apps; see benchmarks
SAMPLE: Final = 20_000  # lengths that τ is met on
HALVINGS: Final = 20
WIDEST: Final = 64.0  # standard deviations of log lengths: τ is about .01 there


def predicted(
    workload: Workload, name: PredictorName, random: np.random.Generator, tau: float = TAU
) -> Workload:
    """The workload with the named predictor's quantiles, capped by each request's max_tokens.

    `recorded`: what the trace or history says; InvalidRequest where it says nothing. `oracle`: the
    true length at every level. `noise`: see `noisy`. `shuffled`: the recorded quantiles, or else
    noisy ones, each given to another request.
    """
    match name:
        case "recorded":
            if not workload.predicted:
                raise InvalidRequest(
                    "no predictions are recorded; take the predictor noise, oracle or shuffled"
                )
            return workload.said(workload.quantiles)
        case "oracle":
            return workload.said(_true(workload.generation_tokens))
        case "noise":
            return workload.said(noisy(workload.generation_tokens, tau, random))
        case "shuffled":
            told = workload if workload.predicted else predicted(workload, "noise", random, tau)
            return workload.said(told.quantiles[random.permutation(len(workload))])


def noisy(tokens: Counts, tau: float, random: np.random.Generator) -> Singles:
    """Quantiles (n, 6) of a predictor whose medians have Kendall's `tau` with the lengths (n,).

    It sees the signal y = ln N + s·ε, ε standard normal, and answers the linear regression of ln N
    on y with the quantiles of what that leaves: each level covers its share of the lengths.
    """
    logs = np.log(tokens.astype(np.float64))
    noise = random.standard_normal(len(logs))
    signal = logs + _spread(logs, noise, tau) * noise
    centred = signal - signal.mean()
    slope = float(centred @ logs) / max(float(centred @ centred), np.finfo(np.float64).tiny)
    middle = logs.mean() + slope * centred
    left = np.quantile(logs - middle, LEVELS)
    quantiles: Singles = np.exp(middle[:, None] + left).astype(np.float32)
    return quantiles


def _spread(logs: Floats, noise: Floats, tau: float) -> float:
    """The s at which signal and log lengths have this Kendall τ, by bisection.

    τ is taken of the first `SAMPLE` requests that share no pattern with their order.
    """
    if not 0 < tau <= 1:
        raise InvalidRequest(f"tau is {tau:g}; above 0 and at most 1 is accepted")
    scale = float(logs.std())
    places = np.random.default_rng(0).permutation(len(logs))[:SAMPLE]
    some, shaken = logs[places], noise[places]
    low, high = 0.0, WIDEST * scale
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if kendall_tau(some, some + middle * shaken) > tau:
            low = middle
        else:
            high = middle
    return low


def kendall_tau(left: Floats, right: Floats) -> float:
    """Kendall's τ-b of two series, in n·log n time; NaN if one is constant."""
    from scipy.stats import kendalltau  # noqa: PLC0415 - takes a second to import

    return float(kendalltau(left, right).statistic)


def _true(tokens: Counts) -> Singles:
    return np.repeat(tokens.astype(np.float32)[:, None], len(LEVELS), axis=1)
