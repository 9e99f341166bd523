import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prediction.features.cues import MAX_CHARS, NAMES, asked_words, cues

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)  # surrogates too


@given(ANY_TEXT)
def test_any_text_gives_the_same_finite_cues_each_time(text: str) -> None:
    found = cues(text)
    assert found.shape == (len(NAMES),)
    assert np.isfinite(found).all()
    assert found.tobytes() == cues(text).tobytes()


def test_names_are_distinct() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Explain gravity in 50 words.", 50),
        ("Write a 300-word essay", 300),
        ("give me three short sentences or 10 words", 54),
        ("list 5 ideas", 75),
        ("What is the speed of light?", 0),
        ("It has 3 legs", 0),
    ],
)
def test_requested_length_is_parsed(text: str, words: float) -> None:
    assert asked_words(text) == words


@pytest.mark.parametrize(
    ("text", "cue"),
    [
        ("Is this it?", "ends_with_question"),
        ("def f(x):\n    return x", "has_signature"),
        ("def _f(a, b=1): pass", "defaults"),
        ("give the answer as JSON", "asks_structure"),
        ("some tips please", "asks_list"),
        ("be brief", "asks_brief"),
        ("a detailed account", "asks_long"),
        ("Translate: good day", "first_verb"),
        ("Grüße", "share_foreign"),
        ("He has twice as many", "log_quantities"),
    ],
)
def test_cue_is_detected(text: str, cue: str) -> None:
    assert cues(text)[NAMES.index(cue)] > 0
    assert cues("plain words of no kind")[NAMES.index(cue)] == 0


def test_counts_of_a_long_text_are_scaled_from_its_ends() -> None:
    counted = NAMES.index("log_numbers")
    whole = cues("7 words. " * (4 * MAX_CHARS))
    assert whole[counted] == pytest.approx(np.log1p(4 * MAX_CHARS), abs=0.02)
