"""Token counts by words and by BPE."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.evaluation.corpus import CorpusLine
from gateway.evaluation.lengths import count_words, token_counter, train_bpe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        (" \n\t", 0),
        ("one", 1),
        ("It's 5 o'clock.", 8),
        ("snake_case()", 5),
        ("__init__", 5),
        ("Příliš žluťoučký kůň", 3),
        ("你好, world", 4),
        ("x2 + 3.5", 5),
    ],
)
def test_words_punctuation_and_ideographs_count_one_each(text: str, words: int) -> None:
    assert count_words([text]).tolist() == [words]


@given(st.text(), st.text())
def test_words_of_two_lines_add_up(left: str, right: str) -> None:
    both = count_words([left, right])
    assert count_words([f"{left}\n{right}"])[0] == both.sum()


def a_line(text: str) -> CorpusLine:
    return CorpusLine(app="a", instruction="", input=text, output=text)


def test_bpe_has_one_token_for_a_frequent_word() -> None:
    count = train_bpe([a_line("marmalade marmalade")] * 50)
    assert count(["marmalade"]) < count(["xylophone"])


@given(st.text(max_size=40))
def test_bpe_counts_any_text_at_no_more_than_its_bytes(text: str) -> None:
    assert COUNT([text])[0] <= len(text.encode())


COUNT = train_bpe([a_line("some text to learn from")])


def test_bpe_of_nothing_new_is_the_same_every_time() -> None:
    lines = [a_line(f"amber bridge {number}") for number in range(30)]
    texts = ["amber bridge 7", "bridge"]
    assert (token_counter("bpe", lines)(texts) == token_counter("bpe", lines)(texts)).all()
    assert (token_counter("words", lines)(texts) == [3, 1]).all()
