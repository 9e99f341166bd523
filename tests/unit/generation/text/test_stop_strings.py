from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.generation.text.stop_strings import StopStringScanner
from gateway.generation.text.tokenizer import ChatTokenizer

LETTERS = st.text("ab ", max_size=30).map(lambda text: f"a{text}")
STOPS = st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=3)


def first_stop(text: str, stops: list[str]) -> str:
    """Reference: the text before the stop string that is complete first."""
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        return text
    done = text[: min(ends)]
    return done[: min(done.find(stop) for stop in stops if stop in done)]


@given(text=LETTERS, stops=STOPS)
def test_text_ends_before_the_first_stop_string(
    tokenizer: ChatTokenizer, text: str, stops: list[str]
) -> None:
    scanner = StopStringScanner(tokenizer.decoder(), stops)
    stopped = any(scanner.feed(token) for token in tokenizer.encode(text))
    if stopped:
        shown = scanner.visible(ended=True)
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)
    else:
        assert scanner.visible(ended=True) == text
        assert first_stop(text, stops) == text


@given(text=LETTERS, stops=STOPS)
def test_shown_text_only_grows(tokenizer: ChatTokenizer, text: str, stops: list[str]) -> None:
    scanner = StopStringScanner(tokenizer.decoder(), stops)
    shown = [""]
    for token in tokenizer.encode(text):
        stopped = scanner.feed(token)
        shown.append(scanner.visible(ended=False))
        if stopped:
            break
    shown.append(scanner.visible(ended=True))
    assert all(after.startswith(before) for before, after in pairwise(shown))


@given(text=LETTERS, stops=STOPS, min_tokens=st.integers(0, 12), shown=st.booleans())
def test_a_stop_string_counts_once_enough_tokens_are_there(
    tokenizer: ChatTokenizer, text: str, stops: list[str], min_tokens: int, *, shown: bool
) -> None:
    scanner = StopStringScanner(tokenizer.decoder(), stops, min_tokens=min_tokens, shown=shown)
    decoder, written, end = tokenizer.decoder(), "", None
    for number, token in enumerate(tokenizer.encode(text), 1):
        before = len(written)
        written += decoder.feed([token])
        complete = [
            (place, stop)
            for stop in stops
            for place in range(len(written))
            if written.startswith(stop, place) and place + len(stop) > before
        ]
        stopped = number >= min_tokens and bool(complete)
        assert scanner.feed(token) == stopped
        if stopped:
            place = min(place for place, _ in complete)
            end = next(each for each in stops if (place, each) in complete)
            assert scanner.found == end
            assert scanner.visible(ended=True) == written[: place + len(end) * shown]
            return
    assert scanner.found is None
    assert scanner.visible(ended=True) == text


def test_partial_stop_string_is_held_back(tokenizer: ChatTokenizer) -> None:
    scanner = StopStringScanner(tokenizer.decoder(), ["golden castle"])
    for token in tokenizer.encode("brave golden"):
        scanner.feed(token)
    assert scanner.visible(ended=False) == "brave "
    assert scanner.visible(ended=True) == "brave golden"


@given(text=LETTERS, stops=STOPS, asked=st.lists(st.booleans(), min_size=31))
def test_what_may_become_a_stop_string_is_held_back(
    tokenizer: ChatTokenizer, text: str, stops: list[str], asked: list[bool]
) -> None:
    scanner = StopStringScanner(tokenizer.decoder(), stops, min_tokens=100)
    decoder, written = tokenizer.decoder(), ""
    for token, asks in zip(tokenizer.encode(text), asked, strict=False):
        scanner.feed(token)
        written += decoder.feed([token])
        if asks:
            partial = [
                size
                for stop in stops
                for size in range(min(len(stop) - 1, len(written)) + 1)
                if written.endswith(stop[:size])
            ]
            assert scanner.visible(ended=False) == written[: len(written) - max(partial)]
