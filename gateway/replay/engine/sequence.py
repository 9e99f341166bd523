"""A request in a simulated engine, and the engine's totals."""

from math import nan

from gateway.replay.engine.prefix_pages import CachedPages
from gateway.scheduling.requests import QueuedRequest, RunningSequence, SharedPrefix


class SimulatedSequence:
    """A sequence as the engine sees it, and its true length `tokens`, which only the replay knows.

    While it decodes, after i steps of the engine it has i + `length_offset` tokens, and `generated`
    and `computed` keep their values from before. `epoch` counts the starts and stops of decoding;
    heap entries of an earlier epoch are stale.

    `prefix` is what its prompt has in common with others, known to the gateway or not. It reads
    `prefix_pages` pages of it, of which `shared_pages` stay when it leaves.
    """

    __slots__ = ("arrival", "background", "cacheable", "cached_pages", "computed", "decoding",
                 "ended", "epoch", "first_token_s", "generated", "index", "known_tokens",
                 "length_offset", "lost_tokens", "max_tokens", "preemptions", "prefix",
                 "prefix_pages", "prompt_tokens", "request", "reserved", "reused_tokens",
                 "sampled_step", "shared_pages", "swapped", "tokens")  # fmt: skip

    def __init__(
        self,
        index: int,
        request: QueuedRequest,
        tokens: int,
        reserved: int,
        prefix: SharedPrefix | None = None,
    ) -> None:
        self.index = index
        self.request = request
        self.tokens = tokens
        self.prompt_tokens = max(request.prompt_tokens, 1)
        self.max_tokens = request.max_tokens
        self.reserved = max(min(reserved, request.max_tokens), 1)
        self.arrival = 0  # its number in order of submission
        self.generated = 0
        self.computed = 0
        self.swapped = 0  # tokens on the host
        self.length_offset = 0
        self.decoding = False
        self.ended = False
        self.epoch = 0
        self.preemptions = 0
        self.first_token_s = nan
        self.background = request.lane == "batch"
        self.prefix = prefix
        self.prefix_pages = 0
        self.shared_pages = 0
        self.cacheable = True  # its full pages are kept for others
        self.known_tokens = 0  # when it began to decode; later ones are known a step after
        self.cached_pages: CachedPages | None = None  # its own pages, after a preemption
        self.sampled_step = -1  # before which it was preempted while a token was sampled
        self.lost_tokens = 0  # computed before the last preemption
        self.reused_tokens = 0  # of the prompt: others had computed them when it first ran

    def reserve_next(self) -> None:
        """Extend an outgrown reservation by the next token, before it starts again."""
        self.reserved = max(self.reserved, min(self.generated + 1, self.max_tokens))

    def generated_at(self, step: int) -> int:
        """Tokens generated after `step` steps of the engine."""
        if self.decoding:
            return step + self.length_offset - self.prompt_tokens
        return self.generated

    def as_running(self, step: int, engine: int = 0) -> RunningSequence:
        """What the gateway knows of it after `step` steps of its engine, number `engine`."""
        request = self.request
        generated = min(self.generated_at(step), self.tokens)
        return RunningSequence(
            request.id,
            request.prompt_tokens,
            generated,
            request.quantiles,
            request.max_tokens,
            lane=request.lane,
            prefix=request.prefix,
            engine=engine,
        )


class EngineStatistics:
    """Steps, tokens and seconds of an engine since its start.

    `recomputed_tokens` had been computed before their sequence was preempted. `invalid_tokens` were
    generated in lock step after the end of their answer; `splits` counts the lock-step batches that
    ran out of memory. `page_seconds` is the integral of the pages in use over the time of steps.
    `background_preemptions` are those of batch jobs' sequences, part of `preemptions`; `held_rows`
    counts, step by step, their decoding sequences that were left out.
    """

    __slots__ = ("background_preemptions", "busy_s", "computed_tokens", "held_rows",
                 "invalid_tokens", "page_seconds", "pins_lost", "preemptions", "recomputed_tokens",
                 "splits", "steps")  # fmt: skip

    def __init__(self) -> None:
        self.steps = 0
        self.preemptions = 0
        self.background_preemptions = 0
        self.held_rows = 0
        self.pins_lost = 0
        self.splits = 0
        self.computed_tokens = 0
        self.recomputed_tokens = 0
        self.invalid_tokens = 0
        self.busy_s = 0.0
        self.page_seconds = 0.0

    def add(self, steps: int, seconds: float, first_pages: int, last_pages: int) -> None:
        """Add steps of `seconds` in all, over which the pages in use grew linearly."""
        self.steps += steps
        self.busy_s += seconds
        self.page_seconds += seconds * (first_pages + last_pages) / 2
