import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.prediction.features.text_encoder import (
    CUE_DIMS,
    MEANING,
    SKETCH,
    STATISTICS,
    TEXT_DIMS,
    TextEncoder,
)

ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder()


@settings(deadline=None)
@given(text=ANY_TEXT)
def test_any_text_gives_the_same_finite_vector_each_time(encoder: TextEncoder, text: str) -> None:
    vector = encoder.encode(text)
    assert vector.dtype == np.float32
    assert vector.shape == (TEXT_DIMS,)
    assert np.isfinite(vector.astype(np.float16)).all()
    assert vector.tobytes() == encoder.encode(text).tobytes()


def similarity(encoder: TextEncoder, one: str, other: str, part: slice) -> float:
    """The cosine similarity of a part of two text vectors, centred on some other texts."""
    texts = (one, other, "Sum the numbers.", "A red car", "Who wrote it?", "def f(x): return x")
    rows = np.stack([encoder.encode(text)[part] for text in texts])
    a, b = (rows - rows.mean(axis=0))[:2]
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_similar_texts_have_similar_meanings(encoder: TextEncoder) -> None:
    cat = "The cat sleeps on the sofa."
    kitten = similarity(encoder, cat, "A kitten is sleeping on the couch.", MEANING)
    assert kitten > similarity(encoder, cat, "How do I file my tax return?", MEANING) + 0.2


def test_sketch_depends_on_word_order(encoder: TextEncoder) -> None:
    one, turned = (encoder.encode(text) for text in ("dog bites man", "man bites dog"))
    np.testing.assert_allclose(one[MEANING], turned[MEANING], atol=1e-6)
    assert np.abs(one[SKETCH] - turned[SKETCH]).max() > 0.1


def test_statistics_count_pieces_and_words(encoder: TextEncoder) -> None:
    found = dict(
        zip(
            STATISTICS,
            encoder.encode("unbelievableness")[:CUE_DIMS][-len(STATISTICS) :],
            strict=True,
        )
    )
    assert found["log_words"] == pytest.approx(np.log(2))
    assert found["pieces_per_word"] > 1
    assert found["continued"] == pytest.approx(1 - 1 / found["pieces_per_word"])


def test_camel_case_names_are_split(encoder: TextEncoder) -> None:
    same = encoder.encode("get User Name")[MEANING]
    np.testing.assert_allclose(encoder.encode("getUserName")[MEANING], same, atol=1e-6)


def test_middle_of_a_long_text_is_ignored(encoder: TextEncoder) -> None:
    head, tail = "word " * 500, " end" * 200
    one, other = (encoder.encode(head + 1000 * middle + tail) for middle in ("sun ", "sea "))
    np.testing.assert_array_equal(one[MEANING], other[MEANING])
