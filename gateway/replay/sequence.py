"""One request in a simulated engine."""

from math import nan

from gateway.scheduling.waiting import Running, Waiting


class SimulatedSequence:
    """What an engine knows of a sequence, and the length it will have, which only the replay knows.

    While it decodes it is `lead` tokens longer than steps have been done, and `generated` and
    `computed` are as they were before. `spell` counts how often that began or ended.
    """

    __slots__ = ("arrival", "computed", "decoding", "ended", "first_token_s", "generated", "lead",
                 "max_tokens", "place", "preemptions", "prompt_tokens", "request", "reserved",
                 "spell", "swapped", "tokens")  # fmt: skip

    def __init__(self, place: int, request: Waiting, tokens: int, reserved: int) -> None:
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

    def known(self, step: int) -> Running:
        """What a gateway knows of it once so many steps have been done."""
        request = self.request
        generated = min(self.generated_at(step), self.tokens)
        return Running(
            request.id, request.prompt_tokens, generated, request.quantiles, request.max_tokens
        )
