"""Answers of several forms: what a version learns of them, and versions without the feature."""

from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from msgspec.structs import replace as replace_struct

from gateway.errors import PredictorRefused
from gateway.prediction.features.features import INPUTS
from gateway.prediction.messages import FORMS, stratum
from gateway.prediction.model.artefact import ADDITIVE, decode, encode, without_texts
from gateway.prediction.model.inputs import Codes
from gateway.prediction.model.length_model import MIN_FORM_ROWS, LengthModel, fit
from gateway.prediction.training.fitting import JudgedVersion, make_version
from gateway.prediction.training.samples import Samples
from gateway.prediction.training.scorecard import rms
from gateway.quantiles import MEDIAN
from tests.unit.prediction.conftest import EMBEDDER, synthetic_samples

JSON = FORMS.index("json")


def with_json(samples: Samples, share: float = 0.4) -> Samples:
    """Of some answers, at random, JSON of the text: a fifth as long."""
    random = np.random.default_rng(3)
    forms: Codes = np.where(random.uniform(size=len(samples)) < share, JSON, 0).astype(np.int8)
    tokens = np.where(forms == JSON, np.maximum(np.round(samples.tokens / 5), 1), samples.tokens)
    return replace(samples, inputs=replace(samples.inputs, forms=forms), tokens=tokens)


@pytest.fixture(scope="module")
def mixed() -> Samples:
    return with_json(synthetic_samples(600, seed=1))


@pytest.fixture(scope="module")
def version(mixed: Samples) -> JudgedVersion:
    return make_version(
        mixed, model="demo", model_hash="abc", embedder=EMBEDDER, active=None, threads=1
    )


def errors(model: LengthModel, samples: Samples) -> float:
    medians = model.predict(samples.inputs).quantiles[:, MEDIAN]
    return rms(medians - np.log(samples.tokens))


def test_form_halves_the_error_where_lengths_depend_on_it(
    version: JudgedVersion, mixed: Samples
) -> None:
    new = with_json(synthetic_samples(300, seed=7))
    blind = replace(mixed, inputs=replace(mixed.inputs, forms=None))
    without = LengthModel(fit(blind.inputs, blind.tokens, blind.censored, threads=1))
    assert version.artefact.forms == ("json",)
    assert errors(LengthModel(version.artefact), new) < 0.5 * errors(without, new)


def test_unseen_app_is_predicted_by_the_form_too(version: JudgedVersion, mixed: Samples) -> None:
    model, apps = LengthModel(version.artefact), [UUID(int=99)] * len(mixed)
    by_form = [
        model.predict(replace(mixed.inputs, apps=apps, forms=np.full(len(mixed), code, np.int8)))
        for code in (0, JSON)
    ]
    free, json = (each.quantiles[:, MEDIAN].mean() for each in by_form)
    assert free - json > 0.8  # of ln 5


def test_version_without_the_feature_predicts_every_form_as_free(
    judged: JudgedVersion, samples: Samples
) -> None:
    stored = decode(encode(judged.artefact), model_hash="abc")
    assert (stored.forms, stored.inputs) == ((), [*INPUTS, ADDITIVE])
    model = LengthModel(stored)
    free, mixed = (model.predict(each.inputs) for each in (samples, with_json(samples)))
    np.testing.assert_array_equal(free.quantiles, mixed.quantiles)


def test_a_few_answers_of_a_form_count_as_free(samples: Samples) -> None:
    forms = np.zeros(len(samples), np.int8)
    forms[: MIN_FORM_ROWS - 1] = JSON
    few = replace(samples.inputs, forms=forms)
    fitted = fit(few, samples.tokens, samples.censored, threads=1)
    assert fitted.forms == ()
    assert fitted.lines.keys() == set(samples.inputs.apps)


def test_release_that_knows_no_forms_refuses_the_version(version: JudgedVersion) -> None:
    assert version.artefact.inputs == [*INPUTS, "form_json", ADDITIVE]
    decode(encode(version.artefact), model_hash="abc")
    with pytest.raises(PredictorRefused, match="feature version"):
        decode(encode(replace_struct(version.artefact, forms=())), model_hash="abc")


def test_texts_of_an_app_are_forgotten_in_every_form(version: JudgedVersion) -> None:
    app = UUID(int=1)
    strata = {app, stratum(app, "json")}
    assert strata <= version.artefact.kernels.keys()
    forgotten = without_texts(encode(version.artefact), {app})
    assert forgotten is not None
    remaining = decode(forgotten, model_hash="abc")
    assert version.artefact.kernels.keys() - remaining.kernels.keys() == strata
    assert remaining.lines.keys() == version.artefact.lines.keys()
