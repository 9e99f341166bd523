"""Fits a version on samples and evaluates it; without a database.

The newest fifth is held out: the version is fitted on the rest, its calibration starts with the
held-out conformity scores, and there it is judged (`judgement`). One that is accepted is fitted
again, on all rows with the same settings; calibration and judgement stay those of the held-out
rows. Evaluated are lengths that ended naturally or at their own `max_tokens`, which caps the
quantiles too. A length censored because its client left is not evaluated; training uses it as a
lower bound.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec
import numpy as np

from gateway.errors import Conflict
from gateway.prediction.adaptation.adaptation import Adaptation, ScoredOutcome
from gateway.prediction.adaptation.conformal import NO_SCORES, ConformityScores, initial_scores
from gateway.prediction.features.features import FEATURE_VERSION
from gateway.prediction.model.artefact import Artefact, inputs_of
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.length_model import FittedModel, LengthModel, fit
from gateway.prediction.training.judgement import Comparison, Judgement
from gateway.prediction.training.row_counts import MIN_TRAINING_ROWS, too_few_rows
from gateway.prediction.training.samples import Samples
from gateway.prediction.training.scorecard import Scorecard, evaluate
from gateway.quantiles import LEVELS, Bools, Floats

HELD_OUT_SHARE: Final = 0.2

Predict: TypeAlias = Callable[[ModelInputs], Floats]


@dataclass(frozen=True, kw_only=True)
class JudgedVersion:
    """A new version and its judgement on the `held_out` newest rows.

    `text` is the scorecard of its first stage alone, without the embeddings of user inputs.
    """

    artefact: Artefact
    held_out: int
    judgement: Judgement
    text: Scorecard

    def metrics(self) -> dict[str, Any]:
        """The judgement as JSON, and the mean share of the text parts over the apps."""
        settings = self.artefact.settings
        shares = [] if settings is None else [*settings.shares.values()]
        return {
            "held_out_rows": self.held_out,
            "text_share": sum(shares) / max(len(shares), 1),
            **self.judgement.metrics(),
            "text": msgspec.to_builtins(self.text),
        }


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

    `embedder` is the id of the model that made the samples' embeddings.
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
    fitted, judgement = _judged(fitted, newest, active)
    raw_log_quantiles = LengthModel(fitted).predict(newest.inputs).quantiles
    scores = initial_scores(newest.inputs.strata, raw_log_quantiles, newest.tokens, newest.censored)
    if judgement.accepted:
        columns = samples.inputs, samples.tokens, samples.censored, samples.weights
        fitted = fit(*columns, threads=threads, settings=fitted.settings)
    return JudgedVersion(
        artefact=artefact_of(
            fitted, model=model, model_hash=model_hash, embedder=embedder, scores=scores
        ),
        held_out=len(newest),
        judgement=judgement,
        text=text,
    )


def _with_useful_stages(fitted: FittedModel, newest: Samples) -> tuple[FittedModel, Scorecard]:
    """The model, without its second stage if that is worse; and the scorecard of the first."""
    judgeable = _judgeable(newest)
    first = without_sentences(fitted)
    tokens, by_text = newest.tokens[judgeable], _served(first, newest)[judgeable]
    text = evaluate(tokens, by_text)
    if fitted.sentences is None:
        return fitted, text
    both = evaluate(tokens, _served(fitted, newest)[judgeable])
    return (fitted if both.pinball <= text.pinball else first), text


def without_sentences(fitted: FittedModel) -> FittedModel:
    """The model without its second stage."""
    settings = msgspec.structs.replace(fitted.settings, sentences=None)
    return dataclasses.replace(fitted, settings=settings, sentences=None)


def _judged(
    fitted: FittedModel, newest: Samples, active: Artefact | None
) -> tuple[FittedModel, Judgement]:
    """The model and its judgement; without its text parts where its line predicts better."""
    judgeable = _judgeable(newest)
    line = lines_alone(fitted)
    tokens, by_line = newest.tokens[judgeable], _served(line, newest)[judgeable]
    new = _served(fitted, newest)[judgeable]
    if Comparison.of("line", tokens, new, by_line).failures():
        fitted, new = line, by_line
    comparisons = [Comparison.of("line", tokens, new, by_line)]
    live = newest.live[judgeable]
    if live.any():
        served = newest.served[judgeable]
        comparisons.append(Comparison.of("served", tokens, new, served, live))
    if active is not None:
        by_active = _served(active, newest)[judgeable]
        comparisons.append(Comparison.of("active", tokens, new, by_active))
    return fitted, Judgement(evaluate(tokens, new), comparisons)


def lines_alone(fitted: FittedModel) -> FittedModel:
    """The model without its text parts: the line per app serves."""
    settings = msgspec.structs.replace(fitted.settings, share=0.0, shares={}, sentences=None)
    return dataclasses.replace(fitted, settings=settings, sentences=None)


def judge(
    predict: Predict,
    samples: Samples,
    known: Iterable[UUID] = (),
    start: ConformityScores = NO_SCORES,
) -> Scorecard:
    """Evaluate a model on samples in order, adapting it after each outcome as in serving.

    `known` are the strata of its training data, `start` its initial conformity scores.
    """
    judgeable = _judgeable(samples)
    predicted = adapted(predict, samples, known, start)
    return evaluate(samples.tokens[judgeable], predicted[judgeable])


def adapted(
    predict: Predict,
    samples: Samples,
    known: Iterable[UUID] = (),
    start: ConformityScores = NO_SCORES,
) -> Floats:
    """Quantiles in tokens that serving the samples in order would have given, (n, len(LEVELS))."""
    adaptation = Adaptation(known, start)
    scored = predict(samples.inputs)
    predicted = np.empty_like(scored)
    rows = zip(
        samples.inputs.strata,
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
    return predicted


def judge_version(version: Artefact, samples: Samples) -> Scorecard:
    """Evaluate a stored version on samples."""
    return judge(quantiles_of(LengthModel(version)), samples, version.lines, version.scores)


def quantiles_of(model: LengthModel) -> Predict:
    """The model as a function that returns quantiles only."""
    return lambda inputs: model.predict(inputs).quantiles


def _served(version: FittedModel | Artefact, samples: Samples) -> Floats:
    start = version.scores if isinstance(version, Artefact) else NO_SCORES
    return adapted(quantiles_of(LengthModel(version)), samples, version.lines, start)


def _judgeable(samples: Samples) -> Bools:
    return ~samples.censored | (samples.tokens >= samples.max_tokens)


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
        inputs=inputs_of(fitted.forms, fitted.sentences),
        levels=list(LEVELS),
        scores=scores,
        embedder=embedder if fitted.reads_embeddings else None,
        **vars(fitted),
    )
