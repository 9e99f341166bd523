"""The expected tokens of an answer that may be cut off."""

import numpy as np
import pytest

from gateway.prediction.expectation import expected_tokens, limited_mean


def test_limit_lowers_the_mean_as_it_lowers_that_of_the_quantiles() -> None:
    quantiles = [50.0, 100.0, 200.0, 400.0, 800.0, 1600.0]
    natural, limited = (
        float(expected_tokens(np.array(each))) for each in (quantiles, np.minimum(quantiles, 400))
    )
    assert limited_mean(natural, quantiles, 400) == pytest.approx(limited)
    assert limited_mean(2 * natural, quantiles, 4000) == 2 * natural
    assert limited_mean(1000.0, [1.0] * 6, 10) == 10
