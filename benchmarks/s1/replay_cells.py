"""The cells of S1 in replay: a setting at a load, with one predictor; rungs get the same requests.

The paper's setting: ChatGLM-6B in 16 bits on seven V100 of 32 GB. Its batches of fixed size have 7
rows, the most that a server without predictions may take if 7 · (1,024 + 1,024) tokens of KV fit:
less than half of what the weights leave free. The simulated pool has this size; with the setting
`whole card` it has all, and the fixed size is 17.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.harness.text_requests import of_one_app
from benchmarks.s1.ladder import (
    CONTINUOUS,
    FIXED_BATCH,
    MAGNUS,
    MAX_ANSWER,
    MAX_PROMPT,
    NO_PREDICTOR,
    ORACLE_PREDICTOR,
    RUNGS,
    UNPREDICTED,
)
from gateway.quantiles import Floats
from gateway.replay import comparison
from gateway.replay.comparison import Case, Contender, ReplayRun
from gateway.replay.cost.model import EngineModel
from gateway.replay.cost.profiles import profile
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options

PROFILE: Final = "v100-32gb/chatglm-6b"
ENGINES: Final = 7
ROW_TOKENS: Final = MAX_PROMPT + MAX_ANSWER
STEP_TOKENS: Final = 2_048  # computed in a step: enough that weights are read once for many
PAPER_APPS: Final = {  # the paper's applications, and the texts nearest to them
    "machine translation": ("translate_de_en", "translate_en_cs"),
    "grammar correction": ("grammar",),
    "text detoxification": ("detox",),
    "code translation": ("java_to_csharp",),
    "bug fixing": ("bug_fix",),
    "code comment": ("code_comment",),
}
SATURATED: Final = None  # the load where all requests wait from the start
SHARES: Final = (0.3, 0.5, 0.6, 0.7, 0.85, 0.95, 1.0)  # of the sweep of Φ
PAPER_WASTE_READS: Final = 50_000.0  # Φ


class Setting(Struct, frozen=True):
    """Apps (None: all), and rows of `ROW_TOKENS` that fit the pool, which is the fixed size."""

    name: str
    apps: tuple[str, ...] | None
    rows: int


MAIN: Final = Setting("paper's apps", sum(PAPER_APPS.values(), ()), FIXED_BATCH)
SETTINGS: Final = (
    MAIN,
    Setting("all apps", None, FIXED_BATCH),
    Setting("whole card", MAIN.apps, 17),
)


class Place(Struct, frozen=True):
    """A setting at a load, relative to `fixed`'s saturated rate, with a predictor."""

    setting: str
    load: float | None
    predictor: str


class LadderMeasures(Struct, frozen=True, kw_only=True):
    """A rung's measures, from the first arrival to the last answer; times in seconds.

    `tokens_s` counts all generated tokens, `valid_tokens_s` those before the end of their answer.
    `batch_size` is the mean size of lock-step batches; with continuous batching, of what runs at
    once, while anything runs.
    """

    requests_s: float
    tokens_s: float
    valid_tokens_s: float
    mean_s: float
    p95_s: float
    batch_size: float
    preempted: float
    unanswered: int

    @property
    def valid_share(self) -> float:
        """Of the generated tokens."""
        return self.valid_tokens_s / self.tokens_s


Cell: TypeAlias = comparison.Cell[Place, LadderMeasures]


def engine_of(setting: Setting) -> EngineModel:
    """The paper's model on its card, with a pool for the setting's rows.

    A step is composed once the previous one has ended, as in the paper's engine.
    """
    engine = profile(PROFILE)
    pages = setting.rows * ROW_TOKENS // engine.shape.page_tokens
    assert pages <= engine.shape.pages
    shape = msgspec.structs.replace(
        engine.shape,
        pages=pages,
        step_tokens=STEP_TOKENS,
        context_tokens=ROW_TOKENS,
        lag_steps=0,
    )
    return msgspec.structs.replace(engine, shape=shape)


def requests_of(setting: Setting, texts: Workload) -> Workload:
    """The texts of the setting's apps within the paper's longest prompt and answer."""
    kept = (texts.prompt_tokens <= MAX_PROMPT) & (texts.generation_tokens <= MAX_ANSWER)
    if setting.apps is not None:
        kept &= np.isin(texts.app, [texts.apps.index(app) for app in setting.apps])
    found = texts.take(kept)
    return of_one_app(replace(found, max_tokens=np.full(len(found), MAX_ANSWER, np.int32)))


def case(
    place: Place, requests: Callable[[], Workload], contenders: list[Contender], seed: int
) -> Case[Place]:
    """The requests of a place with a seed, for seven engines in turn."""
    [setting] = [each for each in SETTINGS if each.name == place.setting]
    return Case(
        key=place,
        seed=seed,
        requests=requests,
        engine=engine_of(setting),
        contenders=contenders,
        speeds=(1.0,) * ENGINES,
    )


def requests(
    texts: Workload, setting: Setting, load: float | None, rate_s: float, count: int, seed: int
) -> Workload:
    """`count` requests drawn from the texts of the setting, which carry their predictions."""
    source = requests_of(setting, texts)
    scenario = Scenario(source=source, arrivals="poisson", sample_size=count, predictor="recorded")
    found = scenario.workload(rate_s, seed)
    return found.with_arrivals(np.zeros(count)) if load is SATURATED else found


def rungs(setting: Setting, predictor: str) -> list[Contender]:
    """The rungs that use the predictor, or those that use none."""
    options = Options(fixed_batch=setting.rows)
    return [
        Contender(
            name=rung,
            policy=rung,
            options=options,
            predictor="oracle" if predictor == ORACLE_PREDICTOR else "recorded",
        )
        for rung in RUNGS
        if (rung in UNPREDICTED) == (predictor == NO_PREDICTOR)
    ]


def limits() -> list[Contender]:
    """Magnus with each limit Φ of the sweep, merging batches and not; the paper's is the last."""
    options = {f"{share:g}": Options(waste_share=share) for share in SHARES}
    for share in SHARES:
        options[f"{share:g}, not merged"] = Options(waste_share=share, merge_batches=False)
    options["50,000 reads, not merged"] = Options(
        waste_reads=PAPER_WASTE_READS, merge_batches=False
    )
    return [Contender(name=name, policy=MAGNUS, options=each) for name, each in options.items()]


def ladder_measures(run: ReplayRun) -> LadderMeasures:
    """The measures of a run."""
    results, workload = run.results, run.workload
    answered = ~np.isnan(results.finished_s)
    response_s: Floats = (results.finished_s - workload.arrived_s)[answered]
    makespan_s = float(results.finished_s[answered].max() - workload.arrived_s[0])
    valid = int(workload.generation_tokens[answered].sum())
    return LadderMeasures(
        requests_s=float(answered.sum()) / makespan_s,
        tokens_s=(valid + results.invalid_tokens) / makespan_s,
        valid_tokens_s=valid / makespan_s,
        mean_s=float(response_s.mean()),
        p95_s=float(np.quantile(response_s, 0.95)),
        batch_size=_batch_size(run),
        preempted=float((results.preemptions > 0).mean()),
        unanswered=int((~answered).sum()),
    )


def _batch_size(run: ReplayRun) -> float:
    results = run.results
    if run.contender.policy in CONTINUOUS:
        return float(np.nansum(results.finished_s - results.dispatched_s) / results.busy_s)
    sizes = results.batch_size[results.batch_size > 0].astype(np.float64)
    return float(len(sizes) / (1 / sizes).sum())
