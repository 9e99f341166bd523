"""What an engine did, added up."""


class Work:
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
