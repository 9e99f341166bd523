"""The process's inside with the real encoder and a fitted version."""

import time
from uuid import UUID

import numpy as np
import pytest

from gateway.prediction.embedder import Embedder
from gateway.prediction.features import NAMES, USER_INPUT_COLUMN
from gateway.prediction.frames import Ask, Load
from gateway.prediction.scorer import Scorer

MODEL_HASH = "abc"


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(Embedder())


def an_ask(log_length: float) -> Ask:
    features = np.zeros(len(NAMES), dtype=np.float32)
    features[USER_INPUT_COLUMN] = log_length
    return Ask(
        number=7,
        deadline_s=time.monotonic() + 60,
        app=UUID(int=1),
        instruction_hash=b"h",
        instruction="Answer.",
        user_input="brave king",
        features=features.tobytes(),
    )


def test_without_a_version_there_is_nothing_to_hasten(scorer: Scorer) -> None:
    assert scorer.hasten([an_ask(3.0)]) == []
    (answer,) = scorer.answer([an_ask(3.0)])
    assert answer.scored is None
    assert answer.embedding is not None


def test_hasty_answer_is_near_the_whole_one(scorer: Scorer, artefact: bytes) -> None:
    assert scorer.load(Load(UUID(int=9), MODEL_HASH, artefact)).error is None
    (hasty,) = scorer.hasten([an_ask(3.5)])
    (whole,) = scorer.answer([an_ask(3.5)])
    assert hasty.embedding is None
    assert whole.embedding is not None
    assert hasty.scored is not None
    assert whole.scored is not None
    assert np.allclose(hasty.scored, whole.scored, atol=0.3)
    assert abs(hasty.scored[2] - 3.5) < 0.3
