"""One request in a simulated engine, and what the engine did for all of them."""

from math import nan

from gateway.scheduling.requests import QueuedRequest, RunningSequence


class SimulatedSequence:
    """What an engine knows of a sequence, and the length it will have, which only the replay knows.

    While it decodes it is `lead` tokens longer than steps have been done, and `generated` and
    `computed` are as they were before. `spell` counts how often that began or ended.
    """

    __slots__ = ("arrival", "computed", "decoding", "ended", "first_token_s", "generated", "lead",
                 "max_tokens", "place", "preemptions", "prompt_tokens", "request", "reserved",
                 "spell", "swapped", "tokens")  # fmt: skip

    def __init__(self, place: int, request: QueuedRequest, tokens: int, reserved: int) -> None:
        self.place = place
        self.request = request
        self.tokens = tokens
        self.prompt_tokens = max(request.prompt_tokens, 1)
        self.max_tokens = request.max_tokens
        self.reserved = max(min(reserved, request.max_tokens), 1)
        self.arrival = 0  # numbers sequences in submit order
        self.generated = 0
        self.computed = 0
        self.swapped = 0  # tokens on the host
        self.lead = 0
        self.decoding = False
        self.ended = False
        self.spell = 0
        self.preemptions = 0
        self.first_token_s = nan

    def generated_at(self, step: int) -> int:
        """Tokens generated once so many steps have been done."""
        if self.decoding:
            return step + self.lead - self.prompt_tokens
        return self.generated

    def known(self, step: int) -> RunningSequence:
        """What a gateway knows of it once so many steps have been done."""
        request = self.request
        generated = min(self.generated_at(step), self.tokens)
        return RunningSequence(
            request.id, request.prompt_tokens, generated, request.quantiles, request.max_tokens
        )


class EngineStatistics:
    """Steps, tokens and seconds of an engine since it began.

    `recomputed_tokens` were computed before, and lost when their sequence was preempted.
    `page_seconds` are the pages held while steps ran, each counted for as long as it was.
    """

    __slots__ = ("busy_s", "computed_tokens", "page_seconds", "preemptions", "recomputed_tokens",
                 "steps")  # fmt: skip

    def __init__(self) -> None:
        self.steps = 0
        self.preemptions = 0
        self.computed_tokens = 0
        self.recomputed_tokens = 0
        self.busy_s = 0.0
        self.page_seconds = 0.0

    def add(self, steps: int, seconds: float, first_pages: int, last_pages: int) -> None:
        """Steps that took so long, between which memory grew evenly."""
        self.steps += steps
        self.busy_s += seconds
        self.page_seconds += seconds * (first_pages + last_pages) / 2
