from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct

from gateway.errors import PredictorRefused
from gateway.prediction.artefact import decode, encode
from gateway.prediction.features import NAMES, USER_INPUT_COLUMN
from gateway.prediction.fitting import Judged
from gateway.prediction.inputs import EMBEDDING_DIMS, Inputs
from gateway.prediction.messages import LEVELS
from gateway.prediction.quantiles import QuantileModel, fit
from gateway.prediction.samples import Samples

NUMBERS = st.floats(-1e6, 1e6, width=32)


def one_request(app: UUID, numbers: list[float]) -> Inputs:
    return Inputs(
        apps=[app],
        features=np.array([numbers], dtype=np.float32),
        instructions=np.zeros((1, EMBEDDING_DIMS), dtype=np.float32),
        instruction_of=np.zeros(1, dtype=np.intp),
        embeddings=np.full((1, EMBEDDING_DIMS), np.nan, dtype=np.float32),
    )


@settings(deadline=None)
@given(st.integers(1, 5), st.lists(NUMBERS, min_size=len(NAMES), max_size=len(NAMES)))
def test_quantiles_rise_for_any_features(judged: Judged, app: int, numbers: list[float]) -> None:
    (row,) = QuantileModel(judged.artefact).predict(one_request(UUID(int=app), numbers))
    assert np.isfinite(row).all()
    assert (np.diff(row) >= 0).all()


def test_stored_version_predicts_as_the_fitted_one(judged: Judged, samples: Samples) -> None:
    stored = decode(encode(judged.artefact), model_hash="abc")
    before = QuantileModel(judged.artefact).predict(samples.inputs)
    assert (QuantileModel(stored).predict(samples.inputs) == before).all()


def test_new_app_gets_the_pooled_line(judged: Judged, samples: Samples) -> None:
    inputs = replace(samples.inputs, apps=[UUID(int=99)] * len(samples))
    predicted = QuantileModel(judged.artefact).predict(inputs)
    pooled = judged.artefact.pooled
    centre = pooled.intercept + pooled.slope * samples.inputs.features[:, USER_INPUT_COLUMN]
    expected = centre[:, None] + pooled.spread * np.array(judged.artefact.pooled_levels)
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)


def test_trees_add_what_the_embedding_tells(judged: Judged) -> None:
    assert judged.new.log_rmse < 0.6 * judged.line.log_rmse
    assert judged.new.tau > judged.line.tau


def test_cut_off_lengths_do_not_shorten_what_is_predicted(samples: Samples) -> None:
    samples = samples.rows(0, 300)
    caps = np.random.default_rng(4).uniform(5, 400, len(samples))
    censored = samples.tokens > caps
    assert censored.mean() > 0.15
    natural = fit(samples.inputs, samples.tokens, samples.censored, threads=1)
    cut = fit(samples.inputs, np.minimum(samples.tokens, caps), censored, threads=1)
    bias = QuantileModel(cut).predict(samples.inputs) - QuantileModel(natural).predict(
        samples.inputs
    )
    assert abs(bias[:, LEVELS.index(0.5)].mean()) < 0.05


def test_trees_that_lightgbm_cannot_read_are_refused(judged: Judged) -> None:
    foreign = replace_struct(judged.artefact, trees=["no tree"] * len(LEVELS))
    with pytest.raises(PredictorRefused, match="LightGBM cannot read"):
        QuantileModel(foreign)
