"""The model's prediction comes after a request is queued: it ranks, holds and records it again."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from engine.protocol import Finish, KvState
from gateway.generation.dispatch_sources import MIN_WAIT_S, WINDOW
from gateway.generation.request_state import RequestState
from gateway.prediction.messages import Prediction, PredictionRequest, Stage
from gateway.prediction.serving.open_prediction import OpenPrediction
from gateway.scheduling.requests import QueuedRequest
from tests.unit.generation.conftest import SchedulerScene

VERSION = UUID(int=9)


def by_model(state: RequestState, median: float, stage: Stage = "text") -> Prediction:
    return replace(
        state.prediction,
        quantiles=(median,) * 6,
        mean=median,
        source="model",
        predictor=VERSION,
        stage=stage,
    )


def by_history(scene: SchedulerScene, length: float = 10.0) -> RequestState:
    state = scene.request(length)
    state.prediction = replace(state.prediction, source="app")
    return state


def end(scene: SchedulerScene, state: RequestState, tokens: int) -> None:
    finish = Finish(state.sequence_id, "stop")
    scene.step({state.sequence_id: [9] * tokens}, [finish])


async def test_waiting_requests_are_ranked_again_in_one_decision(scene: SchedulerScene) -> None:
    scene.connect(KvState(pages=1, free=1, page_tokens=16))
    first, *waiting = [by_history(scene) for _ in range(6)]
    await scene.enqueue(first, *waiting)
    assert list(scene.table.running.values()) == [first]
    revisions = scene.loop.revise
    groups: list[int] = []

    def revise(queued: Sequence[QueuedRequest], started: Sequence[QueuedRequest] = ()) -> None:
        groups.append(len(queued))
        revisions(queued, started)

    scene.loop.revise = revise  # type: ignore[method-assign]
    for place, state in enumerate(waiting):
        scene.scheduler.revise(state, by_model(state, 60.0 - 10 * place))
    await scene.enqueue()
    assert groups == [5]
    assert scene.scheduler.load.total.tokens == sum(each.predicted_tokens for each in waiting)
    scene.scheduler.load.check_counts()
    scene.loop.policy.check()
    order = [request.id for batch in scene.loop.policy.waiting(1.0) for request in batch.requests]
    assert order == [state.id.hex for state in reversed(waiting)]


async def test_running_request_is_held_and_recorded_by_its_revised_prediction(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    state = by_history(scene)
    await scene.enqueue(state)
    scene.scheduler.revise(state, by_model(state, 50.0))
    await scene.enqueue()
    assert scene.engine.commands[-1] == f"revise {{'{state.sequence_id}': 50}}"
    assert scene.loop.policy.admission.stale
    end(scene, state, 5)
    [record] = scene.outcomes.records
    assert (record.prediction_source, record.predictor_id) == ("model", VERSION)
    assert record.quantiles == [50.0] * 6
    scene.scheduler.revise(state, by_model(state, 7.0))  # it has ended
    await scene.enqueue()
    assert state.prediction.median == 50.0


async def test_starts_are_counted_by_the_prediction_they_went_by(scene: SchedulerScene) -> None:
    scene.connect(KvState(pages=1, free=1, page_tokens=16))
    states = [by_history(scene) for _ in range(3)]
    await scene.enqueue(*states)
    scene.scheduler.revise(states[1], by_model(states[1], 5.0))
    scene.scheduler.revise(states[2], by_model(states[2], 6.0, "embeddings"))
    for state in states:
        await scene.enqueue()
        end(scene, state, 3)
        await scene.enqueue()
    counts = {source: count for source, count in scene.scheduler.sources.counts.items() if count}
    assert counts == {"app": 1, "model": 1, "model+embeddings": 1}


@pytest.mark.parametrize("late", [0.0, MIN_WAIT_S])
async def test_starts_without_the_model_after_a_wait_are_a_warning(
    scene: SchedulerScene, late: float
) -> None:
    """One in ten goes by history: a fallback only where it waited."""
    sources = scene.scheduler.sources
    scene.outcomes.active = VERSION
    with capture_logs() as logs:
        for number in range(2 * WINDOW):
            state = by_history(scene)
            if number % 10:
                state.prediction = by_model(state, 5.0)
            sources.dispatched(state, state.arrived_s + late + 1e-6)
        assert sources.falling_back == bool(late)
        for _ in range(WINDOW):
            state = by_history(scene)
            state.prediction = by_model(state, 5.0)
            sources.dispatched(state, state.arrived_s + 1.0)
    assert not sources.falling_back
    events = [entry["event"] for entry in logs]
    assert events == (["predictions_fell_back", "predictions_recovered"] if late else [])


async def test_history_alone_is_no_fallback_before_the_first_version(
    scene: SchedulerScene,
) -> None:
    sources = scene.scheduler.sources
    for _ in range(2 * WINDOW):
        state = by_history(scene)
        sources.dispatched(state, state.arrived_s + 1.0)
    assert not sources.falling_back


def test_newest_prediction_reaches_its_follower(scene: SchedulerScene) -> None:
    state, found = scene.request(), list[Prediction]()
    request = PredictionRequest(
        tenant=UUID(int=1),
        app=UUID(int=2),
        end_user=None,
        instruction="",
        user_input="",
        user_input_tokens=2,
        prompt_tokens=3,
        max_tokens=100,
        temperature=1.0,
        top_p=1.0,
    )
    opened = OpenPrediction(request, state.prediction, np.zeros(1, np.float32), ())
    early, late = by_model(state, 5.0), by_model(state, 6.0, "embeddings")
    opened.revise(early)  # nothing follows yet
    assert opened.newest is early
    opened.follow(found.append)
    opened.revise(late)
    assert (opened.newest, found) == (late, [late])
    assert (early.label, late.label) == ("model", "model+embeddings")


async def test_expected_end_follows_the_prediction_until_the_start(scene: SchedulerScene) -> None:
    scene.connect(KvState(pages=1, free=1, page_tokens=16))
    running, state = by_history(scene), by_history(scene)
    await scene.enqueue(running)
    scene.scheduler._dispatcher._positions.ended(2.0, 10)  # 0.2 s a token
    await scene.enqueue(state)
    assert state.trace.expected_finish_s == pytest.approx(10.0 * 0.2, abs=0.1)
    scene.scheduler.revise(state, by_model(state, 50.0))
    await scene.enqueue()
    assert state.trace.expected_finish_s == pytest.approx(50.0 * 0.2, abs=0.1)
    end(scene, running, 3)
    await scene.enqueue()
    assert state.dispatched_s is not None
    assert state.trace.prediction == "model"
    scene.scheduler.revise(state, by_model(state, 70.0, "embeddings"))
    await scene.enqueue()
    assert state.trace.expected_finish_s == pytest.approx(50.0 * 0.2, abs=0.1)
    assert state.trace.prediction == "model"
