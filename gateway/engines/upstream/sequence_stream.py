"""One sequence at a server: its tokens so far, its attempts, and how an answer becomes tokens."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final

from engine.protocol import Finish, FinishReason, Sequence, TokenLogprobs
from gateway.engines.upstream.dialects import Chunk, Dialect, Work
from gateway.engines.upstream.failures import RequestRefused, StreamBroken
from gateway.engines.upstream.local_model import LocalModel, TokenCodec
from gateway.engines.upstream.server import UpstreamServer

MAX_FAILURES: Final = 4  # in a row without a token
BACKOFF_S: Final = (0.1, 0.5, 2.0, 5.0)
ESTIMATE_MARGIN: Final = 64  # tokens: text is encoded in other tokens than it was generated in
END_S: Final = 1.0  # between an answer's end and its stream's, which frees the connection
ENDS: Final[Mapping[str, FinishReason]] = {"stop": "stop", "length": "length"}


class SequenceStream:
    """A sequence that a server is to run, with what it has generated.

    `order` is its place among those submitted. `started_s` is when its present attempt began,
    `heard_s` when its last event came, `failing_s` when the first of the failed attempts ended that
    followed each other without a token. `fresh` and `scored` were not reported yet. Its tokens come
    `at_once` together at most; the last one was that of the server's step `step`.
    """

    def __init__(self, sequence: Sequence, order: int) -> None:
        self.sequence = sequence
        self.order = order
        self.preempt_first = sequence.preempt_first
        self.held = list(sequence.generated)
        self.fresh: list[int] = []
        self.scored: list[TokenLogprobs] = []
        self._text = ""  # the end of the text that has come, whose tokens are not certain
        self.started_s = self.heard_s = 0.0
        self.at_once = 1
        self.step: int | None = None
        self.running = False  # its first token has come, and not its end
        self.suspended = False
        self.busy_since_s: float | None = None
        self.failures = 0
        self.failing_s = 0.0
        self.deadline: asyncio.Timeout | None = None  # of its attempt, which it ends at once
        self.task: asyncio.Task[None] | None = None

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values the server keeps, as far as they have come."""
        return len(self.sequence.prompt) + len(self.held)

    @property
    def rank(self) -> tuple[int, int]:
        """What starts first has the lowest."""
        return self.preempt_first, self.order

    def take(self) -> list[int]:
        """The tokens not reported yet, which they are now."""
        tokens, self.fresh = self.fresh, []
        return tokens

    def failed(self, now_s: float) -> float | None:
        """Note a failed attempt; returns how long to wait before the next, None for no more."""
        if not self.failures:
            self.failing_s = now_s
        self.failures += 1
        return BACKOFF_S[self.failures - 1] if self.failures <= MAX_FAILURES else None

    async def run(
        self,
        server: UpstreamServer,
        dialect: Dialect,
        model: LocalModel,
        fields: Mapping[str, Any],
        headers: Mapping[str, str],
        heard: Callable[["SequenceStream"], None],
    ) -> Finish:
        """Run it at the server, from the tokens that it has, and return its end.

        `fields` and `headers` are hints. `heard` is called after each event. Errors as of
        `UpstreamServer.events`.
        """
        sequence, self._text = self.sequence, ""
        from_start = sequence.grammar is not None
        work = Work(sequence, list(self.held), from_start=from_start, at_once=self.at_once)
        if work.max_tokens < 1:
            return Finish(sequence.id, "length")
        replayed = len(self.held) if work.from_start else 0
        prompt_tokens = len(work.prompt)
        body = {**dialect.body(work), **fields}
        async with (
            server.events(dialect.path, body, headers, prompt_tokens) as events,
            aclosing(events),
        ):
            async for data in events:
                chunk = dialect.read(data, work)
                if chunk is None:
                    continue
                replayed, end = self._taken(chunk, model, replayed)
                heard(self)
                if end is not None:
                    self.running = False
                    if chunk.finish is not None:
                        await _drain(events)
                    return end
        raise StreamBroken("the server ended the stream before the answer's end", connection=True)

    def _taken(self, chunk: Chunk, model: LocalModel, replayed: int) -> tuple[int, Finish | None]:
        """Take an event up; returns how many tokens are still generated again, and the end."""
        sequence = self.sequence
        exact = chunk.tokens is not None and not self._text
        tokens = (chunk.tokens or []) if exact else self._encoded(chunk, model.codec)
        if exact and any(not 0 <= token < model.vocabulary for token in tokens):
            wrong = next(token for token in tokens if not 0 <= token < model.vocabulary)
            raise RequestRefused(
                f"the server generated token id {wrong}, and the vocabulary of LMAAS_MODEL has "
                f"{model.vocabulary}: it is not the model that the server runs"
            )
        stop_id = next((t for t in tokens if t in sequence.stop_ids), None) if exact else None
        if stop_id is not None:
            tokens = tokens[: tokens.index(stop_id)]
        if replayed:
            again = min(replayed, len(tokens))
            place = len(self.held) - replayed
            if tokens[:again] != self.held[place : place + again]:
                raise RequestRefused(
                    "its stream broke, and the server did not generate the same text again; "
                    "within a grammar it cannot go on from where it was"
                )
            tokens, replayed = tokens[again:], replayed - again
            chunk.logprobs = chunk.logprobs[again:]
        room = max(sequence.max_tokens - len(self.held), 0)
        surplus = len(tokens) > (room if exact else room + ESTIMATE_MARGIN)
        if exact:
            tokens = tokens[:room]
        if tokens:
            self.failures = 0
            self.held += tokens
            self.fresh += tokens
            self.scored += self._scores(chunk.logprobs, len(tokens))
        end = self._end(chunk, stop_id)
        if end is None and surplus:
            return replayed, Finish(sequence.id, "length")  # it would go on for ever
        return replayed, end

    def _scores(self, scores: list[TokenLogprobs], count: int) -> list[TokenLogprobs]:
        """One score for each of `count` tokens, if they are wanted: the last one stands in for
        those that the server did not send, of tokens within a character.
        """
        if self.sequence.sampling.logprobs is None:
            return []
        missing = count - len(scores)
        return [*scores[:count], *(scores[-1:] or [TokenLogprobs(0.0)]) * max(missing, 0)]

    def _encoded(self, chunk: Chunk, codec: TokenCodec) -> list[int]:
        """Tokens of the text; the last one waits for the next piece, which may belong to it."""
        text = self._text + chunk.text
        tokens, self._text = codec.encode(text), ""
        if chunk.finish is not None or not tokens:
            return tokens
        written = text.encode()
        for kept in range(len(tokens) - 1, -1, -1):
            with suppress(UnicodeDecodeError):
                self._text = written[len(codec.spelled(tokens[:kept])) :].decode()
                return tokens[:kept]
        return tokens

    def _end(self, chunk: Chunk, stop_id: int | None) -> Finish | None:
        name = self.sequence.id
        if stop_id is not None:
            return Finish(name, "stop", stop_id=stop_id)
        if chunk.finish is None:
            return None
        if chunk.finish not in ENDS:
            raise StreamBroken(f"the server ended the answer with {chunk.finish[:50]!r}")
        return Finish(name, ENDS[chunk.finish])


async def _drain(events: AsyncIterator[bytes]) -> None:
    """Read what is left of a stream, so that its connection can be used again."""
    try:
        async with asyncio.timeout(END_S):
            async for _ in events:
                pass
    except (TimeoutError, StreamBroken):
        return
