"""The parameters for sampling one token."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from engine.grammar.automaton import Automaton
from engine.protocol import Sampling


class SamplingParams(NamedTuple):
    """How the token of one row is sampled.

    `position` is the index of that token in its sequence. `prompt` and `generated` are read only
    for penalties and bad words. `carried`: the row of the previous step that samples this
    sequence's newest token, if the host does not know that token yet; `generated` then excludes it.
    `automaton` follows its grammar, from the start with the tokens `restart` if there are any.
    `banned` ids may not follow.
    """

    sampling: Sampling
    position: int
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    carried: int | None = None
    automaton: Automaton | None = None
    restart: list[int] | None = None
    banned: Sequence[int] = ()


GREEDY: Final = SamplingParams(Sampling(), position=0)  # for rows that take the likeliest token


def is_greedy(sampling: Sampling) -> bool:
    """Whether these options are equivalent to `GREEDY`."""
    return msgspec.structs.replace(sampling, seed=0) == GREEDY.sampling


def needs_history(sampling: Sampling) -> bool:
    """Whether sampling the next token depends on earlier tokens."""
    penalties = (sampling.presence_penalty, sampling.frequency_penalty)
    words = any(len(word) > 1 for word in sampling.bad_words)
    return any(penalties) or sampling.repetition_penalty != 1 or words
