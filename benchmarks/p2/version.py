"""P2's version of the predictor: P1's model of the train lines, as the gateway would load it."""

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
from gateway.prediction.model.artefact import encode
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.length_model import FittedModel, LengthModel, fit
from gateway.prediction.training.fitting import artefact_of
from gateway.quantiles import Floats

MODEL: Final = "P2"
MODEL_HASH: Final = "of a model that is not there"


@dataclass(frozen=True)
class Version:
    """What was fitted, from which requests; and the requests that are told apart by it."""

    model: LengthModel
    artefact: bytes
    train: EvaluationRequests
    test: EvaluationRequests


def make_version(corpus: Corpus, report: Report, threads: int) -> Version:
    """Fit on the train lines as P1 does: lengths in words, no history.

    Its calibration begins with as many scores as P1's, though of rows that it was fitted on: what
    they are makes no difference to the cost.
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
    artefact = artefact_of(fitted, model=MODEL, model_hash=MODEL_HASH, scores=start)
    return Version(model, encode(artefact), train, test)


def fit_on(inputs: ModelInputs, tokens: Floats, threads: int) -> FittedModel:
    """The product's fit on requests that all ended by themselves."""
    return fit(inputs, tokens, np.zeros(len(inputs), dtype=np.bool_), threads=threads)
