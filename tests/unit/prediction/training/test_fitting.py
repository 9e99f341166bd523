from dataclasses import replace

import numpy as np
import pytest

from gateway.errors import Conflict
from gateway.prediction.adaptation.conformal import WINDOW_SCORES, ConformalCalibration
from gateway.prediction.model.length_model import LengthModel, fit
from gateway.prediction.training.fitting import JudgedVersion, judge, make_version, quantiles_of
from gateway.prediction.training.samples import Samples
from gateway.quantiles import LEVELS


def test_version_beats_the_line_and_the_served_predictions(judged: JudgedVersion) -> None:
    line, served = judged.judgement.other("line"), judged.judgement.other("served")
    assert line is not None
    assert served is not None
    assert judged.judgement.new.pinball < line.pinball < served.pinball
    assert judged.judgement.new.coverage == pytest.approx(0.9, abs=0.08)
    assert judged.judgement.accepted


def test_held_out_rows_are_the_newest_and_start_the_calibration(
    judged: JudgedVersion, samples: Samples
) -> None:
    assert judged.held_out == judged.judgement.new.rows == 120
    assert judged.artefact.scores.apps == samples.inputs.apps[-120:]
    assert any(ConformalCalibration(judged.artefact.scores).offsets(samples.inputs.apps[0]))


def test_version_that_learned_noise_is_worse_than_the_active_one(
    judged: JudgedVersion, samples: Samples
) -> None:
    noise = samples.tokens.copy()
    np.random.default_rng(1).shuffle(noise[:480])
    worse = make_version(
        replace(samples, tokens=noise),
        model="demo",
        model_hash="abc",
        active=judged.artefact,
        threads=1,
    )
    assert "active" in {failure.against for failure in worse.judgement.failures}
    assert worse.metrics()["active"]["tau"] > worse.metrics()["new"]["tau"]
    assert not worse.metrics()["accepted"]


def test_version_that_learned_noise_is_its_line(samples: Samples) -> None:
    noise = samples.tokens.copy()
    np.random.default_rng(1).shuffle(noise)
    found = make_version(
        replace(samples, tokens=noise), model="demo", model_hash="abc", active=None, threads=1
    )
    assert found.metrics()["text_share"] < 0.1
    assert found.judgement.new.pinball <= found.metrics()["line"]["pinball"]


def test_version_worse_than_what_was_served_is_not_accepted(samples: Samples) -> None:
    known = np.log(samples.tokens)[:, None] + np.linspace(-0.02, 0.02, len(LEVELS))
    worse = make_version(
        replace(samples, served=np.exp(known)),
        model="demo",
        model_hash="abc",
        active=None,
        threads=1,
    )
    failed = {(failure.against, failure.measure) for failure in worse.judgement.failures}
    assert failed == {("served", "pinball"), ("served", "tau")}
    assert all(failure.new != failure.other for failure in worse.judgement.failures)


def test_imported_rows_were_not_served(samples: Samples) -> None:
    imported = replace(samples, was_live=np.zeros(len(samples), np.bool_))
    found = make_version(imported, model="demo", model_hash="abc", active=None, threads=1)
    assert found.judgement.other("served") is None
    assert found.metrics()["served"] is None


def test_accepted_version_was_fitted_on_all_rows_with_the_same_settings(
    judged: JudgedVersion, samples: Samples
) -> None:
    assert judged.artefact.pooled.rows == len(samples)
    past = samples.rows(0, 480)
    first = fit(past.inputs, past.tokens, past.censored, threads=1)
    assert judged.artefact.settings == first.settings


def test_too_few_rows_say_how_many_are_needed(samples: Samples) -> None:
    with pytest.raises(Conflict, match=r"at least 100 complete answers of model m, found 99$"):
        make_version(samples.rows(0, 99), model="m", model_hash="h", active=None, threads=1)


def test_too_few_rows_count_answers_that_were_cut_off_or_stopped(samples: Samples) -> None:
    rows = samples.rows(0, 120)
    number = np.arange(len(rows))
    ended = replace(
        rows,
        censored=number < 50,
        max_tokens=np.where(number < 30, rows.tokens, rows.tokens + 1),
    )
    counted = "found 70; not counted: 30 cut off by max_tokens, 20 stopped early by their clients"
    with pytest.raises(Conflict, match=counted):
        make_version(ended, model="m", model_hash="h", active=None, threads=1)


def test_newest_rows_that_are_all_censored_cannot_evaluate(samples: Samples) -> None:
    censored = np.arange(len(samples)) >= 400
    with pytest.raises(Conflict, match="could not be judged"):
        make_version(
            replace(samples, censored=censored),
            model="m",
            model_hash="h",
            active=None,
            threads=1,
        )


def test_rows_ended_by_max_tokens_are_judged_as_served(
    judged: JudgedVersion, samples: Samples
) -> None:
    newest = samples.rows(400, 600)
    caps = np.full(200, 30.0)
    capped = replace(
        newest,
        tokens=np.minimum(newest.tokens, caps),
        censored=newest.tokens > caps,
        max_tokens=caps,
    )
    card = judge(quantiles_of(LengthModel(judged.artefact)), capped)
    assert card.rows == 200
    assert card.mae < 6
    assert WINDOW_SCORES >= 200
