"""The engine's counters, for `GET /stats`."""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.protocol import Finish


@dataclass
class Stats:
    """Totals since the start; written by the step loop, read from any thread."""

    steps: int = 0
    small_steps: int = 0  # that computed less than a quarter of the tokens that a step may have
    computed_tokens: int = 0  # run through the model, recomputed ones included
    generated_tokens: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    preemptions: int = 0
    returned_batches: int = 0  # lock-step batches that ran out of memory
    swaps: int = 0  # preempted sequences copied to host memory; the others are recomputed
    fetched_bytes: int = 0  # to the device, by sequences in host memory
    extensions: int = 0
    shrinks: int = 0
    pins_made: int = 0
    pins_lost: int = 0  # released, or not made, for lack of memory
    background_held: int = 0  # decoding background sequences left out of a step
    step_s: float = 0.0  # the last step, from the end of the previous one if they overlapped
    steps_s: float = 0.0  # all steps, consisting of:
    forward_s: float = 0.0  # model and sampling
    copy_s: float = 0.0  # page copies before the model runs
    idle_s: float = 0.0  # the model waits for its step
    compose_s: float = 0.0  # overlaps with the previous step
    pack_s: float = 0.0  # overlaps with the previous step

    def ended(self, finishes: Iterable[Finish]) -> None:
        """Count ended sequences by reason."""
        for finish in finishes:
            self.finished += finish.reason in {"stop", "length"}
            self.failed += finish.reason == "error"
            self.cancelled += finish.reason == "cancelled"
