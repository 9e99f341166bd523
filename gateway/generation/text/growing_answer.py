"""The tokens of an answer as they are generated, and what its reader gets of them."""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from engine.protocol import TokenLogprobs
from gateway.generation.text.detokenizer import AnswerText
from gateway.generation.text.incremental_decoder import MAX_HELD_TOKENS, AnswerDecoder
from gateway.generation.text.logprobs import LogprobDecoder, ScoredToken
from gateway.generation.text.token_bytes import Speller

TEXT_PART: Final = 256  # tokens of a piece; decoding one takes about 10 µs
SCORED_PART: Final = 16  # tokens of a piece with log probabilities: each has up to 20 candidates


class Piece(Struct, frozen=True):
    """New text of an answer, and its tokens with log probabilities if requested."""

    text: str
    scored: list[ScoredToken] = []

    def __bool__(self) -> bool:
        return bool(self.text or self.scored)


class GrowingAnswer:
    """Tokens are appended, and one reader reads them at its own pace.

    So a slow client delays no other and costs no more memory than its answer. `logprobs` has one
    entry per token if they are `scored`.
    """

    def __init__(
        self,
        decoder: AnswerDecoder,
        speller: Speller,
        stops: Sequence[str],
        *,
        scored: bool,
        min_tokens: int = 0,
        stop_shown: bool = False,
    ) -> None:
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self._text = AnswerText(
            decoder, stops, placed=scored, min_tokens=min_tokens, stop_shown=stop_shown
        )
        self._speller = speller
        self._stop_text = ""  # of the token that ended the answer, if it is shown
        self._logprob_decoder = LogprobDecoder(speller, begun=decoder.continues) if scored else None
        self._read_tokens = 0  # with log probabilities

    def grow(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> bool:
        """Append tokens; True if they complete a stop string, beyond which they are dropped."""
        taken, stopped = self._text.grow(tokens)
        self.tokens.extend(tokens[:taken])
        self.logprobs.extend(logprobs[:taken])
        return stopped

    def show_stop(self, token: int) -> None:
        """Show the text of the token that ended the answer; a control token has none."""
        spelled = self._speller.spell(token, first=not self.tokens)
        self._stop_text = "" if spelled.bytes is None else spelled.text

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._text.stop_string

    def read(self, *, ended: bool) -> Piece:
        """The text and tokens since the last call; with `ended` all that is left."""
        parts = list(self.read_parts(ended=ended))
        return Piece(
            "".join(part.text for part in parts), [t for part in parts for t in part.scored]
        )

    def read_parts(self, *, ended: bool) -> Iterator[Piece]:
        """What `read` returns, in parts of limited size that are decoded as they are taken.

        A slow reader's backlog may be a whole answer.
        """
        if self._logprob_decoder is not None:
            yield from self._read_scored(self._logprob_decoder, ended=ended)
        else:
            yield Piece(self._text.read(ended=ended, most=TEXT_PART))
            while self._text.unread:
                yield Piece(self._text.read(ended=ended, most=TEXT_PART))
        if ended and self._stop_text:
            yield Piece(self._stop_text)
            self._stop_text = ""

    def _read_scored(self, decoder: LogprobDecoder, *, ended: bool) -> Iterator[Piece]:
        before = self._text.shown
        text = self._text.read(ended=ended)
        starts = self._text.starts(self._read_tokens, ended=ended)
        if not starts:
            yield Piece(text)
        first, self._read_tokens = self._read_tokens, self._read_tokens + len(starts)
        taken = begin = 0
        while begin < len(starts):
            part = starts[begin : _part_end(starts, begin)]
            following = starts[begin + len(part) : begin + len(part) + 1]
            end = max(taken, following[0] - before) if following else len(text)
            span = slice(first + begin, first + begin + len(part))
            scored = decoder.decode(self.tokens[span], self.logprobs[span], part)
            yield Piece(text[taken:end], list(scored))
            taken, begin = end, begin + len(part)


def _part_end(starts: Sequence[int], begin: int) -> int:
    """Where a part of an answer's tokens ends: behind the last token of a character."""
    end = min(begin + SCORED_PART, len(starts))
    while end < min(len(starts), begin + MAX_HELD_TOKENS) and starts[end] == starts[end - 1]:
        end += 1
    return end
