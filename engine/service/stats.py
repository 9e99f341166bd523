"""What the engine counts, for `GET /stats`."""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.protocol import Finish


@dataclass
class Stats:
    """Totals since the engine started; written by the step loop, read by anyone."""

    steps: int = 0
    computed_tokens: int = 0  # run through the model, again after a preemption too
    generated_tokens: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    preemptions: int = 0
    extensions: int = 0
    shrinks: int = 0
    step_s: float = 0.0  # the last step, from the end of the one before where that overlapped
    steps_s: float = 0.0  # all steps together, of which:
    forward_s: float = 0.0  # model and sampling
    copy_s: float = 0.0  # pages moved before the model ran
    idle_s: float = 0.0  # the model waited for its step
    compose_s: float = 0.0  # beside the step before
    pack_s: float = 0.0  # beside the step before

    def ended(self, finishes: Iterable[Finish]) -> None:
        """Count sequences that ended, by how they did."""
        for finish in finishes:
            self.finished += finish.reason in {"stop", "length"}
            self.failed += finish.reason == "error"
            self.cancelled += finish.reason == "cancelled"
