"""Where a request's time went: its wait, its prompt, its answer, and preemptions."""

from msgspec import Struct


class RequestTimes(Struct, frozen=True, kw_only=True):
    """The parts of the time from a request's arrival to its end, or to now; they add up to it.

    `waited_s` passed until its start, `prefill_s` until its first token, and `running_s` since,
    while it shared the engine's steps with others. `preempted_s` of these it was suspended, as its
    memory was needed; that time is in no other part.
    """

    waited_s: float
    prefill_s: float
    running_s: float
    preempted_s: float

    @property
    def total_s(self) -> float:
        """The sum of all parts."""
        return self.waited_s + self.prefill_s + self.running_s + self.preempted_s


def request_times(
    response_s: float,
    *,
    queued_s: float | None,
    first_token_s: float | None,
    preempted_s: float | None,
) -> RequestTimes:
    """The parts, from times counted from the arrival; None for what did not happen.

    Preemption is taken to have come after the first token, as far as there was time.
    """
    waited_s = response_s if queued_s is None else min(queued_s, response_s)
    began_s = response_s if first_token_s is None else min(first_token_s, response_s)
    prefill_s = max(began_s - waited_s, 0.0)
    running_s = response_s - waited_s - prefill_s
    lost_s = min(max(preempted_s or 0.0, 0.0), prefill_s + running_s)
    from_running_s = min(lost_s, running_s)
    return RequestTimes(
        waited_s=waited_s,
        prefill_s=prefill_s - (lost_s - from_running_s),
        running_s=running_s - from_running_s,
        preempted_s=lost_s,
    )
