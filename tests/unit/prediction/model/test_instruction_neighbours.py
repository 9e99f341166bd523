"""New apps are drawn to apps with similar instructions."""

from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest

from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.instruction_neighbours import (
    MIN_APPS,
    fit_instructions,
    instruction_offsets,
)
from gateway.prediction.training.samples import Samples

APPS = 6


@pytest.fixture
def inputs(samples: Samples) -> ModelInputs:
    """Sixty requests of six apps; the instructions of the first three resemble each other."""
    rows = samples.inputs.rows(slice(0, 60))
    app_of = np.arange(60) % APPS
    vectors = np.eye(APPS, 24, dtype=np.float32)
    vectors[:3, 10] = 3.0
    return replace(
        rows,
        apps=[UUID(int=int(app) + 1) for app in app_of],
        instructions=vectors,
        instruction_of=app_of,
    )


def residuals(inputs: ModelInputs) -> np.ndarray:
    """The answers of the first three apps are long."""
    return np.where(inputs.instruction_of < 3, 1.0, -0.5)


def test_new_app_resembles_those_with_similar_instructions(inputs: ModelInputs) -> None:
    fitted = fit_instructions(inputs, residuals(inputs), np.ones(len(inputs)))
    new = np.zeros((2, 24), dtype=np.float32)
    new[0, [10, 20]] = 3.0, 1.0
    new[1, 20] = 1.0
    asked = replace(inputs.rows(slice(0, 2)), instructions=new, instruction_of=np.array([0, 1]))
    similar, other = instruction_offsets(fitted, asked)
    assert similar > 0.4
    assert abs(other) < 0.3


def test_missing_embedding_changes_nothing(inputs: ModelInputs) -> None:
    fitted = fit_instructions(inputs, residuals(inputs), np.ones(len(inputs)))
    missing = replace(inputs, instructions=np.full_like(inputs.instructions, np.nan))
    assert not instruction_offsets(fitted, missing).any()


def test_few_apps_say_nothing(inputs: ModelInputs) -> None:
    few = inputs.rows(np.flatnonzero(inputs.instruction_of < MIN_APPS - 1))
    fitted = fit_instructions(few, np.ones(len(few)), np.ones(len(few)))
    assert fitted == {}
    assert not instruction_offsets(fitted, few).any()
