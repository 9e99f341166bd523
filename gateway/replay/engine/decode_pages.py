"""Sequences that decode, as one: each computes a token more every step, and keeps it."""


class DecodePages:
    """How many decode, the KV tokens they read, and the pages they take in each step to come.

    A sequence is known by its `lead`: at step i it has i + lead tokens, all but the last of them
    in pages. So it takes a page every `page_tokens` steps, and whoever shares that phase does too.
    """

    __slots__ = ("_due", "_leads", "_page_tokens", "count")

    def __init__(self, page_tokens: int) -> None:
        self.count = 0
        self._page_tokens = page_tokens
        self._leads = 0
        self._due = [0] * page_tokens  # sequences that take a page, by step modulo page_tokens

    def add(self, lead: int) -> None:
        """A sequence decodes from now on."""
        self.count += 1
        self._leads += lead
        self._due[(1 - lead) % self._page_tokens] += 1

    def remove(self, lead: int) -> None:
        """A sequence does not decode any more."""
        self.count -= 1
        self._leads -= lead
        self._due[(1 - lead) % self._page_tokens] -= 1

    def kv_tokens(self, step: int) -> int:
        """KV tokens that all read in a step, the new ones included."""
        return self._leads + self.count * step

    def due(self, step: int) -> int:
        """Pages that all take in a step."""
        return self._due[step % self._page_tokens]

    def taken(self, step: int, steps: int) -> int:
        """Pages that all take in `steps` steps from `step` on."""
        cycles, rest = divmod(steps, self._page_tokens)
        start = step % self._page_tokens
        end = start + rest
        due = self._due
        pages = cycles * self.count + sum(due[start:end])
        return pages + sum(due[: end - self._page_tokens]) if end > self._page_tokens else pages

    def steps_within(self, step: int, free: int, most: int) -> int:
        """How many of the next `most` steps find their pages among `free` ones, from `step` on."""
        if not self.count or self.count * -(-most // self._page_tokens) <= free:
            return most
        cycles = free // self.count
        free -= cycles * self.count
        steps = cycles * self._page_tokens
        while steps < most:
            free -= self._due[(step + steps) % self._page_tokens]
            if free < 0:
                break
            steps += 1
        return min(steps, most)
