import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from gateway.database.errors import Sessions
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.lifecycle.listener import PredictorListener
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.runs import TrainingRuns
from gateway.prediction.messages import Prediction, PredictionRequest
from gateway.prediction.serving.predictor import LengthPredictor

WORDS = "river stone green walk under seven bright house letter quiet".split()  # noqa: SIM905
CONCURRENT_REQUESTS = 20


class Traffic:
    """Three apps: output twice the input, half the input, independent of the input."""

    def __init__(
        self,
        predictor: LengthPredictor,
        history: HistoryWriter,
        a_prediction_request: Callable[..., PredictionRequest],
        a_record: Callable[..., Record],
    ) -> None:
        self._predictor = predictor
        self._history = history
        self._a_prediction_request = a_prediction_request
        self._a_record = a_record
        self._random = random.Random(7)
        self._tenant = uuid4()
        self._apps = [(uuid4(), name) for name in ("Double it.", "Halve it.", "Write a story.")]

    async def serve(self, requests: int) -> list[tuple[Prediction, int]]:
        served = []
        for _ in range(requests // CONCURRENT_REQUESTS):
            served += await asyncio.gather(*(self._one() for _ in range(CONCURRENT_REQUESTS)))
        await self._history.flush()
        return served

    async def _one(self) -> tuple[Prediction, int]:
        app, instruction = self._random.choice(self._apps)
        words = self._random.randint(4, 60)
        tokens = self._tokens(instruction, words)
        request = self._a_prediction_request(
            " ".join(self._random.choices(WORDS, k=words)),
            tenant=self._tenant,
            app=app,
            instruction=instruction,
        )
        predicted = (await self._predictor.predict_by_model(request)).newest
        record = self._finished(request, predicted, tokens, app)
        self._history.record(record)
        self._predictor.observe(record)
        return predicted, tokens

    def _tokens(self, instruction: str, words: int) -> int:
        if instruction == "Write a story.":
            return round(self._random.lognormvariate(3.5, 0.3))
        return 2 * words if instruction == "Double it." else words // 2

    def _finished(
        self, request: PredictionRequest, predicted: Prediction, tokens: int, app: UUID
    ) -> Record:
        return self._a_record(
            model="demo",
            tenant_id=self._tenant,
            app_id=app,
            user_input_tokens=request.user_input_tokens,
            prompt_tokens=request.prompt_tokens,
            max_tokens=request.max_tokens,
            generation_tokens=tokens,
            quantiles=list(predicted.quantiles),
            prediction_source=predicted.source,
            predictor_id=predicted.predictor,
            feature_version=predicted.feature_version,
            features=predicted.features,
            instruction_hash=predicted.instruction_hash,
            instruction_embedding=predicted.embeddings.instruction,
            embedding=predicted.embeddings.text,
            input_embedding=predicted.embeddings.user_input,
            embedder=predicted.embeddings.embedder,
        )


def log_error(served: list[tuple[Prediction, int]]) -> float:
    """Root mean square error of the log lengths."""
    errors = [math.log(predicted.median / tokens) ** 2 for predicted, tokens in served]
    return (sum(errors) / len(errors)) ** 0.5


@pytest.fixture
async def untrained(sessions: Sessions) -> AsyncIterator[LengthPredictor]:
    """A predictor with no version and no history."""
    predictor = LengthPredictor(model="demo", model_hash="abc", budget_s=60, sessions=sessions)
    await predictor.start()
    await predictor.ready()
    yield predictor
    await predictor.close()


async def test_training_on_served_requests_lowers_the_error_of_the_next(
    *,
    untrained: LengthPredictor,
    sessions: Sessions,
    registry: Registry,
    runs: TrainingRuns,
    postgres_url: str,
    tmp_path: Path,
    a_prediction_request: Callable[..., PredictionRequest],
    a_record: Callable[..., Record],
    eventually: Callable[[Callable[[], object]], Awaitable[None]],
) -> None:
    predictor = untrained
    listener = PredictorListener(registry, predictor, postgres_url, poll_s=3_600)
    await listener.start()
    traffic = Traffic(predictor, HistoryWriter(sessions, tmp_path), a_prediction_request, a_record)

    cold = await traffic.serve(200)
    assert {predicted.source for predicted, _ in cold} <= {"prior", "global", "tenant", "app"}

    run = await runs.start("olga")
    await runs.finished()
    run = await registry.run(run.id)
    assert (run.state, run.error) == ("succeeded", None)
    assert run.predictor_id is not None
    version = await registry.show(run.predictor_id)
    assert (version.active, version.rows, version.created_by) == (True, 200, "olga")
    assert version.metrics["new"]["pinball"] < version.metrics["served"]["pinball"]
    assert version.metrics["active"] is None
    await eventually(lambda: predictor.active == version.id)

    learned = await traffic.serve(100)
    assert {predicted.source for predicted, _ in learned} == {"model"}
    assert log_error(learned) < 0.6 * log_error(cold[100:])

    again = await runs.start("olga")
    await runs.finished()
    second = await registry.show((await registry.run(again.id)).predictor_id or uuid4())
    assert second.metrics["active"]["rows"] == second.metrics["new"]["rows"] == 60
    assert second.active == second.metrics["accepted"]
    await listener.close()
