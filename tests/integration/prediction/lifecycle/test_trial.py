"""Versions are tried in a process that may die or hang, before they are stored or activated."""

import re
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from gateway.database.errors import Sessions
from gateway.errors import PredictorBroken, PredictorRefused
from gateway.prediction.features.embedder_model import packaged_embedder
from gateway.prediction.lifecycle.trial.process import try_version
from gateway.prediction.lifecycle.trial.trial import VersionTrial
from gateway.prediction.model.artefact import Matrix, decode, encode
from models import Predictor
from tests.integration.prediction.conftest import DIMS, MODEL, MODEL_HASH, StockedRegistry

EMBEDDER = packaged_embedder()


def looping(artefact: bytes) -> bytes:
    """The version with trees whose first node is its own child."""
    read = decode(artefact, model_hash=MODEL_HASH)
    trees = [re.sub(r"left_child=-?\d+", "left_child=0", text) for text in read.trees]
    trees = [re.sub(r"right_child=-?\d+", "right_child=0", text) for text in trees]
    assert trees != read.trees
    return encode(replace(read, trees=trees))


async def test_usable_version_passes_and_is_not_tried_again(
    artefact: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = VersionTrial(EMBEDDER)
    await trial.check(artefact, model_hash=MODEL_HASH, embedder=EMBEDDER.id)
    monkeypatch.setattr(trial, "_run", None)
    await trial.check(artefact, model_hash=MODEL_HASH, embedder=EMBEDDER.id)


async def test_version_that_hangs_is_neither_stored_nor_activated(
    sessions: Sessions, artefact: bytes, a_version: Callable[..., Predictor]
) -> None:
    hostile = looping(artefact)
    registry = StockedRegistry(
        sessions, embedder=EMBEDDER.id, trial=VersionTrial(EMBEDDER, cpu_s=3)
    )
    with pytest.raises(PredictorBroken, match="a trial of the predictor"):
        await registry.import_version(hostile, model=MODEL, model_hash=MODEL_HASH, by="eve")
    assert await registry.list() == []
    stored = await registry.add(a_version(artefact=hostile))
    with pytest.raises(PredictorBroken, match="a trial of the predictor"):
        await registry.activate(stored.id, by="eve")
    assert await registry.active(MODEL) is None


def test_version_that_predicts_no_length_is_broken(artefact: bytes) -> None:
    read = decode(artefact, model_hash=MODEL_HASH)
    line = replace(read.pooled, intercept=float("nan"))
    bad = encode(replace(read, pooled=line, lines=dict.fromkeys(read.lines, line)))
    assert try_version(bad, model_hash=MODEL_HASH, dims=DIMS) == "it predicts what is no length"
    assert try_version(artefact, model_hash=MODEL_HASH, dims=DIMS) is None


async def test_reason_of_the_trial_reaches_the_caller(artefact: bytes) -> None:
    trial = VersionTrial(EMBEDDER)
    read = decode(artefact, model_hash=MODEL_HASH)
    cut = encode(replace(read, space=replace(read.space, cues=Matrix(1, 3, b"1234"))))
    with pytest.raises(PredictorBroken, match="ValueError"):
        await trial.check(cut, model_hash=MODEL_HASH, embedder=EMBEDDER.id)
    with pytest.raises(PredictorRefused, match="was trained for model hash"):
        await trial.check(artefact, model_hash="other", embedder=EMBEDDER.id)
