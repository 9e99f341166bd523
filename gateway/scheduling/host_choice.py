"""Whether a request runs in host memory now, or waits for the device: what delays all less in sum.

A request that the device has no room for, next to what runs, can wait until enough of that has
ended. Or it runs at once with its keys and values in host memory: then it takes nothing of the
device's memory, but every step takes longer while it runs. Both are delays in seconds, by costs of
the engine at hand.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.admission.page_forecast import (
    INTERVAL_STARTS,
    interval_count,
    page_use_ahead,
)
from gateway.scheduling.admission.prices import EngineCost
from gateway.scheduling.host_lane import HostLane
from gateway.scheduling.lmaas.cost import expected_length
from gateway.scheduling.requests import QueuedRequest, RunningSequence


class StepTimes(NamedTuple):
    """Seconds of a step now, and what one more sequence adds: on the device, and on the host."""

    now_s: float
    on_device_s: float
    on_host_s: float


class Delays(NamedTuple):
    """By how long all requests are later, in sum: if one waits, and if it runs on the host."""

    waiting_s: float
    on_host_s: float

    @property
    def host_pays(self) -> bool:
        """Whether the host delays less."""
        return self.on_host_s < self.waiting_s


def compare(
    request: QueuedRequest,
    running: Sequence[RunningSequence],
    capacity: Capacity,
    cost: EngineCost,
    lane: HostLane,
    queued: int,
    like_it: int = 0,
) -> Delays | None:
    """The delays of a request that does not fit the device next to `running`, at least one.

    `queued` requests wait behind it; `like_it` of them may run on the host, too. As far as there is
    room for them, they share what the first one there costs. None if this one may not run there, or
    its cost is unknown.
    """
    costs = lane.costs
    if costs is None or request.host is None or request.host not in costs.rows:
        return None
    row = costs.rows[request.host]
    length = expected_length(request.quantiles, request.max_tokens).mean
    context = request.prompt_tokens + length / 2
    held = sum(sequence.kv_tokens for sequence in running)
    device_s = cost.step_time.seconds(0, len(running), held)
    wider_s = cost.step_time.seconds(0, len(running) + 1, held + context)
    first_s = lane.first_s(request.host, device_s) / max(
        min(1 + like_it, lane.room_for(request)), 1
    )
    pages = capacity.pages_for(request.prompt_tokens + length)
    return delays(
        StepTimes(
            device_s + lane.added_s(device_s),
            max(wider_s - device_s, 0.0),
            row.seconds(context) + first_s,
        ),
        length=length,
        prompt_s=costs.fetch_s * fetched_by_prompt(request.prompt_tokens, cost.step_tokens),
        wait_steps=steps_until_room(running, pages, capacity),
        on_device=len(running),
        on_host=lane.running,
        queued=queued,
    )


def delays(
    step: StepTimes,
    *,
    length: float,
    prompt_s: float,
    wait_steps: float,
    on_device: int,
    on_host: int,
    queued: int,
) -> Delays:
    """The delays of a request of `length` tokens that has to wait `wait_steps` for the device.

    In host memory its prompt takes `prompt_s` longer. The number of those that run stays as it is.
    On the host, each of its steps delays itself, all that run and all that wait. On the device it
    delays those that wait by the time for which it has a place, one of `on_device`, instead.
    """
    others = on_device + on_host
    place_s = step.now_s / on_device
    return Delays(
        waiting_s=wait_steps * step.now_s
        + (1 + others) * length * step.on_device_s
        + queued * length * place_s,
        on_host_s=(1 + others + queued) * (length * step.on_host_s + prompt_s),
    )


def steps_until_room(running: Sequence[RunningSequence], pages: int, capacity: Capacity) -> float:
    """Steps until the expected use of what runs leaves this number of pages for good; at least 1.

    Infinite if it never does.
    """
    count = min(interval_count(capacity.tokens) + 1, len(INTERVAL_STARTS))
    mean, _ = page_use_ahead(running, capacity.page_tokens, count)
    most_from = np.maximum.accumulate(mean.sum(axis=0)[::-1])[::-1]
    found = np.flatnonzero(most_from + pages <= capacity.pages)
    return max(float(INTERVAL_STARTS[found[0]]), 1.0) if len(found) else inf


def fetched_by_prompt(prompt_tokens: int, step_tokens: int) -> int:
    """Tokens that a prompt's parts fetch from host memory: each part all tokens before it."""
    parts = -(-prompt_tokens // step_tokens)
    return step_tokens * parts * (parts - 1) // 2
