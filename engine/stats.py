"""What the engine counts, for `GET /stats`."""

from dataclasses import dataclass


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
    step_s: float = 0.0  # the last step
    steps_s: float = 0.0  # all steps together
    forward_s: float = 0.0  # of these, in the model and sampling
