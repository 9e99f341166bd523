"""Counts a server's steps by the tokens of its streams: each step gives every one of them one."""

from collections.abc import Collection, Iterable
from typing import Final

from msgspec import Struct

from engine.protocol import StepWork
from gateway.engines.upstream.sequence_stream import SequenceStream

PACE_DECAY: Final = 0.9  # of what is known of a step's time, per step
MOST_AT_ONCE: Final = 16
LATEST_S: Final = 1.0  # tokens that come together are at most about this late


class CountedSteps(Struct, frozen=True):
    """Steps that have passed, the time they took, and what was computed in them."""

    steps: int
    took_s: float
    work: StepWork


class StepCounter:
    """Knows how far the server is by the stream that is furthest, and how far each stream is.

    A stream that delivers several tokens at once shows several steps. So that single steps are
    known as well, one stream of those that start delivers each token by itself. Until one does,
    the place of a stream that starts is estimated by the time of recent steps.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._pace_s: float | None = None  # of a step, of late
        self._counted_s = self._seen_s = 0.0
        self._prompts: list[int] = []  # tokens of each computed since the last count
        self._row_s = self._token_s = 0.0  # sequences, and their KV tokens, times their time

    def begin(self, now_s: float) -> None:
        """The server had nothing to do: its next step begins now."""
        self._counted_s = self._seen_s = now_s
        self._prompts.clear()
        self._row_s = self._token_s = 0.0

    def at_once(self, others: Iterable[SequenceStream]) -> int:
        """How many tokens may come together of a stream that starts next to these."""
        if self._pace_s is None or all(other.at_once > 1 for other in others):
            return 1
        return min(max(int(LATEST_S / self._pace_s), 1), MOST_AT_ONCE)

    def on_the_way(self, stream: SequenceStream) -> int:
        """Tokens that the server has generated, as far as is known, and not delivered."""
        if stream.step is None:
            return 0
        return min(max(self._steps - stream.step, 0), stream.at_once - 1)

    def count(
        self,
        now_s: float,
        grown: Collection[SequenceStream],
        first: Collection[SequenceStream],
        running: Iterable[SequenceStream],
    ) -> CountedSteps | None:
        """The steps since the last count; None if that is not known yet, or there were none.

        `grown` have new tokens, `first` of them their first ones; `running` have their first token.
        """
        begun = set(first)
        going = {*running, *grown} - begun
        self._prompts += [stream.kv_tokens - len(stream.fresh) for stream in begun]
        since_s, self._seen_s = now_s - self._seen_s, now_s
        self._row_s += since_s * len(going)
        self._token_s += since_s * sum(stream.kv_tokens for stream in going)
        ends = [s.step + len(s.fresh) for s in grown if s.step is not None and s not in begun]
        ahead = [end for end in ends if end > self._steps]
        if ahead:
            steps = round(sum(ahead) / len(ahead)) - self._steps
        elif going:
            steps = 0
        else:
            steps = max((len(stream.fresh) for stream in begun), default=0)
        self._steps += steps
        unseen = 0 if steps else self._unseen(now_s, going)
        for stream in grown:
            stream.step = self._steps + (unseen if stream in begun else 0)
        return self._counted(steps, now_s) if steps else None

    def _unseen(self, now_s: float, going: Collection[SequenceStream]) -> int:
        """The steps that have probably passed since the last count: no stream has shown them."""
        if self._pace_s is None:
            return 0
        most = min((stream.at_once for stream in going), default=1) - 1
        return min(round((now_s - self._counted_s) / self._pace_s), most)

    def _counted(self, steps: int, now_s: float) -> CountedSteps:
        took_s, self._counted_s = now_s - self._counted_s, now_s
        share = steps / took_s if took_s > 0 else 0.0
        prompts, rows = self._prompts, round(share * self._row_s)
        work = StepWork(
            prompt_tokens=sum(prompts),
            prompt_reads=sum(length * length / 2 for length in prompts),
            sequences=rows,
            kv_tokens=round(share * self._token_s),
        )
        self._prompts, self._row_s, self._token_s = [], 0.0, 0.0
        kept = 0.0 if self._pace_s is None else PACE_DECAY**steps
        self._pace_s = kept * (self._pace_s or 0.0) + (1 - kept) * took_s / steps
        return CountedSteps(steps, took_s, work)
