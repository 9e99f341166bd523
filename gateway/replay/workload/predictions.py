"""The predicted lengths that policies get in a replay: recorded, noisy, shuffled or true."""

from typing import Final, Literal, TypeAlias

import numpy as np

from gateway.errors import InvalidRequest
from gateway.quantiles import LEVELS, Floats
from gateway.replay.workload.workload import Float32s, Int32s, Workload

PredictorName: TypeAlias = Literal["recorded", "noise", "oracle", "shuffled"]

TAU: Final = 0.7  # near that of LMaaS's predictor over many apps: see benchmarks, P1
TAU_SAMPLE: Final = 20_000  # requests on which τ is computed
BISECTIONS: Final = 20
MAX_NOISE: Final = 64.0  # in standard deviations of log lengths: τ is about 0.01


def with_predictions(
    workload: Workload, name: PredictorName, random: np.random.Generator, tau: float = TAU
) -> Workload:
    """The workload with the named predictor's quantiles, capped by each request's max_tokens.

    `recorded`: the quantiles of the trace or history; InvalidRequest without any. `oracle`: the
    true length at every level. `noise`: see `noisy_quantiles`. `shuffled`: the recorded quantiles,
    or else noisy ones, each assigned to another request.
    """
    match name:
        case "recorded":
            if not workload.has_predictions:
                raise InvalidRequest(
                    "no predictions are recorded; take the predictor noise, oracle or shuffled"
                )
            return workload.with_quantiles(workload.quantiles)
        case "oracle":
            return workload.with_quantiles(_true_quantiles(workload.generation_tokens))
        case "noise":
            return workload.with_quantiles(noisy_quantiles(workload.generation_tokens, tau, random))
        case "shuffled":
            source = workload
            if not workload.has_predictions:
                source = with_predictions(workload, "noise", random, tau)
            return workload.with_quantiles(source.quantiles[random.permutation(len(workload))])


def noisy_quantiles(tokens: Int32s, tau: float, random: np.random.Generator) -> Float32s:
    """Quantiles (n, 6) of a simulated predictor; its medians have Kendall's `tau` with `tokens`.

    The predictor observes y = ln N + s·ε for a length N, with ε standard normal. Its prediction is
    the linear regression of ln N on y plus the quantiles of the residuals, so each level covers
    its fraction of the lengths.
    """
    logs = np.log(tokens.astype(np.float64))
    noise = random.standard_normal(len(logs))
    signal = logs + _noise_scale(logs, noise, tau) * noise
    centred = signal - signal.mean()
    slope = float(centred @ logs) / max(float(centred @ centred), np.finfo(np.float64).tiny)
    middle = logs.mean() + slope * centred
    residuals = np.quantile(logs - middle, LEVELS)
    quantiles: Float32s = np.exp(middle[:, None] + residuals).astype(np.float32)
    return quantiles


def _noise_scale(logs: Floats, noise: Floats, tau: float) -> float:
    """The s at which the signal y and the log lengths have Kendall's `tau`, by bisection.

    τ is computed on `TAU_SAMPLE` random requests.
    """
    if not 0 < tau <= 1:
        raise InvalidRequest(f"tau is {tau:g}; above 0 and at most 1 is accepted")
    scale = float(logs.std())
    indices = np.random.default_rng(0).permutation(len(logs))[:TAU_SAMPLE]
    sampled_logs, sampled_noise = logs[indices], noise[indices]
    low, high = 0.0, MAX_NOISE * scale
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if kendall_tau(sampled_logs, sampled_logs + middle * sampled_noise) > tau:
            low = middle
        else:
            high = middle
    return low


def kendall_tau(left: Floats, right: Floats) -> float:
    """Kendall's τ-b of two series, in O(n log n); NaN if one is constant."""
    from scipy.stats import kendalltau  # noqa: PLC0415 - takes a second to import

    return float(kendalltau(left, right).statistic)


def _true_quantiles(tokens: Int32s) -> Float32s:
    return np.repeat(tokens.astype(np.float32)[:, None], len(LEVELS), axis=1)
