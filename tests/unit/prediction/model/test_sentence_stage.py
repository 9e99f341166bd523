"""The second stage, for requests whose user input has its sentence embedding."""

from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from msgspec.structs import replace as replace_struct

from gateway.errors import PredictorRefused
from gateway.prediction.model.artefact import Artefact, decode, encode, without_texts
from gateway.prediction.model.heads import LeftOutLengths, LinePrediction, ScaledLengths
from gateway.prediction.model.length_model import LengthModel, fit
from gateway.prediction.model.sentence_stage import sentence_shares
from gateway.prediction.training.fitting import JudgedVersion, without_sentences
from gateway.prediction.training.samples import Samples
from gateway.quantiles import MEDIAN, NORMAL

APP, OTHER = UUID(int=1), UUID(int=2)


def log_errors(model: LengthModel, samples: Samples) -> np.ndarray:
    found = model.predict(samples.inputs).quantiles[:, MEDIAN]
    return np.abs(found - np.log(samples.tokens))


def test_embeddings_lower_the_error_of_requests_that_have_one(
    judged: JudgedVersion, new_samples: Samples
) -> None:
    inputs = new_samples.inputs
    embedded = inputs.embedded
    missing = replace(inputs, sentences=np.full_like(inputs.sentences, np.nan))
    model = LengthModel(judged.artefact)
    with_embedding = log_errors(model, new_samples)
    without = log_errors(model, replace(new_samples, inputs=missing))
    assert with_embedding[embedded].mean() < 0.9 * without[embedded].mean()
    np.testing.assert_allclose(with_embedding[~embedded], without[~embedded], atol=1e-5)


def test_held_out_rows_say_what_the_embeddings_are_worth(judged: JudgedVersion) -> None:
    assert judged.judgement.new.pinball < judged.text.pinball
    assert judged.metrics()["text"]["pinball"] == judged.text.pinball


def test_first_stage_is_the_same_without_a_second(samples: Samples) -> None:
    columns = samples.inputs, samples.tokens, samples.censored
    both = fit(*columns, threads=1)
    assert both.sentences is not None
    alone = fit(*columns, threads=1, settings=without_sentences(both).settings)
    assert alone.sentences is None
    assert (alone.trees, alone.mean) == (both.trees, both.mean)


def test_too_few_embeddings_make_no_second_stage(samples: Samples) -> None:
    sentences = samples.inputs.sentences.copy()
    sentences[250:] = np.nan
    few = replace(samples.inputs, sentences=sentences)
    assert fit(few, samples.tokens, samples.censored, threads=1).sentences is None


def test_version_of_another_embedder_is_refused(judged: JudgedVersion) -> None:
    stored = encode(judged.artefact)
    assert decode(stored, model_hash="abc", embedder="test@1").embedder == "test@1"
    with pytest.raises(PredictorRefused, match=r"reads embeddings of test@1, .* is other@2"):
        decode(stored, model_hash="abc", embedder="other@2")


def stage_shares(gain: float, other_gain: float, rows: int = 400) -> dict[UUID, float]:
    """Of two apps whose embeddings know this part of what the first stage leaves open."""
    random = np.random.default_rng(5)
    known, rest = random.normal(size=(2, 2 * rows))
    gains = np.repeat([gain, other_gain], rows)
    scaled = gains * known + np.sqrt(1 - gains**2) * rest
    apps = [APP] * rows + [OTHER] * rows
    line = LinePrediction(
        apps, np.zeros(2 * rows), np.ones(2 * rows), np.tile(NORMAL, (2 * rows, 1))
    )
    nothing = np.zeros(2 * rows)
    lengths = ScaledLengths(
        line=line,
        scaled=scaled,
        expected=scaled,
        moved=nothing,
        censored=nothing.astype(np.bool_),
        weights=nothing + 1,
    )
    # The second stage believes that the embeddings know 0.7 of it in both apps.
    left = np.arange(0, 2 * rows, 2)
    second = (0.7 * known[:, None] + np.sqrt(1 - 0.7**2) * np.array(NORMAL))[left]
    first = LeftOutLengths(np.arange(2 * rows), line.levels, scaled[:, None])
    _, shares = sentence_shares(lengths, first, LeftOutLengths(left, second, scaled[left, None]))
    return shares


def test_the_second_stage_counts_by_what_it_gained_in_the_app() -> None:
    shares = stage_shares(gain=0.7, other_gain=0.0)
    assert shares[APP] >= 0.9
    assert shares[OTHER] <= 0.1


def test_a_version_serves_between_its_stages_by_the_shares_of_its_apps(
    judged: JudgedVersion, samples: Samples
) -> None:
    found = {share: served_at(judged.artefact, samples, share) for share in (0.0, 0.3, 1.0)}
    expected = 0.7 * found[0.0] + 0.3 * found[1.0]
    np.testing.assert_allclose(found[0.3], expected, atol=1e-9)
    assert np.abs(found[1.0] - found[0.0]).max() > 0.05


def served_at(version: Artefact, samples: Samples, share: float) -> np.ndarray:
    """Quantiles of the requests with embeddings where the second stage has this share."""
    assert version.settings is not None
    settings = replace_struct(version.settings, sentence_share=share, sentence_shares={})
    model = LengthModel(replace_struct(version, settings=settings))
    rows = np.flatnonzero(samples.inputs.embedded)
    return model.predict(samples.inputs.rows(rows)).quantiles


def test_version_without_embeddings_serves_with_any_embedder(judged: JudgedVersion) -> None:
    plain = replace_struct(judged.artefact, sentences=None, embedder=None)
    assert decode(encode(plain), model_hash="abc", embedder="other@2") == plain


def test_erased_apps_leave_the_kernels_of_both_stages(judged: JudgedVersion) -> None:
    gone = UUID(int=2)
    assert judged.artefact.sentences is not None
    assert gone in judged.artefact.sentences.kernels
    remaining = without_texts(encode(judged.artefact), {gone})
    assert remaining is not None
    left = decode(remaining, model_hash="abc")
    assert left.sentences is not None
    assert gone not in left.kernels
    assert gone not in left.sentences.kernels
    assert without_texts(remaining, {gone}) is None
