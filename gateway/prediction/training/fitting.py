"""Fits a version on samples and evaluates it; without a database.

The newest fifth is held out: the version is fitted on the rest, its calibration starts with the
held-out conformity scores, and there it is compared with the active version, with a line per app
and with the predictions served at the time. Evaluated are lengths that ended naturally or at their
own `max_tokens`, which caps the quantiles too. A length censored because its client left is not
evaluated; training uses it as a lower bound.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec
import numpy as np

from gateway.errors import Conflict
from gateway.prediction.adaptation.adaptation import Adaptation, ScoredOutcome
from gateway.prediction.adaptation.conformal import NO_SCORES, ConformityScores, initial_scores
from gateway.prediction.censoring import kaplan_meier, weighted_quantiles
from gateway.prediction.features.features import FEATURE_VERSION, INPUTS
from gateway.prediction.model.app_lines import predict_lines
from gateway.prediction.model.artefact import Artefact
from gateway.prediction.model.heads import from_log1p
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.length_model import FittedModel, LengthModel, fit
from gateway.prediction.training.row_counts import MIN_TRAINING_ROWS, too_few_rows
from gateway.prediction.training.samples import Samples
from gateway.prediction.training.scorecard import Scorecard, evaluate
from gateway.quantiles import LEVELS, Bools, Floats

HELD_OUT_SHARE: Final = 0.2
EQUAL_TOLERANCE: Final = 1e-9  # difference below which two measures are equal

Predict: TypeAlias = Callable[[ModelInputs], Floats]


@dataclass(frozen=True, kw_only=True)
class JudgedVersion:
    """A new version and scorecards on the held-out rows; `active` is None without one.

    `text` is that of the first stage alone, without the embeddings of the user inputs.
    """

    artefact: Artefact
    held_out: int
    new: Scorecard
    text: Scorecard
    active: Scorecard | None
    line: Scorecard
    served: Scorecard

    @property
    def no_worse(self) -> bool:
        """Whether neither pinball loss nor τ is worse than that of the active version."""
        if self.active is None:
            return True
        better = self.new.pinball <= self.active.pinball + EQUAL_TOLERANCE
        return better and self.new.tau >= self.active.tau - EQUAL_TOLERANCE

    def metrics(self) -> dict[str, Any]:
        """The scorecards as JSON."""
        cards = {
            "new": self.new,
            "text": self.text,
            "active": self.active,
            "line": self.line,
            "served": self.served,
        }
        return {"held_out_rows": self.held_out, **msgspec.to_builtins(cards)}


def make_version(
    samples: Samples,
    *,
    model: str,
    model_hash: str,
    embedder: str | None = None,
    active: Artefact | None,
    threads: int,
) -> JudgedVersion:
    """Fit a version and evaluate it. Conflict if there are too few rows.

    It has a second stage, for requests with embeddings, only where that is no worse than the first
    on the held-out rows. `embedder` is the id of the model that made the samples' embeddings.
    """
    if samples.natural < MIN_TRAINING_ROWS:
        cut_off = int((samples.censored & _judgeable(samples)).sum())
        stopped = len(samples) - samples.natural - cut_off
        raise too_few_rows(model, samples.natural, {"cut_off": cut_off, "stopped": stopped})
    split = len(samples) - round(HELD_OUT_SHARE * len(samples))
    past, newest = samples.rows(0, split), samples.rows(split, len(samples))
    if not _judgeable(newest).any():
        raise Conflict(
            f"none of the newest {len(newest)} requests of model {model} ended naturally, "
            "so a version could not be judged"
        )
    fitted = fit(past.inputs, past.tokens, past.censored, past.weights, threads=threads)
    fitted, text = _with_useful_stages(fitted, newest)
    length_model = LengthModel(fitted)
    raw_log_quantiles = length_model.predict(newest.inputs).quantiles
    scores = initial_scores(newest.inputs.apps, raw_log_quantiles, newest.tokens, newest.censored)
    return JudgedVersion(
        artefact=artefact_of(
            fitted, model=model, model_hash=model_hash, embedder=embedder, scores=scores
        ),
        held_out=len(newest),
        new=judge(quantiles_of(length_model), newest, fitted.lines),
        text=text,
        active=judge_version(active, newest) if active else None,
        line=judge(_line(fitted, past), newest, fitted.lines),
        served=_card(newest, newest.served),
    )


def _with_useful_stages(fitted: FittedModel, newest: Samples) -> tuple[FittedModel, Scorecard]:
    """The model, without its second stage if that is worse; and the scorecard of the first."""
    first = replace(fitted, sentences=None)
    text = judge(quantiles_of(LengthModel(first)), newest, fitted.lines)
    if fitted.sentences is None:
        return first, text
    both = judge(quantiles_of(LengthModel(fitted)), newest, fitted.lines)
    return (fitted if both.pinball <= text.pinball else first), text


def judge(
    predict: Predict,
    samples: Samples,
    known: Iterable[UUID] = (),
    start: ConformityScores = NO_SCORES,
) -> Scorecard:
    """Evaluate a model on samples in order, adapting it after each outcome as in serving.

    `known` are the apps of its training data, `start` its initial conformity scores.
    """
    adaptation = Adaptation(known, start)
    scored = predict(samples.inputs)
    predicted = np.empty_like(scored)
    rows = zip(
        samples.inputs.apps,
        samples.inputs.log_uil.tolist(),
        scored.tolist(),
        samples.tokens.astype(int).tolist(),
        samples.censored.tolist(),
        samples.max_tokens.astype(int).tolist(),
        strict=True,
    )
    for row, (app, log_uil, levels, tokens, censored, cap) in enumerate(rows):
        predicted[row] = adaptation.serve(app, log_uil, levels, cap)
        adaptation.learn(ScoredOutcome.of(app, log_uil, levels, tokens, censored=censored))
    return _card(samples, predicted)


def judge_version(version: Artefact, samples: Samples) -> Scorecard:
    """Evaluate a stored version on samples."""
    return judge(quantiles_of(LengthModel(version)), samples, version.lines, version.scores)


def quantiles_of(model: LengthModel) -> Predict:
    """The model as a function that returns quantiles only."""
    return lambda inputs: model.predict(inputs).quantiles


def _judgeable(samples: Samples) -> Bools:
    return ~samples.censored | (samples.tokens >= samples.max_tokens)


def _card(samples: Samples, predicted: Floats) -> Scorecard:
    judgeable = _judgeable(samples)
    return evaluate(samples.tokens[judgeable], predicted[judgeable])


def _line(fitted: FittedModel, past: Samples) -> Predict:
    """The line per app alone, with the quantiles of the pooled scaled residuals."""

    def centre_and_spread(inputs: ModelInputs) -> tuple[Floats, Floats]:
        return predict_lines(inputs.apps, inputs.log_uil, fitted.pooled, fitted.lines)

    centre, spread = centre_and_spread(past.inputs)
    residuals = (np.log1p(past.tokens) - centre) / spread
    levels = weighted_quantiles(*kaplan_meier(residuals, past.censored), np.array(LEVELS))

    def predict(inputs: ModelInputs) -> Floats:
        centre, spread = centre_and_spread(inputs)
        return from_log1p(centre[:, None] + spread[:, None] * levels)

    return predict


def artefact_of(
    fitted: FittedModel,
    *,
    model: str,
    model_hash: str,
    embedder: str | None = None,
    scores: ConformityScores,
) -> Artefact:
    """The artefact of a fitted model, with initial conformity scores.

    `embedder` is the id of the model whose embeddings it was fitted on.
    """
    return Artefact(
        model=model,
        model_hash=model_hash,
        feature_version=FEATURE_VERSION,
        inputs=list(INPUTS),
        levels=list(LEVELS),
        scores=scores,
        embedder=embedder if fitted.reads_embeddings else None,
        **vars(fitted),
    )
