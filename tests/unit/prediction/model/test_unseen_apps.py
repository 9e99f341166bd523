"""Predictions for apps that are not in the training data."""

from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest

from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.unseen_apps import UnseenAppsModel, fit_unseen_apps
from gateway.prediction.training.samples import Samples


def fitted(samples: Samples) -> UnseenAppsModel:
    count = len(samples)
    natural = np.zeros(count, dtype=np.bool_)
    logs = np.log1p(samples.tokens)
    return UnseenAppsModel(
        fit_unseen_apps(samples.inputs, logs, natural, np.ones(count), threads=1)
    )


@pytest.fixture(scope="module")
def model(samples: Samples) -> UnseenAppsModel:
    return fitted(samples)


def test_longer_inputs_of_an_unseen_app_predict_longer_answers(
    model: UnseenAppsModel, samples: Samples
) -> None:
    centre, log_uil = model.centre(samples.inputs), samples.inputs.log_uil
    assert np.corrcoef(centre, log_uil)[0, 1] > 0.7


def test_prediction_does_not_depend_on_the_app(model: UnseenAppsModel, samples: Samples) -> None:
    renamed = replace(samples.inputs, apps=[UUID(int=99)] * len(samples))
    assert np.array_equal(model.predict(samples.inputs), model.predict(renamed))


def test_quantiles_rise_and_cover_what_was_fitted(model: UnseenAppsModel, samples: Samples) -> None:
    quantiles = model.predict(samples.inputs)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    covered = (np.log1p(samples.tokens)[:, None] <= quantiles).mean(axis=0)
    assert covered == pytest.approx([0.1, 0.25, 0.5, 0.75, 0.9, 0.95], abs=0.02)


def test_app_with_many_rows_does_not_dominate(samples: Samples) -> None:
    few = np.flatnonzero([app == UUID(int=3) for app in samples.inputs.apps])[:40]
    many = np.flatnonzero([app == UUID(int=1) for app in samples.inputs.apps])
    rows = np.concatenate((few, many))
    inputs: ModelInputs = samples.inputs.rows(rows)
    logs, count = np.log1p(samples.tokens[rows]), len(rows)
    found = fit_unseen_apps(
        inputs, logs, np.zeros(count, dtype=np.bool_), np.ones(count), threads=1
    )
    centre = UnseenAppsModel(found).centre(inputs).mean()
    assert centre < logs.mean() - 0.1


def test_missing_texts_are_allowed(model: UnseenAppsModel, samples: Samples) -> None:
    blind = replace(samples.inputs, text=np.full_like(samples.inputs.text, np.nan))
    assert np.isfinite(model.predict(blind)).all()
