"""Tokens of an answer with their log probabilities, spelled out."""

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from engine.protocol import TokenLogprobs
from gateway.generation.text.token_bytes import Spelled, Speller

LEAST: Final = -9999.0  # what clients are told of a token that cannot be drawn


class Likelihood(Struct, frozen=True):
    """A token and its log probability."""

    token: Spelled
    logprob: float


class ScoredToken(Struct, frozen=True):
    """A drawn token, the likeliest in its place, and where in the answer's text it begins."""

    drawn: Likelihood
    likeliest: list[Likelihood]
    start: int


class Scorer:
    """Spells out one answer's tokens, in order."""

    def __init__(self, speller: Speller) -> None:
        self._speller = speller
        self._begun = False  # whether a token had text

    def score(
        self, tokens: Iterable[int], logprobs: Iterable[TokenLogprobs], starts: Iterable[int]
    ) -> Iterator[ScoredToken]:
        """The next tokens, each with its log probabilities and its start."""
        for token, given, start in zip(tokens, logprobs, starts, strict=True):
            yield ScoredToken(
                drawn=self._likelihood(token, given.logprob),
                likeliest=[self._likelihood(other, logprob) for other, logprob in given.top],
                start=start,
            )
            self._begun = self._begun or bool(self._speller.spell(token).bytes)

    def _likelihood(self, token: int, logprob: float) -> Likelihood:
        spelled = self._speller.spell(token, first=not self._begun)
        return Likelihood(spelled, max(logprob, LEAST))
