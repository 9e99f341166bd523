from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct

from gateway.errors import PredictorRefused
from gateway.prediction.features.features import NAMES, USER_INPUT_COLUMN
from gateway.prediction.features.text_encoder import TEXT_DIMS
from gateway.prediction.model.artefact import decode, encode
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.length_model import LengthModel, fit
from gateway.prediction.training.fitting import JudgedVersion
from gateway.prediction.training.samples import Samples
from gateway.quantiles import LEVELS, MEDIAN

DIMS = 24  # of an embedding
NUMBERS = st.floats(-1e6, 1e6, width=32)


@pytest.fixture(scope="module")
def model(judged: JudgedVersion) -> LengthModel:
    return LengthModel(judged.artefact)


def one_request(app: UUID, numbers: list[float]) -> ModelInputs:
    return ModelInputs(
        apps=[app],
        features=np.array([numbers], dtype=np.float32),
        instructions=np.zeros((1, DIMS), dtype=np.float32),
        instruction_of=np.zeros(1, dtype=np.intp),
        text=np.full((1, TEXT_DIMS), np.nan, dtype=np.float32),
        sentences=np.full((1, DIMS), np.nan, dtype=np.float32),
    )


@settings(deadline=None)
@given(st.integers(1, 5), st.lists(NUMBERS, min_size=len(NAMES), max_size=len(NAMES)))
def test_quantiles_rise_for_any_features(
    model: LengthModel, app: int, numbers: list[float]
) -> None:
    (row,), (mean,) = model.predict(one_request(UUID(int=app), numbers))
    assert np.isfinite(row).all()
    assert (np.diff(row) >= 0).all()
    assert mean >= 1


def test_stored_version_predicts_as_the_fitted_one(judged: JudgedVersion, samples: Samples) -> None:
    stored = decode(encode(judged.artefact), model_hash="abc")
    before = LengthModel(judged.artefact).predict(samples.inputs)
    after = LengthModel(stored).predict(samples.inputs)
    assert (after.quantiles == before.quantiles).all()
    assert (after.mean == before.mean).all()


def test_unseen_app_gets_the_unseen_apps_model(judged: JudgedVersion, samples: Samples) -> None:
    model = LengthModel(judged.artefact)
    apps = [UUID(int=99 + row % 2) for row in range(len(samples))]
    new = model.predict(replace(samples.inputs, apps=apps))
    alone = model.predict(replace(samples.inputs, apps=[UUID(int=98)] * len(samples)))
    np.testing.assert_array_equal(new.quantiles, alone.quantiles)
    medians, lengths = new.quantiles[:, MEDIAN], np.log(samples.tokens)
    uil = samples.inputs.features[:, USER_INPUT_COLUMN]
    assert np.corrcoef(medians, uil)[0, 1] > 0.9
    assert abs((medians - lengths).mean()) < 0.2


def test_known_and_new_apps_may_stand_in_one_batch(judged: JudgedVersion, samples: Samples) -> None:
    model = LengthModel(judged.artefact)
    apps = [UUID(int=99) if row % 3 else app for row, app in enumerate(samples.inputs.apps)]
    mixed = model.predict(replace(samples.inputs, apps=apps))
    known = np.arange(len(samples)) % 3 == 0
    alone = model.predict(samples.inputs)
    np.testing.assert_allclose(mixed.quantiles[known], alone.quantiles[known], atol=1e-5)
    np.testing.assert_allclose(mixed.mean[known], alone.mean[known], rtol=1e-4)


def test_a_row_counts_by_its_weight(samples: Samples) -> None:
    samples = samples.rows(0, 300)
    twice = np.arange(len(samples)) % 2 == 0
    doubled = samples.tokens * np.where(twice, 2.0, 1.0)
    heavy = np.where(twice, 1.9, 0.1)
    medians = [
        LengthModel(fit(samples.inputs, doubled, samples.censored, weights, threads=1))
        .predict(samples.inputs)
        .quantiles[:, MEDIAN]
        .mean()
        for weights in (None, heavy, 2 - heavy)
    ]
    assert medians[1] > medians[0] + 0.1
    assert medians[2] < medians[0] - 0.1


def test_the_mean_lies_above_the_median_where_lengths_have_a_tail(
    judged: JudgedVersion, samples: Samples
) -> None:
    found = LengthModel(judged.artefact).predict(samples.inputs)
    assert found.mean.mean() > np.exp(found.quantiles[:, MEDIAN]).mean()
    assert np.abs(found.mean - samples.tokens).mean() < 0.3 * samples.tokens.mean()


def test_text_features_improve_on_the_line(judged: JudgedVersion) -> None:
    new, line = judged.judgement.new, judged.judgement.other("line")
    assert line is not None
    assert new.log_rmse_median < 0.6 * line.log_rmse_median
    assert new.tau > line.tau


def test_censored_lengths_do_not_shorten_predictions(samples: Samples) -> None:
    samples = samples.rows(0, 300)
    caps = np.random.default_rng(4).uniform(5, 400, len(samples))
    censored = samples.tokens > caps
    assert censored.mean() > 0.15
    natural = fit(samples.inputs, samples.tokens, samples.censored, threads=1)
    cut = fit(samples.inputs, np.minimum(samples.tokens, caps), censored, threads=1)
    found = [LengthModel(each).predict(samples.inputs).quantiles for each in (cut, natural)]
    assert abs((found[0] - found[1])[:, MEDIAN].mean()) < 0.05


def test_trees_that_lightgbm_cannot_read_are_refused(judged: JudgedVersion) -> None:
    unreadable = replace_struct(judged.artefact, trees=["no tree"] * len(LEVELS))
    with pytest.raises(PredictorRefused, match="LightGBM cannot read"):
        LengthModel(unreadable)
