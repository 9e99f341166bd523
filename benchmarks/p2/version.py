"""The predictor version of P2: P1's model of the train lines, as a gateway loads it."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.harness.paths import CACHE
from benchmarks.harness.report import Report
from gateway.evaluation.arrivals import EvaluationRequests, RequestBuilder
from gateway.evaluation.corpus import Corpus
from gateway.evaluation.lengths import count_words
from gateway.evaluation.ours import HELD_OUT_SHARE, scores
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors
from gateway.prediction.features.embedder_model import packaged_embedder
from gateway.prediction.model.artefact import encode
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.length_model import FittedModel, LengthModel, fit
from gateway.prediction.training.fitting import artefact_of
from gateway.quantiles import Floats

MODEL: Final = "P2"
MODEL_HASH: Final = "of a model that is not there"


@dataclass(frozen=True)
class FittedVersion:
    """A fitted model and artefact, its training requests, and test requests."""

    model: LengthModel
    artefact: bytes
    train: EvaluationRequests
    test: EvaluationRequests


def make_version(corpus: Corpus, report: Report, threads: int) -> FittedVersion:
    """Fit on the train lines as in P1: lengths in words, no history.

    It has as many initial conformity scores as in P1, but of rows it was fitted on: their values do
    not affect the cost.
    """
    report.say(f"reading {len(corpus.train)} + {len(corpus.test)} lines")
    embedder = SentenceEmbedder(threads, CACHE / "magnus", report.say)
    builder = RequestBuilder(count_words, TextVectors(), embedder, history=False)
    train, test = builder.build(corpus.train), builder.build(corpus.test)
    report.say("fitting")
    fitted = fit_on(train.inputs, train.tokens, threads)
    model = LengthModel(fitted)
    newest = train.rows(slice(len(train) - round(HELD_OUT_SHARE * len(train)), None))
    start = scores(model.predict(newest.inputs).quantiles, newest)
    artefact = artefact_of(
        fitted,
        model=MODEL,
        model_hash=MODEL_HASH,
        embedder=packaged_embedder().id,
        scores=start,
    )
    return FittedVersion(model, encode(artefact), train, test)


def fit_on(inputs: ModelInputs, tokens: Floats, threads: int) -> FittedModel:
    """The product's fit on requests that all ended by themselves."""
    return fit(inputs, tokens, np.zeros(len(inputs), dtype=np.bool_), threads=threads)
