"""How evenly tenants, apps or users were served (VTC, OSDI 2024, arXiv 2401.00588)."""

from typing import Final, Protocol

import numpy as np

from benchmarks.s4.traffic import compared
from gateway.quantiles import Bools, Floats
from gateway.replay.workload.workload import Workload
from gateway.scheduling.requests import GENERATED_TOKEN_WEIGHT

SAMPLES: Final = 2_000


class ServiceTimes(Protocol):
    """When each request started, had its first token and ended, (n,): in a replay or live."""

    dispatched_s: Floats
    first_token_s: Floats
    finished_s: Floats


def largest_gap(workload: Workload, results: ServiceTimes) -> float:
    """The largest difference of service between those compared, while all had a backlog.

    Tenants, or the apps or users of one (`compared`); in prompt tokens. A request is served its
    prompt when it has its first token, and its answer evenly from then to its end.
    """
    times = np.linspace(*backlogged(workload, results), SAMPLES)
    whose = compared(workload)[1]
    served = [_served(workload, results, whose == each, times) for each in range(whose.max() + 1)]
    gaps = [
        np.ptp(one - other) for place, one in enumerate(served) for other in served[place + 1 :]
    ]
    return float(max(gaps))


def backlogged(workload: Workload, results: ServiceTimes) -> tuple[float, float]:
    """From when and until when requests of all that are compared waited."""
    begins, ends = [], []
    whose = compared(workload)[1]
    for each in range(whose.max() + 1):
        own = whose == each
        dispatched, arrived = np.sort(results.dispatched_s[own]), workload.arrived_s[own]
        # Before each arrival, the requests that have come and not been dispatched.
        waiting = np.arange(len(arrived)) - np.searchsorted(dispatched, arrived)
        empty = arrived[waiting == 0]
        begins.append(float(empty.max()))
        ends.append(float(dispatched[-1]))
    return max(begins), min(ends)


def bound(workload: Workload, pool_tokens: int) -> float:
    """Twice what one tenant may be ahead (VTC, theorem 4.4), in prompt tokens."""
    longest = float(workload.prompt_tokens.max())
    return 2 * max(longest, GENERATED_TOKEN_WEIGHT * pool_tokens)


def _served(workload: Workload, results: ServiceTimes, own: Bools, times: Floats) -> Floats:
    """The service that these requests have had at each of these times: (len(times),)."""
    own = own & np.isfinite(results.finished_s)
    first, last = results.first_token_s[own], results.finished_s[own]
    prompt, answer = workload.prompt_tokens[own], workload.generation_tokens[own]
    order = np.argsort(first)
    prompts = np.concatenate(([0.0], np.cumsum(prompt[order])))
    found: Floats = prompts[np.searchsorted(first[order], times, side="right")]
    share = np.clip(
        (times[:, None] - first[None, :]) / np.maximum(last - first, 1e-9)[None, :], 0.0, 1.0
    )
    found += GENERATED_TOKEN_WEIGHT * (share @ answer.astype(np.float64))
    return found
