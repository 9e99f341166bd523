"""The scorer with the real encoders and a fitted version."""

import time
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from uuid import UUID

import numpy as np
import pytest

from gateway.prediction.features.embedder import Embedded
from gateway.prediction.features.embedder_model import find_embedder, packaged_embedder
from gateway.prediction.features.features import NAMES, USER_INPUT_COLUMN
from gateway.prediction.features.text_encoder import TEXT_DIMS, TextEncoder
from gateway.prediction.model.inputs import unpack_vector
from gateway.prediction.serving.frames import (
    LoadVersion,
    RequestDropped,
    ScoreReply,
    ScoreRequest,
)
from gateway.prediction.serving.scorer import Arrivals, Scorer
from tests.conftest import PATIENCE_S

MODEL_HASH, DIMS = "abc", 384


@pytest.fixture(scope="module")
def arrivals() -> Arrivals:
    """Gets the requests whose texts have been embedded."""
    return SimpleQueue()


@pytest.fixture(scope="module")
def scorer(arrivals: Arrivals) -> Scorer:
    return Scorer(TextEncoder(), packaged_embedder(), arrivals)


def a_score_request(
    log_length: float,
    instruction: str = "Answer.",
    app: int = 1,
    user_input: str = "brave king",
    deadline_s: float | None = None,
    *,
    embed: bool = True,
) -> ScoreRequest:
    features = np.zeros(len(NAMES), dtype=np.float32)
    features[USER_INPUT_COLUMN] = log_length
    return ScoreRequest(
        number=7,
        deadline_s=time.monotonic() + PATIENCE_S if deadline_s is None else deadline_s,
        app=UUID(int=app),
        instruction_hash=instruction.encode(),
        instruction=instruction,
        user_input=user_input,
        features=features.tobytes(),
        embed=embed,
    )


def test_text_is_encoded_without_a_version(scorer: Scorer) -> None:
    (answer,) = scorer.score([a_score_request(3.0)])
    assert answer.scored is None
    assert np.isfinite(unpack_vector(answer.text, TEXT_DIMS)).all()


def test_second_reply_has_the_embedding_of_the_text(scorer: Scorer, arrivals: Arrivals) -> None:
    (first,) = scorer.score([a_score_request(3.0)])
    assert (first.stage, first.last, first.input_embedding) == ("text", False, None)
    while not isinstance(embedded := arrivals.get(timeout=PATIENCE_S), Embedded):
        pass
    (second,) = scorer.score_embedded([embedded])
    assert isinstance(second, ScoreReply)
    assert (second.number, second.stage, second.last) == (first.number, "embeddings", True)
    assert np.linalg.norm(unpack_vector(second.input_embedding, DIMS)) == pytest.approx(1, abs=1e-3)
    assert second.text == first.text


def test_text_beyond_the_queue_is_shed(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.prediction.features.embedder.MAX_QUEUED_TEXTS", 0)
    (answer,) = scorer.score([a_score_request(3.0, user_input="a text that is new")])
    assert (answer.last, answer.shed) == (True, True)


def test_text_that_is_not_to_be_embedded_has_one_reply(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.prediction.features.embedder.MAX_QUEUED_TEXTS", 0)
    request = a_score_request(3.0, user_input="a text that is no one else's", embed=False)
    (answer,) = scorer.score([request])
    assert (answer.stage, answer.last, answer.shed) == ("text", True, False)


def test_without_an_embedder_the_first_reply_is_the_last() -> None:
    scorer = Scorer(TextEncoder(), find_embedder("off"), SimpleQueue())
    (answer,) = scorer.score([a_score_request(3.0)])
    assert (answer.last, answer.shed) == (True, True)
    assert answer.instruction_embedding is None


def test_text_that_is_late_is_dropped(scorer: Scorer, arrivals: Arrivals) -> None:
    scorer.score([a_score_request(3.0, user_input="an old text", deadline_s=0.0)])
    while not isinstance(embedded := arrivals.get(timeout=PATIENCE_S), Embedded) or (
        embedded.payload.request.user_input != "an old text"
    ):
        pass
    assert scorer.score_embedded([embedded]) == [RequestDropped(7)]


async def test_instruction_is_embedded_in_the_background(
    scorer: Scorer, eventually: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    await eventually(lambda: scorer.score([a_score_request(3.0)])[0].instruction_embedding)
    (answer,) = scorer.score([a_score_request(3.0)])
    vector = unpack_vector(answer.instruction_embedding, DIMS)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    (other,) = scorer.score([a_score_request(3.0, "Translate into German.")])
    assert other.instruction_embedding != answer.instruction_embedding


def test_batch_scores_equal_single_scores_in_order(scorer: Scorer, artefact: bytes) -> None:
    assert scorer.load(LoadVersion(UUID(int=9), MODEL_HASH, artefact)).error is None
    requests = [a_score_request(3.5), a_score_request(2.5), a_score_request(3.0, app=5)]
    together = [answer.scored for answer in scorer.score(requests)]
    for request, found in zip(requests, together, strict=True):
        (alone,) = scorer.score([request])
        assert alone.scored is not None
        assert found is not None
        assert np.allclose(found.quantiles, alone.scored.quantiles, atol=1e-3)
        assert found.mean == pytest.approx(alone.scored.mean, rel=1e-3)
    assert together[0] is not None
    assert abs(together[0].quantiles[2] - 3.5) < 0.3


def test_refused_version_leaves_the_previous_in_use(scorer: Scorer, artefact: bytes) -> None:
    scorer.load(LoadVersion(UUID(int=9), MODEL_HASH, artefact))
    refused = scorer.load(LoadVersion(UUID(int=10), "other", artefact))
    assert "trained for model hash" in str(refused.error)
    (answer,) = scorer.score([a_score_request(3.5)])
    assert answer.scored is not None
    assert answer.scored.predictor == UUID(int=9)
