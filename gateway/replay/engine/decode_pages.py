"""The pages that decoding sequences take, step by step, for all of them together."""


class DecodePages:
    """The number of decoding sequences, the KV tokens they read, and the pages of future steps.

    A sequence is given by its `length_offset`: before step i it has i + length_offset tokens, all
    but the last of them in pages. So it takes a page every `page_tokens` steps, in the same steps
    as all sequences of the same phase: step modulo `page_tokens`.
    """

    __slots__ = ("_offset_sum", "_page_tokens", "_sequences_by_phase", "count")

    def __init__(self, page_tokens: int) -> None:
        self.count = 0
        self._page_tokens = page_tokens
        self._offset_sum = 0
        self._sequences_by_phase = [0] * page_tokens  # those that take a page in these steps

    def add(self, length_offset: int) -> None:
        """Add a sequence that starts to decode."""
        self.count += 1
        self._offset_sum += length_offset
        self._sequences_by_phase[(1 - length_offset) % self._page_tokens] += 1

    def remove(self, length_offset: int) -> None:
        """Remove a sequence that stops decoding."""
        self.count -= 1
        self._offset_sum -= length_offset
        self._sequences_by_phase[(1 - length_offset) % self._page_tokens] -= 1

    def kv_tokens(self, step: int) -> int:
        """KV tokens read in a step by all sequences, including the new tokens."""
        return self._offset_sum + self.count * step

    def new_pages(self, step: int) -> int:
        """Pages taken in a step by all sequences."""
        return self._sequences_by_phase[step % self._page_tokens]

    def new_pages_over(self, step: int, steps: int) -> int:
        """Pages taken in `steps` steps from `step` on."""
        cycles, rest = divmod(steps, self._page_tokens)
        start = step % self._page_tokens
        end = start + rest
        by_phase = self._sequences_by_phase
        pages = cycles * self.count + sum(by_phase[start:end])
        if end > self._page_tokens:
            pages += sum(by_phase[: end - self._page_tokens])
        return pages

    def steps_that_fit(self, step: int, free: int, max_steps: int) -> int:
        """The steps from `step` on, at most `max_steps`, for which `free` pages suffice."""
        if not self.count or self.count * -(-max_steps // self._page_tokens) <= free:
            return max_steps
        cycles = free // self.count
        free -= cycles * self.count
        steps = cycles * self._page_tokens
        while steps < max_steps:
            free -= self._sequences_by_phase[(step + steps) % self._page_tokens]
            if free < 0:
                break
            steps += 1
        return min(steps, max_steps)
