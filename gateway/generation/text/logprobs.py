"""Tokens of an answer as text, with their log probabilities."""

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from engine.protocol import TokenLogprobs
from gateway.generation.text.token_bytes import Speller, TokenText

MIN_LOGPROB: Final = -9999.0  # replaces -inf, which JSON cannot hold


class TokenCandidate(Struct, frozen=True, gc=False):
    """A token and its log probability."""

    token: TokenText
    logprob: float


class ScoredToken(Struct, frozen=True, gc=False):
    """A sampled token, the top candidates at its position, and its offset in the text."""

    sampled: TokenCandidate
    top: list[TokenCandidate]
    start: int


class LogprobDecoder:
    """Decodes one answer's tokens and top candidates, in order."""

    def __init__(self, speller: Speller, *, begun: bool = False) -> None:
        """`begun`: the answer continues a text."""
        self._speller = speller
        self._begun = begun  # whether an earlier token had text

    def decode(
        self, tokens: Iterable[int], logprobs: Iterable[TokenLogprobs], starts: Iterable[int]
    ) -> Iterator[ScoredToken]:
        """The next tokens with their log probabilities and character offsets."""
        for token, given, start in zip(tokens, logprobs, starts, strict=True):
            yield ScoredToken(
                sampled=self._candidate(token, given.logprob),
                top=[self._candidate(other, logprob) for other, logprob in given.top],
                start=start,
            )
            self._begun = self._begun or bool(self._speller.spell(token).bytes)

    def _candidate(self, token: int, logprob: float) -> TokenCandidate:
        spelled = self._speller.spell(token, first=not self._begun)
        return TokenCandidate(spelled, max(logprob, MIN_LOGPROB))
