"""A request's hold is settled with the truth on every way out, and ends answers at their budget."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from engine.protocol import Finish, Refused
from gateway.errors import CeilingExceeded, EngineLost, LimitReached, ShuttingDown
from gateway.generation.holds.holds import Holds, SpentBudget, subjects_of
from gateway.generation.request import Ceiling, GenerationRequest, Stops
from gateway.generation.request_state import RequestState
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.limits.hold_ledger import HoldLedger
from gateway.limits.limit import BOUNDED, UNITS, Effect, Kind, Level, Limit
from gateway.usage.price_list import PriceList
from models import Price
from tests.unit.generation.conftest import SchedulerScene, a_prediction

NOON_S = 1_767_960_000.0  # 2026-01-09 12:00 UTC
OWNERS: dict[Level, UUID | None] = {
    "node": None,
    "tenant": UUID(int=1),
    "app": UUID(int=2),
    "key": UUID(int=3),
    "user": UUID(int=2),
}
PROMPT = 3
Scene = Callable[..., SchedulerScene]


def a_limit(
    kind: Kind = "tokens_per_day",
    value: float = 1_000,
    *,
    level: Level = "tenant",
    effect: Effect = "hard",
) -> Limit:
    quantity, period = BOUNDED[kind]
    return Limit(
        id=UUID(int=100 + list(BOUNDED).index(kind)),
        level=level,
        subject=OWNERS[level],
        quantity=quantity,
        period=period,
        amount=int(value * UNITS[quantity]),
        effect=effect,
    )


def a_price(paid: str, output: str, cached: str | None = None) -> Price:
    return Price(
        model="model",
        input=Decimal(paid),
        cached_input=Decimal(cached or paid),
        output=Decimal(output),
        valid_from=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.fixture
def limited(a_request: Callable[..., GenerationRequest], tokenizer: ChatTokenizer) -> Scene:
    def make(
        *limits: Limit, spent_budget: SpentBudget = "end", prices: tuple[Price, ...] = ()
    ) -> SchedulerScene:
        holds = Holds(
            HoldLedger(limits),
            PriceList("model", prices),
            spent_budget=spent_budget,
            clock=lambda: NOON_S,
        )
        scene = SchedulerScene(a_request, tokenizer, holds=holds)
        scene.connect()
        return scene

    return make


def used(scene: SchedulerScene, limit: Limit) -> int:
    """What is used and held of a budget."""
    subjects = subjects_of(scene._new_request(end_user="ada"))
    return limit.amount - int(scene.scheduler.holds.ledger.room(subjects, limit.quantity, NOON_S))


async def held(scene: SchedulerScene, **given: Any) -> RequestState:
    """A request as it is after its admission."""
    asked = scene.request(**given)
    hold = await scene.scheduler.hold(
        asked.request, len(asked.prompt), asked.max_tokens, asked.prediction
    )
    return scene.request(hold=hold, **given)


async def started(scene: SchedulerScene, **given: Any) -> RequestState:
    state = await held(scene, **given)
    await scene.enqueue(state)
    return state


def finish(scene: SchedulerScene, state: RequestState, reason: str) -> None:
    scene.step(finished=[Finish(state.sequence_id, reason)])  # type: ignore[arg-type]


WAYS_OUT: dict[str, tuple[Callable[[SchedulerScene, RequestState], object], int]] = {
    "stop": (lambda scene, state: finish(scene, state, "stop"), PROMPT + 4),
    "length": (lambda scene, state: finish(scene, state, "length"), PROMPT + 4),
    "error": (lambda scene, state: finish(scene, state, "error"), 0),
    "refused": (
        lambda scene, state: scene.scheduler.events[0].engine_refused(
            [Refused(state.sequence_id, "too large")]
        ),
        0,
    ),
    "disconnect": (lambda scene, state: scene.scheduler.cancel(state), PROMPT + 4),
    "engine lost": (lambda scene, _: scene.scheduler.cancel_all(EngineLost("lost")), 0),
    "shutdown": (lambda scene, _: scene.scheduler.cancel_all(ShuttingDown("stops")), 0),
    "operator": (
        lambda scene, state: scene.scheduler.cancel_request(state.id, by="ada"),
        PROMPT + 4,
    ),
}


@pytest.mark.parametrize("way", list(WAYS_OUT))
async def test_every_way_out_of_the_engine_settles_with_the_truth(limited: Scene, way: str) -> None:
    budget = a_limit()
    scene = limited(budget)
    state = await started(scene, length=50)
    assert used(scene, budget) == PROMPT + 50
    scene.step({state.sequence_id: [7] * 4})
    end, truth = WAYS_OUT[way]
    end(scene, state)
    assert state.done
    assert used(scene, budget) == truth
    assert scene.scheduler.holds.ledger.open_holds == 0


async def test_what_leaves_the_queue_used_nothing(limited: Scene) -> None:
    budget = a_limit()
    scene = limited(budget)
    scene.scheduler.pause_engine()
    cancelled, late = await held(scene), await held(scene, max_queue_s=1_000.0)
    await scene.enqueue(cancelled, late)
    assert used(scene, budget) == 2 * (PROMPT + 10)
    scene.scheduler.cancel(cancelled)
    scene.now_s = late.arrived_s + 1_001.0
    scene.scheduler._dispatcher._shed()
    assert late.error is not None
    assert used(scene, budget) == 0


async def test_an_answer_that_outgrows_its_hold_gets_more(limited: Scene) -> None:
    budget = a_limit()
    scene = limited(budget)
    state = await started(scene, quantiles=(1, 2, 4, 6, 10, 12))
    scene.step({state.sequence_id: [7] * 10})
    assert used(scene, budget) == PROMPT + 10
    scene.step({state.sequence_id: [7]})
    assert used(scene, budget) > PROMPT + 11
    assert not state.done
    finish(scene, state, "stop")
    assert used(scene, budget) == PROMPT + 11


async def test_an_answer_ends_at_the_last_token_of_its_budget(limited: Scene) -> None:
    budget = a_limit(value=PROMPT + 12)
    scene = limited(budget)
    state = await started(scene, length=10)
    scene.step({state.sequence_id: [7] * 9})
    scene.step({state.sequence_id: [7] * 8})
    assert (state.finish_reason, len(state.tokens)) == ("length", 12)
    assert state.limited_by == "tenant tokens_per_day"
    assert scene.engine.cancelled == [state.sequence_id]
    assert used(scene, budget) == PROMPT + 12


async def test_a_stop_string_within_the_budget_ends_the_answer_as_such(limited: Scene) -> None:
    scene = limited(a_limit(value=PROMPT + 5))
    tokens = scene.encode("brave king")
    state = await started(scene, length=5, stops=Stops(strings=("brave",)))
    scene.step({state.sequence_id: [*tokens, *[7] * 8]})
    assert (state.finish_reason, state.limited_by) == ("stop", None)


async def test_with_overrun_an_answer_goes_on_and_counts(limited: Scene) -> None:
    budget = a_limit(value=PROMPT + 12)
    scene = limited(budget, spent_budget="overrun")
    state = await started(scene, length=10)
    scene.step({state.sequence_id: [7] * 20})
    assert not state.done
    finish(scene, state, "stop")
    with pytest.raises(LimitReached):
        await started(scene)
    ledger = scene.scheduler.holds.ledger
    assert ledger.open_holds == 0
    ledger.use([a_limit(value=PROMPT + 21)])
    assert used(scene, a_limit(value=PROMPT + 21)) == PROMPT + 20


async def test_limits_of_a_minute_end_no_answer(limited: Scene) -> None:
    scene = limited(a_limit("tokens_per_minute", 20))
    state = await started(scene, length=10)
    scene.step({state.sequence_id: [7] * 40})
    assert not state.done
    with pytest.raises(LimitReached) as refused:
        await started(scene)
    assert refused.value.retry_after_s == pytest.approx((13 + 23) * 3)  # from -23 to 13, at 20/min


async def test_choices_hold_their_prompt_once_and_free_what_each_did_not_use(
    limited: Scene,
) -> None:
    budget = a_limit()
    scene = limited(budget)
    first = await held(scene, length=50, choices=2)
    second = scene.request(length=50, hold=first.hold, choice=1, choices=2)
    assert used(scene, budget) == PROMPT + 2 * 50
    await scene.enqueue(first, second)
    scene.step({first.sequence_id: [7] * 4, second.sequence_id: [7] * 6})
    finish(scene, second, "stop")
    assert used(scene, budget) == PROMPT + 50 + 6
    finish(scene, first, "stop")
    assert used(scene, budget) == PROMPT + 4 + 6


@pytest.mark.parametrize("ended_first", [True, False])
async def test_choices_that_were_never_queued_give_up_what_they_hold(
    limited: Scene, ended_first: bool
) -> None:
    budget = a_limit()
    scene = limited(budget)
    first = await started(scene, length=50, choices=3)
    scene.step({first.sequence_id: [7] * 4})
    hold = first.hold
    assert hold is not None
    ways: list[Callable[[], object]] = [
        lambda: finish(scene, first, "stop"),
        lambda: scene.scheduler.holds.abandon(hold, 2),
    ]
    for way in ways if ended_first else reversed(ways):
        assert scene.scheduler.holds.ledger.open_holds == 1
        way()
    assert used(scene, budget) == PROMPT + 4
    assert scene.scheduler.holds.ledger.open_holds == 0


async def test_a_better_prediction_changes_the_hold_before_the_first_token(
    limited: Scene,
) -> None:
    budget = a_limit(value=PROMPT + 100)
    scene = limited(budget)
    state = await started(scene, length=50)
    for length, held in ((20, 20), (70, 70), (200, 100)):
        scene.scheduler.revise(state, a_prediction(length))
        assert used(scene, budget) == PROMPT + held
    scene.step({state.sequence_id: [7]})
    scene.scheduler.revise(state, a_prediction(20))
    assert used(scene, budget) == PROMPT + 100


async def test_a_refusal_says_what_is_left_and_when(limited: Scene) -> None:
    scene = limited(a_limit(value=60), a_limit("requests_per_minute", 30, level="app"))
    await started(scene, length=50)
    with pytest.raises(LimitReached) as refused:
        await started(scene, length=50)
    error = refused.value
    assert error.message == ("your tenant's limit of 60 tokens a day is reached: 53 needed, 7 left")
    assert (error.limit, error.retry_after_s) == ("tenant tokens_per_day", 12 * 3_600)
    assert not error.should_retry
    assert {name: (s.limit, s.remaining) for name, s in error.standings.items()} == {
        "tokens": (60, 7),
        "requests": (30, 29),
    }
    with pytest.raises(LimitReached, match="is below the 93 that this request needs") as never:
        await started(scene, length=90)
    assert never.value.retry_after_s == float("inf")


async def test_concurrent_requests_and_memory_are_free_again_at_the_end(limited: Scene) -> None:
    scene = limited(a_limit("concurrent_requests", 2), a_limit("kv_share", 0.1))
    pool = 64 * 16
    state = await started(scene, length=40)
    with pytest.raises(LimitReached) as refused:
        await started(scene, length=pool / 10 - 43)
    assert refused.value.limit == "tenant kv_share"
    await started(scene, length=10)
    with pytest.raises(LimitReached) as refused:
        await started(scene, length=1)
    assert refused.value.limit == "tenant concurrent_requests"
    finish(scene, state, "stop")
    await started(scene, length=1)


async def test_money_is_held_and_settled_at_the_price_of_the_arrival(limited: Scene) -> None:
    budget = a_limit("cost_per_month", 1)
    scene = limited(budget, prices=(a_price("2", "10"),))
    state = await started(scene, length=50)
    assert used(scene, budget) == 3 * 2_000 + 50 * 10_000  # billionths
    scene.step({state.sequence_id: [7] * 4})
    finish(scene, state, "stop")
    assert used(scene, budget) == 3 * 2_000 + 4 * 10_000


async def test_cached_prompt_tokens_are_settled_at_their_own_price(limited: Scene) -> None:
    budget = a_limit("cost_per_month", 1)
    scene = limited(budget, prices=(a_price("2", "10", cached="0.5"),))
    state = await started(scene, length=50)
    assert used(scene, budget) == 3 * 2_000 + 50 * 10_000, "what will be cached is not known"
    scene.step({state.sequence_id: [7] * 4})
    state.cached_tokens = 2
    finish(scene, state, "stop")
    assert used(scene, budget) == 1 * 2_000 + 2 * 500 + 4 * 10_000


async def test_a_line_that_runs_again_used_nothing(limited: Scene) -> None:
    budget = a_limit()
    scene = limited(budget)
    state = await started(scene, lane="batch")
    scene.step({state.sequence_id: [7] * 4})
    scene.scheduler.cancel(state)
    assert used(scene, budget) == 0


@pytest.mark.parametrize(
    ("level", "urgency", "surcharge"),
    [("tenant", 1.0, 16.0), ("app", 1 / 16, 16.0), ("node", 1.0, 1.0)],
)
async def test_beyond_a_soft_limit_a_request_waits_behind_others(
    limited: Scene, level: Level, urgency: float, surcharge: float
) -> None:
    scene = limited(a_limit(value=20, level=level, effect="soft"))
    scene.scheduler.pause_engine()
    await started(scene, length=10)
    beyond = await started(scene, length=10)
    queued = beyond.queued_request
    assert queued is not None
    assert (queued.urgency, queued.surcharge) == (urgency, surcharge)
    assert beyond.hold is not None
    assert [limit.effect for limit in beyond.hold.beyond] == ["soft"]


async def test_an_app_beyond_its_soft_limit_costs_its_tenant_no_more(limited: Scene) -> None:
    scene = limited(a_limit(value=1, level="app", effect="soft"))
    state = await started(scene, length=10)
    assert state.queued_request is not None
    assert state.queued_request.charge_weight == 1.0


@pytest.mark.parametrize(
    ("ceiling", "param"),
    [
        (Ceiling(answer_tokens=50), None),
        (Ceiling(answer_tokens=49), "x-lmaas-max-p90-tokens"),
        (Ceiling(cost=Decimal("0.001006")), None),  # 3 tokens at 2 and twice 50 at 10 a million
        (Ceiling(cost=Decimal("0.0010059")), "x-lmaas-max-cost"),
    ],
)
async def test_a_ceiling_is_of_an_answers_p90_and_of_the_cost_of_all(
    limited: Scene, ceiling: Ceiling, param: str | None
) -> None:
    scene = limited(prices=(a_price("2", "10"),))
    request = scene.request(length=50, choices=2).request
    check = partial(
        scene.scheduler.holds.check_ceiling, request, ceiling, PROMPT, 100, a_prediction(50)
    )
    if param is None:
        check()
        return
    with pytest.raises(CeilingExceeded) as refused:
        check()
    assert refused.value.param == param


async def test_a_limit_of_the_node_shows_no_tenant_what_others_use(limited: Scene) -> None:
    scene = limited(a_limit(value=100, level="node"))
    await started(scene, length=60, tenant=7)
    with pytest.raises(LimitReached) as refused:
        await started(scene, length=50)
    assert refused.value.standings == {}
    assert refused.value.message == (
        "the gateway's limit of 100 tokens a day is reached: 53 needed"
    )
