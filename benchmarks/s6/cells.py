"""The cells of S6: engines, workloads, predictors, and the rules that replay them."""

from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from msgspec import Struct, structs

from benchmarks.harness.preemption import lost_share
from benchmarks.s6.adaptive_margin import AdaptiveMarginPolicy
from gateway.replay.comparison import Cell as ReplayCell
from gateway.replay.cost.model import EngineModel, EngineShape, GpuProfile, LinearCost
from gateway.replay.cost.profiles import NAMES, Gpu, PublishedModel, engine_model, profile
from gateway.replay.engine.continuous import ContinuousEngine
from gateway.replay.measure.results import ReplayResults
from gateway.replay.simulator import ReplayedEngine, Simulation, replay
from gateway.replay.workload.predictions import PredictorName, with_predictions
from gateway.replay.workload.workload import Int32s, Workload
from gateway.scheduling.policy import Options, build_policy

SEEDS: Final = 5
TAU: Final = 0.7
HELD, PEAK, S3, OURS = RULES = ("held", "peak, margin adapted", "S³", "ours")
UNIFORM, MIXED, SLOW = WORKLOADS = ("uniform", "mixed", "slow prefill")
PREDICTORS: Final[tuple[PredictorName, ...]] = ("noise", "oracle", "shuffled")
PROMPT, ANSWER = 1_000, 5_000  # tokens, uniform within a fifth
FEWEST_AT_ONCE: Final = 16  # of these that every pool holds: lengths shrink with small pools
MIN_REQUESTS: Final = 200
PROMPTS_IN_POOL: Final = 1.5  # of requests to the prompts that a pool holds: a part waits
MIXED_MEDIAN, MIXED_SPREADS, MIXED_LIMIT = 1_000, (0.8, 1.0), 6_000
SLOW_PREFILL: Final = 8.0  # times slower to compute prompts
BIG_CARD: Final = "8 TB/s card/7B"
CPU: Final = "2 CPU cores/smollm2"
EVERY_PREDICTOR: Final = (  # the other engines: `noise` alone
    BIG_CARD,
    CPU,
    "v100-32gb/llama-3-8b",
)
LIKE_ANOTHER: Final = "gpt-j-6b"  # its weights and KV are within 3 % of chatglm-6b's
PROFILES: Final = tuple(name for name in NAMES if not name.endswith(LIKE_ANOTHER))
QUICK: Final = (BIG_CARD, "v100-32gb/llama-3-8b")


class CellKey(NamedTuple):
    """An engine, a workload and the source of predictions."""

    engine: str
    workload: str
    predictor: PredictorName


class RuleMeasures(Struct, frozen=True, kw_only=True):
    """A rule's measures; `lost` is the share of the engine's time that preemptions took."""

    tokens_s: float
    first_token_p99_s: float
    mean_s: float
    preemptions: float
    lost: float
    kv_use: float


Cell: TypeAlias = ReplayCell[CellKey, RuleMeasures]


def keys(*, quick: bool) -> Iterator[CellKey]:
    """The cells to replay."""
    for engine in QUICK if quick else (BIG_CARD, CPU, *PROFILES):
        every = engine in EVERY_PREDICTOR and not quick
        for workload in WORKLOADS:
            for predictor in PREDICTORS if every else PREDICTORS[:1]:
                yield CellKey(engine, workload, predictor)


def measure_cell(key: CellKey, seed: int) -> Cell:
    """Replay a seed's requests, all of which arrive at once, under every rule."""
    engine = engine_of(key)
    requests = workload_of(key.workload, engine, seed)
    predicted = with_predictions(requests, key.predictor, np.random.default_rng((seed, 1)), TAU)
    measured = {
        rule: _measures(predicted, engine, _replay(rule, predicted, engine)) for rule in RULES
    }
    return ReplayCell(key=key, seed=seed, rate_s=predicted.rate_s, measured=measured)


def engine_of(key: CellKey) -> EngineModel:
    """The engine; with slow prefill, its computing alone is slower."""
    engine = _engine(key.engine)
    if key.workload != SLOW:
        return engine
    cost = engine.cost
    if isinstance(cost, GpuProfile):
        return structs.replace(
            engine, cost=structs.replace(cost, flops_s=cost.flops_s / SLOW_PREFILL)
        )
    slower = structs.replace(cost, prompt_token_s=cost.prompt_token_s * SLOW_PREFILL)
    return structs.replace(engine, cost=slower)


def workload_of(name: str, engine: EngineModel, seed: int) -> Workload:
    """Requests that all arrive at 0."""
    random = np.random.default_rng((seed, 0))
    pool = engine.shape.pages * engine.shape.page_tokens
    scale = min(1.0, pool / (FEWEST_AT_ONCE * (PROMPT + ANSWER)))
    count = max(MIN_REQUESTS, round(PROMPTS_IN_POOL * pool / PROMPT))
    if name == MIXED:
        prompts, answers = (
            np.minimum(
                MIXED_MEDIAN * np.exp(spread * random.standard_normal(2 * count)), MIXED_LIMIT
            )
            for spread in MIXED_SPREADS
        )
        limit = MIXED_LIMIT
    else:
        prompts, answers = (median * random.uniform(0.8, 1.2, count) for median in (PROMPT, ANSWER))
        limit = round(1.2 * ANSWER)
    whole = partial(_tokens, scale=scale)
    return Workload.of(
        np.zeros(len(prompts)),
        whole(prompts),
        whole(answers),
        max_tokens=max(round(limit * scale), 1),
    )


def _tokens(lengths: np.ndarray, scale: float) -> Int32s:
    found: Int32s = np.maximum(np.rint(lengths * scale), 1).astype(np.int32)
    return found


def _engine(name: str) -> EngineModel:
    if name == BIG_CARD:  # the setting of a published preemption study
        card, model = Gpu(192e9, 8e12, 2.25e15), PublishedModel(7.62e9, 28, 512)
        found = engine_model(name, card, model)
        shape = structs.replace(found.shape, pages=18_724, max_sequences=128)
        return structs.replace(found, shape=shape)
    if name == CPU:  # of `lmaas calibrate`, with a pool that these requests fill
        return EngineModel(
            cost=LinearCost(
                step_s=0.0903, prompt_token_s=1.30e-3, sequence_s=0.0, kv_token_s=6.23e-5
            ),
            shape=EngineShape(pages=2_048, page_tokens=16, max_sequences=64, context_tokens=8_192),
        )
    return profile(name)


def _replay(rule: str, workload: Workload, engine: EngineModel) -> ReplayResults:
    if rule == PEAK:
        simulated = ContinuousEngine(engine)
        return Simulation(
            workload,
            AdaptiveMarginPolicy(simulated.statistics),
            [ReplayedEngine(simulated, engine.shape)],
            tau_floor=None,
            max_samples=2,
        ).run()
    if rule == S3:
        policy = build_policy("s3", Options())
    else:
        policy = build_policy("fcfs", Options(admission="held" if rule == HELD else "peak"))
    return replay(workload, policy, engine, tau_floor=None, max_samples=2)


def _measures(workload: Workload, engine: EngineModel, results: ReplayResults) -> RuleMeasures:
    tokens = int(workload.generation_tokens.sum())
    held = results.page_seconds / results.busy_s
    return RuleMeasures(
        tokens_s=tokens / float(results.finished_s.max()),
        first_token_p99_s=float(np.quantile(results.first_token_s, 0.99)),
        mean_s=float(results.finished_s.mean()),
        preemptions=float(results.preemptions.mean()),
        lost=lost_share(workload, engine, results),
        kv_use=held / engine.shape.pages,
    )
