"""Magnus's generation length predictor (arXiv 2406.04785, section III-B), as published.

A random forest on the user input length and the embeddings of instruction and user input, reduced
to 4 and 16 dimensions by averaging groups of adjacent dimensions.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor

from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.forecast import Forecast, residual_quantiles
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.quantiles import Floats

NAME: Final = "Magnus"
APP_DIMS: Final = 4
USER_DIMS: Final = 16
TREES: Final = 100
SEED: Final = 1


def magnus(
    train: EvaluationRequests,
    test: EvaluationRequests,
    *,
    embedder: SentenceEmbedder,
    threads: int,
) -> Forecast:
    """Forecast with two forests: one of log lengths for measures on logs, one of tokens.

    The published predictor has the second only, which is worse on logs. Quantiles are those of the
    first forest's out-of-bag residuals.
    """
    train_features, test_features = (
        forest_features(requests, embedder) for requests in (train, test)
    )
    logs = np.log1p(train.tokens)
    of_logs = _forest(threads, oob_score=True).fit(train_features, logs)
    location: Floats = of_logs.predict(test_features)
    residuals: Floats = logs - of_logs.oob_prediction_
    return Forecast(
        log_quantiles=residual_quantiles(location, test.names, residuals, train.names),
        location=location,
        mean=_predicted_tokens(train_features, train.tokens, test_features, threads),
    )


def point_predictions(
    train: EvaluationRequests,
    test: EvaluationRequests,
    *,
    embedder: SentenceEmbedder,
    threads: int,
) -> Floats:
    """What the published predictor predicts: the forest of tokens alone, (n,)."""
    features = forest_features(train, embedder)
    return _predicted_tokens(features, train.tokens, forest_features(test, embedder), threads)


def forest_features(
    requests: EvaluationRequests, embedder: SentenceEmbedder
) -> NDArray[np.float32]:
    """The forest's features, (n, 1 + APP_DIMS + USER_DIMS)."""
    instructions = requests.inputs.instructions[requests.inputs.instruction_of]
    user_inputs = embedder.embed([line.input for line in requests.lines])
    uil = np.expm1(requests.inputs.log_uil)
    return np.column_stack(
        (uil, pooled_dimensions(instructions, APP_DIMS), pooled_dimensions(user_inputs, USER_DIMS))
    ).astype(np.float32)


def pooled_dimensions(vectors: NDArray[np.float32], dims: int) -> NDArray[np.float32]:
    """Means over groups of adjacent dimensions: (n, d) gives (n, dims); dims divides d."""
    grouped = vectors.reshape(len(vectors), dims, -1)
    return np.asarray(grouped.mean(axis=2))


def _predicted_tokens(
    features: NDArray[np.float32], tokens: Floats, wanted: NDArray[np.float32], threads: int
) -> Floats:
    predicted: Floats = _forest(threads).fit(features, tokens).predict(wanted)
    return predicted


def _forest(threads: int, *, oob_score: bool = False) -> RandomForestRegressor:
    return RandomForestRegressor(TREES, oob_score=oob_score, n_jobs=threads, random_state=SEED)
