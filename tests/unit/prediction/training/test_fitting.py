from dataclasses import replace

import numpy as np
import pytest

from gateway.errors import Conflict
from gateway.prediction.adaptation.conformal import WINDOW_SCORES, ConformalCalibration
from gateway.prediction.model.length_model import LengthModel
from gateway.prediction.training.fitting import JudgedVersion, judge, make_version, quantiles_of
from gateway.prediction.training.samples import Samples


def test_version_beats_the_line_and_the_served_predictions(judged: JudgedVersion) -> None:
    assert judged.new.pinball < judged.line.pinball < judged.served.pinball
    assert judged.new.coverage == pytest.approx(0.9, abs=0.08)
    assert judged.no_worse


def test_held_out_rows_are_the_newest_and_start_the_calibration(
    judged: JudgedVersion, samples: Samples
) -> None:
    assert judged.held_out == judged.new.rows == 120
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
    assert not worse.no_worse
    assert worse.metrics()["active"]["tau"] > worse.metrics()["new"]["tau"]


def test_same_version_is_no_worse_than_itself(judged: JudgedVersion) -> None:
    assert replace(judged, active=judged.new).no_worse


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
