"""What S3 replays: models on a card, lengths with predictions, what is reserved for answers."""

from functools import partial
from statistics import NormalDist
from typing import Final, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.harness.contenders import FCFS
from gateway.quantiles import LEVELS, Floats
from gateway.replay import comparison
from gateway.replay.comparison import Case, Contender, Run
from gateway.replay.cost.model import EngineModel
from gateway.replay.cost.profiles import profile
from gateway.replay.workload.predictions import noisy
from gateway.replay.workload.workload import Counts, Singles, Workload
from gateway.scheduling.policy import Options

MODELS: Final = ("gpt-j-6b", "llama-13b", "gpt-neox-20b", "llama-33b")
CARD: Final = "a100-80gb"
CONTEXT: Final = 2_048  # tokens of a sequence at most: what `maximum` reserves
STEP_TOKENS: Final = 2_048  # prompts keep up with hundreds of sequences in flight
TAU: Final = 0.7
TURNOVERS: Final = 15  # times that the pool is filled and emptied
LEAST_REQUESTS: Final = 1_500
SETTLED: Final = 0.3  # of the requests start before anything is measured
MAXIMUM: Final = "maximum"
PEAK: Final = "peak"  # our default
SELDOM: Final = "peak, seldom preempting"
MOST_PREEMPTED: Final = 0.005
ORACLE: Final = "peak oracle"


class Lengths(Struct, frozen=True, kw_only=True):
    """Prompts and answers in tokens: all alike, or log-normal around these medians.

    Of lengths that are alike no order can be predicted, but an error of stated size: `error` is
    the mean absolute error of the medians over the length. With a `spread`, the standard deviation
    of log lengths, predictions are noise of Kendall τ .7.
    """

    name: str
    prompt: int = 256
    answer: int = 64
    spread: float = 0.0
    error: float = 0.25

    @property
    def in_flight(self) -> float:
        """KV tokens that a sequence holds on average, about."""
        return self.prompt + self.answer / 2


FIXED: Final = Lengths(name="fixed")
VARIED: Final = Lengths(name="varied", prompt=128, answer=128, spread=0.7)
ERRORS: Final = tuple(Lengths(name=f"fixed, error {e:.0%}", error=e) for e in (0.1, 0.5))
REGIMES: Final = (FIXED, *ERRORS, VARIED)
OTHERS: Final = tuple(  # on one model: the ratio is a matter of how short sequences are
    Lengths(name=f"fixed {prompt} + {answer}", prompt=prompt, answer=answer)
    for prompt, answer in ((64, 256), (128, 128), (512, 128), (512, 512))
)
OTHERS_MODEL: Final = "llama-13b"
SIDES: Final = (
    Contender(name=MAXIMUM, policy=FCFS, options=Options(admission="maximum")),
    Contender(name="S³ predicted", policy="s3"),
    Contender(name="S³ oracle", policy="s3", predictor="oracle"),
    Contender(name="held", policy=FCFS, options=Options(admission="held")),
    Contender(name=PEAK, policy=FCFS),
    Contender(name=SELDOM, policy=FCFS, options=Options(preempted_share=MOST_PREEMPTED)),
    Contender(name=ORACLE, policy=FCFS, predictor="oracle"),
)


class Held(Struct, frozen=True, kw_only=True):
    """What a side did while requests waited, once settled: but `recomputed` is of the whole run.

    `in_flight` and `kv_use` are means over time, `preempted` is a share of those that started.
    """

    in_flight: float
    tokens_s: float
    kv_use: float
    preempted: float
    recomputed: float
    unanswered: int


Cell: TypeAlias = comparison.Cell[tuple[str, str], Held]  # of lengths and model


def case(model: str, lengths: Lengths, seed: int, turnovers: int) -> Case[tuple[str, str]]:
    """Requests that fill the model's pool this many times, all there from the start."""
    engine = engine_of(model)
    tokens = engine.shape.pages * engine.shape.page_tokens
    count = max(LEAST_REQUESTS, round(turnovers * tokens / lengths.in_flight))
    return Case(
        key=(lengths.name, model),
        seed=seed,
        requests=partial(requests, lengths, count, seed),
        engine=engine,
        contenders=SIDES,
    )


def engine_of(model: str) -> EngineModel:
    """The model on the card, with S³'s context and steps that its prompts fit into."""
    engine = profile(f"{CARD}/{model}")
    shape = msgspec.structs.replace(engine.shape, step_tokens=STEP_TOKENS, context_tokens=CONTEXT)
    return msgspec.structs.replace(engine, shape=shape)


def requests(lengths: Lengths, count: int, seed: int) -> Workload:
    """`count` requests that carry their predictions, all at time 0."""
    chance = np.random.default_rng(seed)
    prompts = _drawn(lengths.prompt, lengths.spread, CONTEXT // 2, count, chance)
    answers = _drawn(lengths.answer, lengths.spread, CONTEXT // 2, count, chance)
    quantiles = (
        noisy(answers, TAU, chance) if lengths.spread else erring(answers, lengths.error, chance)
    )
    most = CONTEXT - prompts
    workload = Workload.of(np.zeros(count), prompts, answers, max_tokens=most)
    return workload.said(quantiles)


def erring(answers: Counts, error: float, chance: np.random.Generator) -> Singles:
    """Calibrated quantiles (n, 6) whose medians are log-normally wrong, by `error` on average."""
    spread = spread_of(error)
    medians = answers * np.exp(spread * chance.standard_normal(len(answers)))
    normal = NormalDist()
    factors = np.exp([spread * normal.inv_cdf(level) for level in LEVELS])
    return (medians[:, None] * factors).astype(np.float32)


def spread_of(error: float) -> float:
    """The standard deviation of a log-normal number around 1 that is `error` from 1 on average."""
    low, high = 0.0, 3.0
    for _ in range(60):
        spread = (low + high) / 2
        mean = np.exp(spread**2 / 2) * (2 * NormalDist().cdf(spread) - 1)
        low, high = (spread, high) if mean < error else (low, spread)
    return low


def held(run: Run) -> Held:
    """The run in numbers, from where a part of the requests has started until none waits."""
    outcomes = run.outcomes
    first_s, last_s = np.nanquantile(outcomes.dispatched_s, [SETTLED, 1])
    ended = (outcomes.finished_s > first_s) & (outcomes.finished_s <= last_s)
    settled = outcomes.dispatched_s >= first_s
    return Held(
        in_flight=mean_over(outcomes.time_s, outcomes.running, first_s, last_s),
        tokens_s=float(run.workload.generation_tokens[ended].sum() / (last_s - first_s)),
        kv_use=mean_over(outcomes.time_s, outcomes.kv_pages, first_s, last_s) / run.case.pages,
        preempted=float((outcomes.preemptions[settled] > 0).mean()),
        recomputed=outcomes.recomputed_tokens / outcomes.computed_tokens,
        unanswered=int(np.isnan(outcomes.finished_s).sum()),
    )


def mean_over(time_s: Floats, values: Floats, first_s: float, last_s: float) -> float:
    """The mean of a series between two times, each value lasting until the next."""
    ends_s = np.append(time_s[1:], time_s[-1])
    lasted_s = np.clip(np.minimum(ends_s, last_s) - np.maximum(time_s, first_s), 0, None)
    return float((values * lasted_s).sum() / lasted_s.sum())


def _drawn(
    median: int, spread: float, most: int, count: int, chance: np.random.Generator
) -> Counts:
    lengths = np.rint(median * np.exp(spread * chance.standard_normal(count)))
    drawn: Counts = np.clip(lengths, 1, most).astype(np.int32)
    return drawn
