"""Magnus's generation length predictor (arXiv 2406.04785, section III-B), as published.

A random forest on the user input's length, the embedding of the instruction compressed to 4
dimensions and that of the user input to 16, each the mean over a group of neighbouring ones.
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
    learned: EvaluationRequests,
    test: EvaluationRequests,
    *,
    sentences: SentenceEmbedder,
    threads: int,
) -> Forecast:
    """The forest, generously: one of log lengths for what is measured on logs, one of tokens.

    Published is the latter alone, which is worse on logs. Quantiles are those of the former's
    out-of-bag residuals.
    """
    known, asked = (forest_features(requests, sentences) for requests in (learned, test))
    logs = np.log1p(learned.tokens)
    of_logs = _forest(threads).fit(known, logs)
    of_tokens = _forest(threads).fit(known, learned.tokens)
    location: Floats = of_logs.predict(asked)
    residuals: Floats = logs - of_logs.oob_prediction_
    return Forecast(
        log_quantiles=residual_quantiles(location, test.names, residuals, learned.names),
        location=location,
        mean=of_tokens.predict(asked),
    )


def forest_features(
    requests: EvaluationRequests, sentences: SentenceEmbedder
) -> NDArray[np.float32]:
    """The forest's features, (n, 1 + APP_DIMS + USER_DIMS)."""
    instructions = requests.inputs.instructions[requests.inputs.instruction_of]
    user_inputs = sentences.embed([line.input for line in requests.lines])
    uil = np.expm1(requests.inputs.log_uil)
    return np.column_stack(
        (uil, pooled_dimensions(instructions, APP_DIMS), pooled_dimensions(user_inputs, USER_DIMS))
    ).astype(np.float32)


def pooled_dimensions(vectors: NDArray[np.float32], dims: int) -> NDArray[np.float32]:
    """Means over groups of neighbouring dimensions: (n, d) gives (n, dims); dims divides d."""
    grouped = vectors.reshape(len(vectors), dims, -1)
    return np.asarray(grouped.mean(axis=2))


def _forest(threads: int) -> RandomForestRegressor:
    return RandomForestRegressor(TREES, oob_score=True, n_jobs=threads, random_state=SEED)
