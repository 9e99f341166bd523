from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prediction.features.features import (
    INPUTS,
    NAMES,
    features,
    from_bytes,
    raw_quantiles,
    with_raw_quantiles,
)
from gateway.prediction.features.length_history import LengthHistory
from gateway.prediction.messages import PredictionRequest

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)  # surrogates too


def a_prediction_request(user_input: str = "hello", **changes: object) -> PredictionRequest:
    fields = {
        "tenant": UUID(int=1),
        "app": UUID(int=2),
        "end_user": None,
        "instruction": "Answer.",
        "user_input": user_input,
        "user_input_tokens": 3,
        "prompt_tokens": 9,
        "max_tokens": 100,
        "temperature": 0.5,
        "top_p": 1.0,
    }
    return PredictionRequest(**{**fields, **changes})  # type: ignore[arg-type]


HISTORY = LengthHistory().history(
    tenant=UUID(int=1), app=UUID(int=2), end_user=None, max_tokens=100, now=0.0
)


@given(ANY_TEXT, ANY_TEXT)
def test_any_text_gives_the_same_finite_vector_each_time(instruction: str, text: str) -> None:
    request = a_prediction_request(text, instruction=instruction)
    vector = features(request, HISTORY)
    assert vector.dtype == np.float32
    assert vector.shape == (len(NAMES),)
    assert np.isfinite(vector).all()
    assert vector.tobytes() == features(request, HISTORY).tobytes()


@given(st.integers(-1, 10**12), st.integers(1, 10**12))
def test_any_count_gives_a_finite_vector(tokens: int, max_tokens: int) -> None:
    request = a_prediction_request(
        user_input_tokens=tokens, prompt_tokens=tokens, max_tokens=max_tokens
    )
    assert np.isfinite(features(request, HISTORY)).all()


def test_names_are_distinct() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_raw_quantiles_are_stored_after_the_inputs() -> None:
    vector = features(a_prediction_request(), HISTORY)
    with_note = with_raw_quantiles(vector, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    assert raw_quantiles(with_note) == (3.0, 5.0, 6.0)
    assert (with_note[: len(INPUTS)] == vector[: len(INPUTS)]).all()
    assert raw_quantiles(vector) == (0.0, 0.0, 0.0)


def test_vector_of_another_size_is_refused() -> None:
    vector = features(a_prediction_request(), HISTORY)
    assert (from_bytes(vector.tobytes()) == vector).all()
    with pytest.raises(ValueError, match="features"):
        from_bytes(vector.tobytes() + b"\0\0\0\0")
