"""A request in a simulated engine, and the engine's totals."""

from math import nan

from gateway.scheduling.requests import QueuedRequest, RunningSequence


class SimulatedSequence:
    """A sequence as the engine sees it, and its true length `tokens`, which only the replay knows.

    While it decodes, after i steps of the engine it has i + `length_offset` tokens, and `generated`
    and `computed` keep their values from before. `epoch` counts the starts and stops of decoding;
    heap entries of an earlier epoch are stale.
    """

    __slots__ = ("arrival", "computed", "decoding", "ended", "epoch", "first_token_s", "generated",
                 "index", "length_offset", "max_tokens", "preemptions", "prompt_tokens", "request",
                 "reserved", "swapped", "tokens")  # fmt: skip

    def __init__(self, index: int, request: QueuedRequest, tokens: int, reserved: int) -> None:
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

    def generated_at(self, step: int) -> int:
        """Tokens generated after `step` steps of the engine."""
        if self.decoding:
            return step + self.length_offset - self.prompt_tokens
        return self.generated

    def as_running(self, step: int) -> RunningSequence:
        """What the gateway knows of it after `step` steps of the engine."""
        request = self.request
        generated = min(self.generated_at(step), self.tokens)
        return RunningSequence(
            request.id, request.prompt_tokens, generated, request.quantiles, request.max_tokens
        )


class EngineStatistics:
    """Steps, tokens and seconds of an engine since its start.

    `recomputed_tokens` had been computed before their sequence was preempted. `invalid_tokens` were
    generated in lock step after the end of their answer; `splits` counts the lock-step batches that
    ran out of memory. `page_seconds` is the integral of the pages in use over the time of steps.
    """

    __slots__ = ("busy_s", "computed_tokens", "invalid_tokens", "page_seconds", "preemptions",
                 "recomputed_tokens", "splits", "steps")  # fmt: skip

    def __init__(self) -> None:
        self.steps = 0
        self.preemptions = 0
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
