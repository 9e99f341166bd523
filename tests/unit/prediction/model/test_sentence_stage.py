"""The second stage, for requests whose user input has its sentence embedding."""

import hashlib
from dataclasses import replace
from uuid import UUID

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace as replace_struct

from gateway.errors import PredictorRefused
from gateway.prediction.features.text_encoder import MEANING_DIMS, TEXT_DIMS
from gateway.prediction.model.artefact import (
    ADDITIVE,
    MAGIC,
    Artefact,
    decode,
    encode,
    inputs_of,
    without_texts,
)
from gateway.prediction.model.heads import LeftOutLengths, LinePrediction, ScaledLengths
from gateway.prediction.model.length_model import LengthModel, fit
from gateway.prediction.model.sentence_stage import (
    SKETCH_DIMS,
    joint_points,
    sentence_shares,
)
from gateway.prediction.model.text_kernel import (
    MEANING_WEIGHT,
    SKETCH_WEIGHT,
    fit_space,
    text_points,
)
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


def test_version_of_an_earlier_release_serves_as_it_did(
    judged: JudgedVersion, samples: Samples
) -> None:
    """It has one Gaussian for text vector and embedding, and no share of the second stage."""
    new = judged.artefact
    assert new.sentences is not None
    one_gaussian = {app: replace_struct(k, groups=()) for app, k in new.sentences.kernels.items()}
    sentences = replace_struct(new.sentences, kernels=one_gaussian, additive=False)
    old = replace_struct(new, sentences=sentences, inputs=inputs_of(new.forms))
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(old))
    for part, fields in (
        (stored["settings"], ("sentence_share", "sentence_shares")),
        (stored["sentences"], ("additive",)),
        *((kernel, ("groups",)) for kernel in stored["kernels"].values()),
        *((kernel, ("groups",)) for kernel in stored["sentences"]["kernels"].values()),
    ):
        for field in fields:
            del part[field]
    body = msgspec.msgpack.encode(stored)
    loaded = decode(MAGIC + hashlib.sha256(body).digest() + body, model_hash="abc")
    assert loaded.settings is not None
    assert loaded.settings.sentence_share == 0.65
    rows = np.flatnonzero(samples.inputs.embedded)
    served = LengthModel(loaded).predict(samples.inputs.rows(rows)).quantiles
    np.testing.assert_array_equal(served, served_at(old, samples, 0.65))


def test_joint_points_have_the_norms_of_earlier_releases() -> None:
    random = np.random.default_rng(2)
    text = random.normal(size=(4, TEXT_DIMS)).astype(np.float32)
    points = text_points(text, fit_space(text))
    sentences = random.normal(size=(4, 24)).astype(np.float32)
    joint = joint_points(points, sentences, np.zeros((1, 24), np.float32))
    norms = [
        np.linalg.norm(part, axis=1)
        for part in np.split(joint, [MEANING_DIMS, MEANING_DIMS + SKETCH_DIMS, points.shape[1]], 1)
    ]
    np.testing.assert_allclose(norms[0], 0.47 * MEANING_WEIGHT, rtol=1e-5)
    np.testing.assert_allclose(norms[1], 0.6 * SKETCH_WEIGHT, rtol=1e-5)
    np.testing.assert_allclose(joint[:, -24 - 5 : -24], points[:, -5:], rtol=1e-5)
    np.testing.assert_allclose(norms[3], 0.5, rtol=1e-5)


def test_releases_without_additive_kernels_refuse_such_a_version(judged: JudgedVersion) -> None:
    assert ADDITIVE in judged.artefact.inputs
    with pytest.raises(PredictorRefused, match="feature version"):
        decode(
            encode(replace_struct(judged.artefact, inputs=inputs_of(judged.artefact.forms))),
            model_hash="abc",
        )


def test_version_without_embeddings_serves_with_any_embedder(judged: JudgedVersion) -> None:
    plain = replace_struct(
        judged.artefact, sentences=None, embedder=None, inputs=inputs_of(judged.artefact.forms)
    )
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
