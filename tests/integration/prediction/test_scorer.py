"""The scorer with the real encoders and a fitted version."""

import time
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from uuid import UUID

import numpy as np
import pytest

from gateway.prediction.features.embedder_model import packaged_embedder
from gateway.prediction.features.features import NAMES, USER_INPUT_COLUMN
from gateway.prediction.features.text_encoder import TEXT_DIMS, TextEncoder
from gateway.prediction.model.inputs import unpack_vector
from gateway.prediction.serving.frames import LoadVersion, ScoreRequest
from gateway.prediction.serving.scorer import Arrivals, Scorer

MODEL_HASH, DIMS = "abc", 384


@pytest.fixture(scope="module")
def arrivals() -> Arrivals:
    """Gets the requests whose texts have been embedded."""
    return SimpleQueue()


@pytest.fixture(scope="module")
def scorer(arrivals: Arrivals) -> Scorer:
    return Scorer(TextEncoder(), packaged_embedder(), arrivals)


def a_score_request(log_length: float, instruction: str = "Answer.", app: int = 1) -> ScoreRequest:
    features = np.zeros(len(NAMES), dtype=np.float32)
    features[USER_INPUT_COLUMN] = log_length
    return ScoreRequest(
        number=7,
        deadline_s=time.monotonic() + 60,
        app=UUID(int=app),
        instruction_hash=instruction.encode(),
        instruction=instruction,
        user_input="brave king",
        features=features.tobytes(),
    )


def test_text_is_encoded_without_a_version(scorer: Scorer) -> None:
    (answer,) = scorer.score([a_score_request(3.0)])
    assert answer.scored is None
    assert np.isfinite(unpack_vector(answer.text, TEXT_DIMS)).all()


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
