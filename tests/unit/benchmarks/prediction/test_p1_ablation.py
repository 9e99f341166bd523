"""What P1's ablation takes away."""

import numpy as np

from benchmarks.p1.ablation import without
from gateway.prediction.model.inputs import ModelInputs

NAMES = ("text", "sentences", "instructions")


def small_inputs() -> ModelInputs:
    vectors = {name: np.ones((2, 3), dtype=np.float32) for name in NAMES}
    return ModelInputs(
        apps=[],
        features=np.ones((2, 3), dtype=np.float32),
        instruction_of=np.zeros(2, dtype=np.intp),
        **vectors,
    )


def test_vectors_that_are_taken_away_are_missing_and_the_others_stay() -> None:
    left = without(small_inputs(), "text", "instructions")
    assert np.isnan(left.text).all()
    assert np.isnan(left.instructions).all()
    assert np.isfinite(left.sentences).all()
    assert np.isfinite(left.features).all()
