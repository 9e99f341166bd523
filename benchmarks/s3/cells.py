"""The cells of S3: models on a card, request lengths with predictions, reservation rules."""

from functools import partial
from statistics import NormalDist
from typing import Final, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.harness.contenders import FCFS
from benchmarks.harness.preemption import lost_share
from gateway.quantiles import LEVELS, Floats
from gateway.replay import comparison
from gateway.replay.comparison import Case, Contender, ReplayRun
from gateway.replay.cost.model import EngineModel
from gateway.replay.cost.profiles import profile
from gateway.replay.workload.predictions import noisy_quantiles
from gateway.replay.workload.workload import Float32s, Int32s, Workload
from gateway.scheduling.policy import Options

MODELS: Final = ("gpt-j-6b", "llama-13b", "gpt-neox-20b", "llama-33b")
CARD: Final = "a100-80gb"
CONTEXT_TOKENS: Final = 2_048  # limit of a sequence, which `maximum` reserves
STEP_TOKENS: Final = 2_048  # enough to prefill for hundreds of sequences in flight
TAU: Final = 0.7
TURNOVERS: Final = 15  # times that the pool is filled and emptied
MIN_REQUESTS: Final = 1_500
WARM_UP_SHARE: Final = 0.3  # of the requests: measuring begins after their start
MAXIMUM: Final = "maximum"
PEAK: Final = "peak"  # our default
ORACLE: Final = "peak oracle"


class RequestLengths(Struct, frozen=True, kw_only=True):
    """Prompts and answers in tokens: all equal, or log-normal around these medians.

    If lengths are equal, predicted medians have a mean absolute error of `error`, relative to the
    length. With a `spread`, the standard deviation of log lengths, predictions are noisy with a
    Kendall τ of `TAU`.
    """

    name: str
    prompt: int = 256
    answer: int = 64
    spread: float = 0.0
    error: float = 0.25

    @property
    def in_flight(self) -> float:
        """The approximate mean KV tokens of a sequence in flight."""
        return self.prompt + self.answer / 2


FIXED: Final = RequestLengths(name="fixed")
VARIED: Final = RequestLengths(name="varied", prompt=128, answer=128, spread=0.7)
ERRORS: Final = tuple(RequestLengths(name=f"fixed, error {e:.0%}", error=e) for e in (0.1, 0.5))
REGIMES: Final = (FIXED, *ERRORS, VARIED)
OTHER_LENGTHS: Final = tuple(  # on one model: gains depend on how short sequences are
    RequestLengths(name=f"fixed {prompt} + {answer}", prompt=prompt, answer=answer)
    for prompt, answer in ((64, 256), (128, 128), (512, 128), (512, 512))
)
OTHER_LENGTHS_MODEL: Final = "llama-13b"
CONTENDERS: Final = (
    Contender(name=MAXIMUM, policy=FCFS, options=Options(admission="maximum")),
    Contender(name="S³ predicted", policy="s3"),
    Contender(name="S³ oracle", policy="s3", predictor="oracle"),
    Contender(name="held", policy=FCFS, options=Options(admission="held")),
    Contender(name=PEAK, policy=FCFS),
    Contender(name=ORACLE, policy=FCFS, predictor="oracle"),
)


class ReservationMeasures(Struct, frozen=True, kw_only=True):
    """A contender's measures after the warm-up and while requests wait.

    `in_flight` and `kv_use` are means over time; `preempted` is the fraction of started requests.
    `recomputed`, of the computed tokens, and `lost`, of the engine's time, are for the whole run.
    """

    in_flight: float
    tokens_s: float
    kv_use: float
    preempted: float
    recomputed: float
    lost: float
    unanswered: int


Cell: TypeAlias = comparison.Cell[tuple[str, str], ReservationMeasures]  # of lengths and model


def case(model: str, lengths: RequestLengths, seed: int, turnovers: int) -> Case[tuple[str, str]]:
    """Requests that fill the model's pool `turnovers` times, all queued from the start."""
    engine = engine_of(model)
    tokens = engine.shape.pages * engine.shape.page_tokens
    count = max(MIN_REQUESTS, round(turnovers * tokens / lengths.in_flight))
    return Case(
        key=(lengths.name, model),
        seed=seed,
        requests=partial(requests, lengths, count, seed),
        engine=engine,
        contenders=CONTENDERS,
    )


def engine_of(model: str) -> EngineModel:
    """The model on the card, with `CONTEXT_TOKENS` and `STEP_TOKENS`."""
    engine = profile(f"{CARD}/{model}")
    shape = msgspec.structs.replace(
        engine.shape, step_tokens=STEP_TOKENS, context_tokens=CONTEXT_TOKENS
    )
    return msgspec.structs.replace(engine, shape=shape)


def requests(lengths: RequestLengths, count: int, seed: int) -> Workload:
    """`count` requests that carry their predictions, all at time 0."""
    generator = np.random.default_rng(seed)
    prompts = _random_lengths(lengths.prompt, lengths.spread, CONTEXT_TOKENS // 2, count, generator)
    answers = _random_lengths(lengths.answer, lengths.spread, CONTEXT_TOKENS // 2, count, generator)
    quantiles = (
        noisy_quantiles(answers, TAU, generator)
        if lengths.spread
        else erroneous_quantiles(answers, lengths.error, generator)
    )
    max_tokens = CONTEXT_TOKENS - prompts
    workload = Workload.of(np.zeros(count), prompts, answers, max_tokens=max_tokens)
    return workload.with_quantiles(quantiles)


def erroneous_quantiles(answers: Int32s, error: float, generator: np.random.Generator) -> Float32s:
    """Calibrated quantiles (n, 6); medians have a log-normal error, `error` on average."""
    spread = spread_of(error)
    medians = answers * np.exp(spread * generator.standard_normal(len(answers)))
    normal = NormalDist()
    factors = np.exp([spread * normal.inv_cdf(level) for level in LEVELS])
    return (medians[:, None] * factors).astype(np.float32)


def spread_of(error: float) -> float:
    """The log standard deviation of a factor with median 1 and mean distance `error` from 1."""
    low, high = 0.0, 3.0
    for _ in range(60):
        spread = (low + high) / 2
        mean = np.exp(spread**2 / 2) * (2 * NormalDist().cdf(spread) - 1)
        low, high = (spread, high) if mean < error else (low, spread)
    return low


def reservation_measures(run: ReplayRun) -> ReservationMeasures:
    """The measures of a run, from the end of the warm-up until no request waits."""
    results = run.results
    first_s, last_s = np.nanquantile(results.dispatched_s, [WARM_UP_SHARE, 1])
    ended = (results.finished_s > first_s) & (results.finished_s <= last_s)
    settled = results.dispatched_s >= first_s
    return ReservationMeasures(
        in_flight=mean_over(results.time_s, results.running, first_s, last_s),
        tokens_s=float(run.workload.generation_tokens[ended].sum() / (last_s - first_s)),
        kv_use=mean_over(results.time_s, results.kv_pages, first_s, last_s) / run.case.pages,
        preempted=float((results.preemptions[settled] > 0).mean()),
        recomputed=results.recomputed_tokens / results.computed_tokens,
        lost=lost_share(run.workload, run.case.engine, results),
        unanswered=int(np.isnan(results.finished_s).sum()),
    )


def mean_over(time_s: Floats, values: Floats, first_s: float, last_s: float) -> float:
    """The mean of a series over time, between two times; a value lasts until the next one."""
    ends_s = np.append(time_s[1:], time_s[-1])
    lasted_s = np.clip(np.minimum(ends_s, last_s) - np.maximum(time_s, first_s), 0, None)
    return float((values * lasted_s).sum() / lasted_s.sum())


def _random_lengths(
    median: int, spread: float, max_tokens: int, count: int, generator: np.random.Generator
) -> Int32s:
    lengths = np.rint(median * np.exp(spread * generator.standard_normal(count)))
    clipped: Int32s = np.clip(lengths, 1, max_tokens).astype(np.int32)
    return clipped
